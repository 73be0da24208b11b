//! One local connection: hello, then requests one after the other.
//!
//! Invariant: memory for a request grows with what has arrived, at most to
//! REQUEST_MAX; descriptors that come along are at most FDS_MAX, are closed on
//! exec, and are dropped with the request.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, bail};
use libmig::api::local::{self, FDS_MAX, LocalHello, REPLY_MAX, REQUEST_MAX};
use libmig::api::{Code, Failure, FromDaemon, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::{Caller, Events, checkpoint, exec, restore};
use crate::daemon::Daemon;

/// A client has so long for its hello, and for a request once it has begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events that may wait for a slow client.
const EVENTS: usize = 256;

/// Serves one connection until it ends.
pub(super) async fn serve(daemon: &Daemon, stream: UnixStream) -> anyhow::Result<()> {
    let peer = stream
        .peer_cred()
        .context("the kernel does not say who connects")?;
    let caller = Caller {
        uid: peer.uid(),
        hops: 0,
    };
    let mut connection = Connection {
        stream,
        fds: Vec::new(),
    };
    let hello: LocalHello = timeout(PATIENCE, connection.receive(PATIENCE))
        .await
        .context("no hello came")??
        .context("it left without a word")?;
    let node = Some(daemon.node().to_string());
    connection
        .send_raw(&local::encode(&LocalHello::ours(node), REPLY_MAX)?)
        .await?;
    if hello.protocol != local::PROTOCOL {
        // It has our number now and can say so itself.
        bail!("the client speaks protocol {}", hello.protocol);
    }
    loop {
        let request = match connection.receive::<Request>(PATIENCE).await {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => request,
            Err(error) => {
                let failure = Failure::new(Code::Protocol, "the request cannot be understood")
                    .caused_by(format!("{error:#}"));
                connection.send(&FromDaemon::Failed(failure)).await?;
                return Err(error);
            }
        };
        debug!(uid = caller.uid, request = name(&request), "request");
        let fds = std::mem::take(&mut connection.fds);
        let answer = work(daemon, caller, request, fds, &mut connection).await?;
        connection.send(&answer).await?;
    }
}

/// Works on one request while progress and the client's departure are watched.
async fn work(
    daemon: &Daemon,
    caller: Caller,
    request: Request,
    fds: Vec<OwnedFd>,
    connection: &mut Connection,
) -> anyhow::Result<FromDaemon> {
    let (events_in, mut events) = mpsc::channel(EVENTS);
    let events_in = Events::to(events_in);
    let asker = exec::Asker::of(&connection.stream);
    let handle = async {
        match request {
            Request::Exec(request) => {
                let asker = asker.map_err(|error| {
                    Failure::from_error(Code::Host, "the kernel does not say who asks", &error)
                })?;
                exec::handle(daemon, asker, request, fds, &events_in).await
            }
            Request::Checkpoint { target, end } => {
                checkpoint::handle(daemon, caller, (&target, end), fds, &events_in).await
            }
            Request::Restore(request) => {
                let asker = asker.map_err(|error| {
                    Failure::from_error(Code::Host, "the kernel does not say who asks", &error)
                })?;
                restore::handle(daemon, caller, asker, request, fds, &events_in).await
            }
            Request::Attach { target } => exec::attach(daemon, caller, &target).await,
            other => super::handle(daemon, caller, other, &events_in).await,
        }
    };
    let mut handled = std::pin::pin!(handle);
    loop {
        tokio::select! {
            result = &mut handled => {
                while let Ok(event) = events.try_recv() {
                    connection.send(&FromDaemon::Event(event)).await?;
                }
                return Ok(match result {
                    Ok(reply) => FromDaemon::Done(reply),
                    Err(failure) => FromDaemon::Failed(failure),
                });
            }
            Some(event) = events.recv() => connection.send(&FromDaemon::Event(event)).await?,
            // Whoever asked has gone: what runs on a thread of its own ends by
            // itself, a mere wait ends here.
            () = connection.gone() => bail!("the client left before its answer"),
        }
    }
}

/// The stream, and descriptors that came with the message being read.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    fds: Vec<OwnedFd>,
}

impl Connection {
    /// One message; nothing when the client has ended the connection. The
    /// first byte may take for ever, the rest at most `limit`.
    async fn receive<T: DeserializeOwned>(&mut self, limit: Duration) -> anyhow::Result<Option<T>> {
        let mut header = [0; 4];
        let first = self.read(&mut header).await?;
        if first == 0 {
            return Ok(None);
        }
        let rest = async {
            self.read_exact(&mut header[first..]).await?;
            let len = local::body_len(header, REQUEST_MAX)?;
            let mut body = Vec::new();
            while body.len() < len {
                let chunk = (len - body.len()).min(64 << 10);
                let start = body.len();
                body.resize(start + chunk, 0);
                let read = self.read(&mut body[start..]).await?;
                if read == 0 {
                    bail!(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                body.truncate(start + read);
            }
            Ok(local::decode(&body)?)
        };
        timeout(limit, rest)
            .await
            .context("the message came too slowly")?
            .map(Some)
    }

    async fn read_exact(&mut self, mut buffer: &mut [u8]) -> anyhow::Result<()> {
        while !buffer.is_empty() {
            let read = self.read(buffer).await?;
            if read == 0 {
                bail!(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            buffer = &mut buffer[read..];
        }
        Ok(())
    }

    /// Some bytes, and whatever descriptors came with them (SCM_RIGHTS).
    async fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<usize> {
        let Connection { stream, fds } = self;
        let read = stream
            .async_io(Interest::READABLE, || receive_some(stream, buffer, fds))
            .await?;
        if fds.len() > FDS_MAX {
            bail!("more than {FDS_MAX} descriptors came with one request");
        }
        Ok(read)
    }

    async fn send(&mut self, message: &FromDaemon) -> anyhow::Result<()> {
        let bytes = match local::encode(message, REPLY_MAX) {
            Ok(bytes) => bytes,
            Err(error) => {
                let failure = Failure::from_error(Code::Failed, "the answer is too long", &error);
                local::encode(&FromDaemon::Failed(failure), REPLY_MAX)?
            }
        };
        self.send_raw(&bytes).await
    }

    async fn send_raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .context("the client reads nothing")??;
        Ok(())
    }

    /// Returns when the client has closed its end. A client that sends its
    /// next request early is not gone; it is then no longer watched.
    async fn gone(&self) {
        loop {
            let closed = self.stream.async_io(Interest::READABLE, || {
                let mut byte = [0];
                let mut io = [IoSliceMut::new(&mut byte)];
                let mut none = RecvAncillaryBuffer::new(&mut []);
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
                Ok(recvmsg(&self.stream, &mut io, &mut none, flags)?.bytes == 0)
            });
            match closed.await {
                Ok(true) | Err(_) => return,
                Ok(false) => std::future::pending().await,
            }
        }
    }
}

fn receive_some(
    stream: &UnixStream,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut io = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let read = recvmsg(stream, &mut io, &mut ancillary, flags)?.bytes;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(read)
}

/// What is asked, for logs. Never the request whole: an environment holds
/// other people's secrets.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Exec(_) => "exec",
        Request::Attach { .. } => "attach",
        Request::Ps { .. } => "ps",
        Request::Nodes {} => "nodes",
        Request::Move(_) => "move",
        Request::Checkpoint { .. } => "checkpoint",
        Request::Restore(_) => "restore",
        Request::Kill { .. } => "kill",
        Request::Wait { .. } => "wait",
        Request::Why { .. } => "why",
        Request::Where { .. } => "where",
    }
}
