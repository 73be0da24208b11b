//! Options, owner and state of a Unix socket, when nothing is to be sent any more.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Gid, Uid},
    net::Shutdown,
};

use crate::{
    image::UnixSocket,
    inspect::unix_socket::{BOTH_SHUT, OPTIONS},
    restore::files::FilesError,
    sys::socket,
};

/// All that would have been in the way before.
pub(super) fn settle(made: &OwnedFd, state: &UnixSocket) -> Result<(), FilesError> {
    options(made, state).map_err(FilesError::make("the options of a Unix socket"))?;
    let (uid, gid) = state.owner;
    rustix::fs::fchown(made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(FilesError::make("the owner of a Unix socket"))?;
    let how = match state.shutdown {
        0 => return Ok(()),
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        BOTH_SHUT => Shutdown::Both,
        _ => return Err(FilesError::Malformed("such state of a socket")),
    };
    match rustix::net::shutdown(made, how) {
        // A closed peer has shut it already, or there has never been one.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(FilesError::make("the state of a Unix socket")(error)),
    }
}

fn options(made: &OwnedFd, state: &UnixSocket) -> io::Result<()> {
    let set = |name, force, wanted: i32| {
        if socket::option(made, name)? / 2 == wanted {
            return Ok(());
        }
        socket::set_option(made, force, wanted)
    };
    set(libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, state.buffers.0)?;
    set(libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, state.buffers.1)?;
    for (name, micros) in [
        (libc::SO_SNDTIMEO, state.timeouts.0),
        (libc::SO_RCVTIMEO, state.timeouts.1),
    ] {
        if socket::timeout(made, name)? != micros {
            socket::set_timeout(made, name, micros)?;
        }
    }
    for (name, value) in &state.options {
        // The image comes from another node.
        if OPTIONS.contains(name) && socket::option(made, *name)? != *value {
            socket::set_option(made, *name, *value)?;
        }
    }
    Ok(())
}
