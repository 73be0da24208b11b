//! What is between the ends of TCP connections: what one has received, and what
//! the other one has written and the kernel has not delivered yet.
//!
//! The first is peeked at. The second is shown only in repair mode, in which
//! the program would have no use of its socket: nobody may run meanwhile,
//! whatever becomes of this process. See [`Hold`].

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::RecvFlags;

use crate::{
    capture::files::{FilesError, Hold, table::Found},
    image::FileId,
    inspect::{
        inet_socket::{Inets, Other},
        refusal, unix_socket,
    },
    sys::{
        socket,
        tcp::{Queue, Repair},
    },
};

/// More than the first piece of a send queue may have that is acknowledged already.
const PIECE: usize = 1 << 18;
/// Looks at a queue to which the kernel delivers.
const TRIES: usize = 16;

/// What one end of a connection is to read.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) received: Vec<u8>,
    pub(super) under_way: Vec<u8>,
}

/// The contents of all connections, by the inodes of those who are to read them.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<u32, Contents>);

impl Streams {
    pub(super) fn read(
        all: &Inets,
        ids: &BTreeMap<u32, FileId>,
        files: &[Found],
        hold: &mut dyn Hold,
    ) -> Result<Self, FilesError> {
        let found = |inode: &u32| &files[ids[inode] as usize];
        let mut streams = Self::default();
        let mut busy = Vec::new();
        for (inode, socket) in all.iter() {
            // Who cannot travel is told of when it is captured.
            let Ok(Some(other)) = all.other(socket) else {
                continue;
            };
            let sender = match other {
                Other::Held(peer) => all.get(peer).map(|sender| (peer, sender)),
                _ => None,
            };
            match sender {
                Some((peer, sender)) if !sender.has_reached(socket) => busy.push((peer, inode)),
                _ => {
                    let received = received(found(&inode))?;
                    let under_way = Vec::new();
                    let contents = Contents {
                        received,
                        under_way,
                    };
                    streams.0.insert(inode, contents);
                }
            }
        }
        if !busy.is_empty() {
            hold.hold().map_err(FilesError::Hold)?;
            for (sender, receiver) in busy {
                let ended = all.get(sender).is_some_and(|sender| sender.shut);
                let contents = between(found(&sender), ended, found(&receiver))?;
                streams.0.insert(receiver, contents);
            }
            hold.release().map_err(FilesError::Hold)?;
        }
        Ok(streams)
    }

    pub(super) fn take(&mut self, inode: u32) -> Contents {
        self.0.remove(&inode).unwrap_or_default()
    }
}

/// What one end has received, and not the program that has it.
pub(super) fn received(found: &Found) -> Result<Vec<u8>, FilesError> {
    let unreadable = || found.host::<io::Error>("what waits in it");
    let waiting = unix_socket::waiting(found.copy.as_fd()).map_err(unreadable())?;
    let mut bytes = vec![0; waiting];
    if waiting > 0 {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&found.copy, bytes.as_mut_slice(), flags);
        let (length, _) = peeked.map_err(|error| unreadable()(error.into()))?;
        if length != waiting {
            let reason = "it holds more than can be looked at";
            return Err(found.refused(&refusal::socket_busy(reason)));
        }
    }
    Ok(bytes)
}

/// Both queues of one direction. Nobody runs who could use the sockets.
fn between(sender: &Found, ended: bool, receiver: &Found) -> Result<Contents, FilesError> {
    let ends = (sender.copy.as_fd(), receiver.copy.as_fd());
    let found = both(ends, ended).map_err(sender.host("what it has sent"))?;
    let reason = "what it has sent is being delivered";
    found.ok_or_else(|| sender.refused(&refusal::socket_busy(reason)))
}

fn both(
    (sender, receiver): (BorrowedFd<'_>, BorrowedFd<'_>),
    ended: bool,
) -> io::Result<Option<Contents>> {
    let unread = unix_socket::waiting(receiver)?;
    let unacknowledged = usize::try_from(socket::unread(sender)?).unwrap_or_default();
    let (sender, receiver) = (Repair::begin(sender)?, Repair::begin(receiver)?);
    let sent = sender.peek(Queue::Sent, unacknowledged + PIECE)?;
    let end = sender.sequence(Queue::Sent)?.wrapping_sub(u32::from(ended));
    // The kernel goes on to deliver, and what is there is longer by as much then.
    for _ in 0..TRIES {
        let before = receiver.sequence(Queue::Received)?;
        let received = receiver.peek(Queue::Received, unread + unacknowledged + PIECE)?;
        if receiver.sequence(Queue::Received)? != before {
            continue;
        }
        let missing = usize::try_from(end.wrapping_sub(before).cast_signed()).unwrap_or(0);
        let under_way = sent.len().checked_sub(missing);
        return Ok(under_way.map(|first| Contents {
            received,
            under_way: sent[first..].to_vec(),
        }));
    }
    Ok(None)
}
