//! What stands in the way of a move, asked while the job runs: nothing is
//! frozen and nothing is changed.

use std::os::fd::{AsFd, OwnedFd};

use libmig::api::{Failure, Obstacle};
use libmig::inspect::{self, files::FileSource};
use libmig::sys::HostPid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::local::Local;

/// Every obstacle of the tree as it is now.
pub(super) fn obstacles(local: &mut Local) -> Result<Vec<Obstacle>, Failure> {
    let stdio = local.stdio()?;
    let tree = inspect::process::tree(local.init);
    let mut obstacles = inspect::preflight::preflight_tree(local.init);
    // A process that ends while we look is no obstacle.
    let open: Vec<(HostPid, i32, OwnedFd)> = tree
        .into_iter()
        .filter_map(|(host, pid)| {
            let raw = Pid::from_raw(host.raw())?;
            Some((host, pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
        })
        .collect();
    let sources: Vec<FileSource<'_>> = open
        .iter()
        .map(|(host, pid, pidfd)| FileSource {
            pid: *pid,
            host: *host,
            pidfd: pidfd.as_fd(),
        })
        .collect();
    obstacles.extend(inspect::files::preflight(&sources, &stdio));
    Ok(obstacles)
}
