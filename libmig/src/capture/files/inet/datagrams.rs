//! What waits in a UDP socket: whoever was to read it still does.

use std::{io, net::SocketAddr};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::RecvFlags,
};

use crate::{
    capture::files::{FilesError, socket::Peeking, table::Found},
    image::Datagram,
    inspect::refusal,
};

/// No datagram is longer.
const LONGEST: usize = 1 << 16;

/// All of them, the first one first.
pub(super) fn waiting(found: &Found) -> Result<Vec<Datagram>, FilesError> {
    let unreadable = || found.host::<io::Error>("what waits in it");
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    // To look at an empty one leaves a trace.
    let mut poll = [PollFd::new(&found.copy, PollFlags::IN)];
    let ready = rustix::event::poll(&mut poll, Some(&Timespec::default()));
    if ready.map_err(|error| unreadable()(error.into()))? == 0 {
        return Ok(Vec::new());
    }
    let mut buffer = vec![0; LONGEST];
    let _peeking = Peeking::start(&found.copy).map_err(unreadable())?;
    let mut all = Vec::new();
    loop {
        let (length, _, from) =
            match rustix::net::recvfrom(&found.copy, buffer.as_mut_slice(), flags) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(all),
                Err(error) => return Err(unreadable()(error.into())),
            };
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        let near = |from: &SocketAddr| matches!(from, SocketAddr::V6(v6) if v6.scope_id() != 0);
        let Some(from) = from.filter(|from| !near(from)) else {
            let reason = "a datagram waits in it whose sender has a link-local address";
            return Err(found.refused(&refusal::socket_busy(reason)));
        };
        all.push(Datagram {
            from,
            bytes: buffer[..length].to_vec(),
        });
    }
}
