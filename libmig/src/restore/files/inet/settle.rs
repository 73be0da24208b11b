//! Options, owner and buffers of an internet socket, when nothing is to be sent any more.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{Gid, Uid};

use crate::{
    image::InetSocket,
    inspect::inet_socket::OPTIONS,
    restore::files::FilesError,
    sys::{socket, tcp},
};

/// What SO_BUF_LOCK can say.
const LOCKS: i32 = 3;

/// What a socket has for good, or streams do not have at all.
fn is_fixed(option: (i32, i32), state: &InetSocket) -> bool {
    const MULTICAST: [(i32, i32); 2] = [
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    ];
    option == (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) || state.stream && MULTICAST.contains(&option)
}

/// Options that are ints.
pub(super) fn options(own: &OwnedFd, state: &InetSocket) -> Result<(), FilesError> {
    for (level, name, value) in &state.options {
        // The image comes from another node.
        let known = OPTIONS.contains(&(*level, *name)) && !is_fixed((*level, *name), state);
        if known && socket::option_at(own, *level, *name).is_ok_and(|now| now != *value) {
            let what = format!("option {name} of level {level} of a network socket");
            socket::set_option_at(own, *level, *name, *value).map_err(FilesError::make(what))?;
        }
    }
    Ok(())
}

/// Everything else.
pub(super) fn rest(own: &OwnedFd, state: &InetSocket) -> io::Result<()> {
    let (uid, gid) = state.owner;
    rustix::fs::fchown(own, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    for (name, force, wanted) in [
        (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, state.buffers.0),
        (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, state.buffers.1),
    ] {
        if socket::option(own, name)? != wanted {
            socket::set_option(own, force, wanted / 2)?;
        }
    }
    // Multipath TCP has not all of these, and what it lacks is as it was made.
    let locked = state.locked & LOCKS;
    if socket::option(own, socket::SO_BUF_LOCK)? != locked {
        socket::set_option(own, socket::SO_BUF_LOCK, locked)?;
    }
    for (name, micros) in [
        (libc::SO_SNDTIMEO, state.timeouts.0),
        (libc::SO_RCVTIMEO, state.timeouts.1),
    ] {
        if socket::timeout(own, name)? != micros {
            socket::set_timeout(own, name, micros)?;
        }
    }
    if let Some(congestion) = &state.congestion
        && tcp::congestion(own)? != *congestion
    {
        tcp::set_congestion(own, congestion)?;
    }
    if state.stream {
        socket::set_linger(own, state.linger)?;
    }
    Ok(())
}
