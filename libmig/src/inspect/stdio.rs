//! What the capsule keeps of a job's standard streams and terminal: the
//! descriptors whose other end stays at home when the job leaves.

use std::os::fd::OwnedFd;

use crate::image::{Pid, Stdio};

/// The job's ties to the world outside of its capsule.
#[derive(Debug, Default)]
pub struct CapsuleStdio {
    /// Standard streams that are pipes (or anything else without a name)
    /// towards home. Two streams may be one object, as after `2>&1`.
    pub streams: Vec<StdioEnd>,
    /// The job's terminal, if it has one.
    pub console: Option<Console>,
    /// The root directory of the capsule's init, below which every name of the
    /// job is looked up: its processes may have others (chroot). `None` is that
    /// of the first process.
    pub root: Option<OwnedFd>,
}

/// The object behind a standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StdioEnd {
    /// st_dev.
    pub device: u64,
    /// st_ino.
    pub inode: u64,
    /// Which stream it is.
    pub stream: Stdio,
}

/// The job's terminal: a pty of the capsule's devpts, whose master the capsule's init holds;
/// or, of a tree that no capsule holds, the terminal where it was started.
#[derive(Debug)]
pub struct Console {
    /// Index in the capsule's devpts.
    pub index: u32,
    /// A duplicate of the master; of a terminal outside, a slave.
    pub master: OwnedFd,
    /// What only processes of its session know of a terminal outside.
    pub outside: Option<Outside>,
}

/// A terminal that will be the job's, and is not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// Whether it controls the session of the job's first process.
    pub controls: bool,
    /// The process group in its foreground, or [`crate::image::INIT`]'s when that is none of the job's.
    pub foreground: Pid,
}

impl CapsuleStdio {
    /// Which standard stream the object is, if it is one.
    #[must_use]
    pub fn stream(&self, device: u64, inode: u64) -> Option<Stdio> {
        self.streams
            .iter()
            .find(|end| end.device == device && end.inode == inode)
            .map(|end| end.stream)
    }
}
