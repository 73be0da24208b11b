//! TCP and UDP sockets. What waits in a connection is peeked at.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use rustix::net::RecvFlags;

use super::{FilesError, table::Found};
use crate::{
    image::{FileId, InetSocket, InetState},
    inspect::{
        inet_socket::{self, Inet, OPTIONS},
        refusal, unix_socket,
    },
    sys::socket,
};

/// All internet sockets of the tree.
#[derive(Default)]
pub(super) struct Inets {
    seen: BTreeMap<u32, Inet>,
    ids: BTreeMap<u32, FileId>,
}

impl Inets {
    /// Looks at a socket, before any is captured; false when it is none of these.
    pub(super) fn look(&mut self, file: FileId, found: &Found) -> Result<bool, FilesError> {
        let domain =
            socket::option(&found.copy, libc::SO_DOMAIN).map_err(found.host("SO_DOMAIN"))?;
        if domain == libc::AF_UNIX {
            return Ok(false);
        }
        let seen = inet_socket::look(&found.copy).map_err(|refusal| found.refused(&refusal))?;
        self.seen.insert(inode(found), seen);
        self.ids.insert(inode(found), file);
        Ok(true)
    }

    /// One of those that have been looked at.
    pub(super) fn capture(&self, found: &Found) -> Option<Result<InetSocket, FilesError>> {
        let seen = self.seen.get(&inode(found))?;
        Some(
            self.state(found, seen)
                .and_then(|state| describe(found, seen, state)),
        )
    }

    fn state(&self, found: &Found, seen: &Inet) -> Result<InetState, FilesError> {
        if let Some(refusal) = inet_socket::strayed(seen, &self.seen) {
            return Err(found.refused(&refusal));
        }
        Ok(
            match (
                inet_socket::peer(seen, &self.seen),
                seen.backlog,
                seen.remote,
            ) {
                (Some(peer), ..) => InetState::Connected {
                    peer: self.ids[&peer],
                    shut: seen.shut,
                    queue: queue(found)?,
                },
                (None, Some(backlog), _) => InetState::Listening(backlog),
                (None, None, Some(remote)) => InetState::Towards(remote),
                (None, None, None) => InetState::Idle,
            },
        )
    }
}

fn describe(found: &Found, seen: &Inet, state: InetState) -> Result<InetSocket, FilesError> {
    let part = |part| found.host::<io::Error>(part);
    let option = |name| socket::option(&found.copy, name);
    let locks = option(SO_BUF_LOCK).map_err(part("SO_BUF_LOCK"))?;
    let buffer = |name, lock: i32| match locks & lock {
        0 => Ok(None),
        _ => option(name).map(|doubled| Some(doubled / 2)),
    };
    let time = |name| socket::timeout(&found.copy, name);
    let options = OPTIONS.iter().filter_map(|(level, name)| {
        let value = socket::option_at(&found.copy, *level, *name).ok()?;
        Some((*level, *name, value))
    });
    Ok(InetSocket {
        v6: seen.v6,
        stream: seen.stream,
        local: seen.local,
        state,
        buffers: (
            buffer(libc::SO_SNDBUF, 1).map_err(part("SO_SNDBUF"))?,
            buffer(libc::SO_RCVBUF, 2).map_err(part("SO_RCVBUF"))?,
        ),
        timeouts: (
            time(libc::SO_SNDTIMEO).map_err(part("SO_SNDTIMEO"))?,
            time(libc::SO_RCVTIMEO).map_err(part("SO_RCVTIMEO"))?,
        ),
        linger: socket::linger(&found.copy).map_err(part("SO_LINGER"))?,
        congestion: match seen.stream {
            true => Some(socket::congestion(&found.copy).map_err(part("TCP_CONGESTION"))?),
            false => None,
        },
        options: options.collect(),
        owner: (found.seen.stat.st_uid, found.seen.stat.st_gid),
    })
}

const SO_BUF_LOCK: i32 = 72;

/// What waits to be read.
fn queue(found: &Found) -> Result<Vec<u8>, FilesError> {
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

fn inode(found: &Found) -> u32 {
    u32::try_from(found.seen.stat.st_ino).unwrap_or_default()
}
