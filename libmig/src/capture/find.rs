//! Descriptors of a frozen tree, found by what they are open on.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::fstat,
    process::{PidfdGetfdFlags, pidfd_getfd},
};

use super::Frozen;
use crate::inspect::fd;

impl Frozen {
    /// A duplicate of any descriptor of the tree that is open on this inode:
    /// the same open file description as the job's.
    #[must_use]
    pub fn find_open(&self, device: u64, inode: u64) -> Option<OwnedFd> {
        let pidfds = self.pidfds().ok()?;
        pidfds.iter().find_map(|(_, host, pidfd)| {
            let numbers = fd::numbers(*host).ok()?;
            numbers.into_iter().find_map(|number| {
                let found = pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty()).ok()?;
                let stat = fstat(&found).ok()?;
                (stat.st_dev == device && stat.st_ino == inode).then_some(found)
            })
        })
    }
}
