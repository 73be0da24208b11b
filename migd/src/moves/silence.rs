//! TCP connections of a frozen tree, seen from outside: their end without a packet,
//! when it never runs again; and their use, when it does.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use libmig::api::JobId;
use libmig::inspect::process::Scope;
use libmig::inspect::{self, fd, inet_socket};
use libmig::sys::{socket, tcp};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::{debug, error, warn};

/// To be called when the copy is frozen and given up, before it is killed: no packet says
/// so to whoever has the other end by now, and no address stays in use.
pub(super) fn silence(job: &JobId, copy: Scope) {
    for (number, connection) in connections(copy) {
        // An end that nobody has is still here: it is the one to be told.
        let ended = if inet_socket::is_left(&connection) {
            socket::set_linger(&connection, Some(0))
        } else {
            tcp::silence(&connection)
        };
        // One that listens says nothing anyway.
        if let Err(error) = ended {
            debug!(%job, number, %error, "a connection is not ended in silence");
        }
    }
}

/// To be called before a tree is thawed that another daemon has frozen: it may have died
/// while it looked into a connection.
pub(super) fn mend(job: &JobId, tree: Scope) {
    for (number, connection) in connections(tree) {
        match tcp::mend(&connection) {
            Ok(false) => {}
            Ok(true) => warn!(%job, number, "a connection was left in repair mode"),
            Err(error) => error!(%job, number, %error, "a connection may be in repair mode"),
        }
    }
}

/// TCP sockets of a tree, by duplicates.
fn connections(tree: Scope) -> Vec<(i32, OwnedFd)> {
    let mut found = Vec::new();
    for (host, _) in inspect::process::tree(tree) {
        let pidfd = Pid::from_raw(host.raw()).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let Some(Ok(pidfd)) = pidfd else { continue };
        for number in fd::numbers(host).unwrap_or_default() {
            let link = fs::read_link(format!("/proc/{host}/fd/{number}"));
            if !link.is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"socket:")) {
                continue;
            }
            let flags = PidfdGetfdFlags::empty();
            // Not of AF_UNIX, which has no protocol.
            if let Ok(copy) = pidfd_getfd(pidfd.as_fd(), number, flags)
                && tcp::is_tcp(&copy)
            {
                found.push((number, copy));
            }
        }
    }
    found
}
