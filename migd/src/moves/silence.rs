//! The end of TCP connections of a copy that never runs again: no packet says
//! so to whoever has the other end by now, and no address stays in use.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use libmig::api::JobId;
use libmig::inspect::process::Scope;
use libmig::inspect::{self, fd};
use libmig::sys::socket;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::debug;

/// To be called when the copy is frozen and given up, before it is killed.
pub(super) fn silence(job: &JobId, copy: Scope) {
    for (host, _) in inspect::process::tree(copy) {
        let pidfd = Pid::from_raw(host.raw()).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let Some(Ok(pidfd)) = pidfd else { continue };
        for number in fd::numbers(host).unwrap_or_default() {
            let link = fs::read_link(format!("/proc/{host}/fd/{number}"));
            if !link.is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"socket:")) {
                continue;
            }
            let flags = PidfdGetfdFlags::empty();
            let Ok(copy) = pidfd_getfd(pidfd.as_fd(), number, flags) else {
                continue;
            };
            // Not of AF_UNIX, which has no protocol; one that listens says nothing anyway.
            if socket::is_tcp(&copy)
                && let Err(error) = socket::silence(&copy)
            {
                debug!(%job, number, %error, "a connection is not ended in silence");
            }
        }
    }
}
