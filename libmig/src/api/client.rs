//! The blocking end of the local socket, for `mig` and for tests.
//!
//! Invariant: one request is answered before the next is sent; a connection on
//! which anything failed is not used again by its owner.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use thiserror::Error;

use super::local::{self, FDS_MAX, LocalError, LocalHello, REPLY_MAX, REQUEST_MAX};
use super::{Event, Failure, FromDaemon, Reply};

/// Why the daemon gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the daemon does not answer at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The connection broke or carried nonsense.
    #[error("the conversation with the daemon failed")]
    Talk(#[from] LocalError),
    /// It speaks another protocol.
    #[error(
        "the daemon speaks protocol {theirs}, this mig speaks {}",
        local::PROTOCOL
    )]
    Version {
        /// The daemon's version.
        theirs: u32,
    },
    /// The daemon refused or failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    node: Option<String>,
}

impl Client {
    /// Connects and exchanges hellos.
    ///
    /// # Errors
    /// When nobody listens at `socket` or the versions differ.
    pub fn connect(socket: &Path) -> Result<Client, ClientError> {
        let mut stream = UnixStream::connect(socket).map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
        local::send(&mut stream, &LocalHello::ours(None), REQUEST_MAX)?;
        let hello: LocalHello = local::receive(&mut stream, REPLY_MAX)?;
        if hello.protocol != local::PROTOCOL {
            return Err(ClientError::Version {
                theirs: hello.protocol,
            });
        }
        Ok(Client {
            stream,
            node: hello.node,
        })
    }

    /// The name of the daemon's node.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The connection, for poll(2).
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Asks, and waits for the answer; `on_event` sees the progress.
    ///
    /// # Errors
    /// What the daemon answered, or why it could not.
    pub fn ask(
        &mut self,
        request: &impl Serialize,
        on_event: impl FnMut(Event),
    ) -> Result<Reply, ClientError> {
        local::send(&mut self.stream, request, REQUEST_MAX)?;
        self.answer(on_event)
    }

    /// Like [`Client::ask`]; `fds` (at most [`FDS_MAX`]) travel with the request.
    ///
    /// # Errors
    /// What the daemon answered, or why it could not.
    pub fn ask_with_fds(
        &mut self,
        request: &impl Serialize,
        fds: &[BorrowedFd<'_>],
        on_event: impl FnMut(Event),
    ) -> Result<Reply, ClientError> {
        let bytes = local::encode(request, REQUEST_MAX)?;
        let sent = send_with_fds(&self.stream, &bytes, fds).map_err(LocalError::Io)?;
        self.stream
            .write_all(&bytes[sent..])
            .map_err(LocalError::Io)?;
        self.answer(on_event)
    }

    fn answer(&mut self, mut on_event: impl FnMut(Event)) -> Result<Reply, ClientError> {
        loop {
            match local::receive(&mut self.stream, REPLY_MAX)? {
                FromDaemon::Event(event) => on_event(event),
                FromDaemon::Done(reply) => return Ok(reply),
                FromDaemon::Failed(failure) => return Err(failure.into()),
            }
        }
    }
}

/// Sends the first bytes of a message together with descriptors; returns how
/// many bytes went.
fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}
