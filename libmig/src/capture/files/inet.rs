//! TCP and UDP sockets. What waits in a connection is peeked at.

mod datagrams;
mod stream;

use std::{collections::BTreeMap, io};

use super::{FilesError, Hold, table::Found};
use crate::{
    image::{FileId, InetPeer, InetSocket, InetState},
    inspect::inet_socket::{self, Inet, Inets, OPTIONS, Other},
    sys::{socket, tcp},
};
use stream::Streams;

/// All internet sockets of the tree.
#[derive(Default)]
pub(super) struct Network {
    seen: Inets,
    ids: BTreeMap<u32, FileId>,
    streams: Streams,
}

impl Network {
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

    /// All have been looked at: reads what is in their connections.
    pub(super) fn read(&mut self, files: &[Found], hold: &mut dyn Hold) -> Result<(), FilesError> {
        self.streams = Streams::read(&self.seen, &self.ids, files, hold)?;
        Ok(())
    }

    /// One of those that have been looked at.
    pub(super) fn capture(&mut self, found: &Found) -> Option<Result<InetSocket, FilesError>> {
        let seen = self.seen.get(inode(found))?.clone();
        Some(
            self.state(found, &seen)
                .and_then(|state| describe(found, &seen, state)),
        )
    }

    fn state(&mut self, found: &Found, seen: &Inet) -> Result<InetState, FilesError> {
        let refused = |refusal| found.refused(&refusal);
        if let Some(refusal) = self.seen.strayed(seen) {
            return Err(refused(refusal));
        }
        let peer = match (self.seen.other(seen).map_err(refused)?, seen.remote) {
            (Some(Other::Held(peer)), _) => InetPeer::Held(self.ids[&peer]),
            (Some(Other::Closed), Some(remote)) => InetPeer::Closed(remote),
            (Some(Other::Waiting(_)), Some(remote)) => InetPeer::Waiting(remote),
            (_, remote) => return self.unconnected(found, seen, remote),
        };
        let contents = self.streams.take(inode(found));
        Ok(InetState::Connected {
            peer,
            shut: seen.shut,
            deaf: seen.deaf,
            queue: contents.received,
            under_way: contents.under_way,
        })
    }

    fn unconnected(
        &self,
        found: &Found,
        seen: &Inet,
        remote: Option<std::net::SocketAddr>,
    ) -> Result<InetState, FilesError> {
        Ok(match (seen.backlog, remote) {
            (Some((_, most)), _) => InetState::Listening(most),
            (None, Some(remote)) => InetState::Towards(remote),
            (None, None) if seen.over => InetState::Over {
                queue: stream::received(found)?,
            },
            (None, None) => InetState::Idle,
        })
    }
}

fn describe(found: &Found, seen: &Inet, state: InetState) -> Result<InetSocket, FilesError> {
    let part = |part| found.host::<io::Error>(part);
    let option = |name| socket::option(&found.copy, name);
    let time = |name| socket::timeout(&found.copy, name);
    // Multipath TCP over IPv4 shows those of IPv6, too.
    let own = OPTIONS
        .iter()
        .filter(|(level, _)| seen.v6 || *level != libc::IPPROTO_IPV6);
    let options = own.filter_map(|(level, name)| {
        let value = socket::option_at(&found.copy, *level, *name).ok()?;
        Some((*level, *name, value))
    });
    Ok(InetSocket {
        v6: seen.v6,
        stream: seen.stream,
        multipath: seen.multipath,
        local: seen.local,
        state,
        buffers: (
            option(libc::SO_SNDBUF).map_err(part("SO_SNDBUF"))?,
            option(libc::SO_RCVBUF).map_err(part("SO_RCVBUF"))?,
        ),
        locked: option(socket::SO_BUF_LOCK).map_err(part("SO_BUF_LOCK"))?,
        timeouts: (
            time(libc::SO_SNDTIMEO).map_err(part("SO_SNDTIMEO"))?,
            time(libc::SO_RCVTIMEO).map_err(part("SO_RCVTIMEO"))?,
        ),
        linger: socket::linger(&found.copy).map_err(part("SO_LINGER"))?,
        congestion: match seen.stream {
            true => Some(tcp::congestion(&found.copy).map_err(part("TCP_CONGESTION"))?),
            false => None,
        },
        options: options.collect(),
        datagrams: match seen.stream {
            true => Vec::new(),
            false => datagrams::waiting(found)?,
        },
        owner: (found.seen.stat.st_uid, found.seen.stat.st_gid),
    })
}

fn inode(found: &Found) -> u32 {
    u32::try_from(found.seen.stat.st_ino).unwrap_or_default()
}
