//! Locks that a job holds on files.

use serde::{Deserialize, Serialize};

use super::{FileId, Pid};

/// What a lock belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// F_SETLK: a process. It goes when the process closes any descriptor of the file.
    Process,
    /// F_OFD_SETLK: an open file description.
    Description,
    /// flock(2): an open file description, and the whole file.
    Flock,
}

/// A lock, and a descriptor through which it can be had again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileLock {
    /// What it belongs to.
    pub kind: LockKind,
    /// A write lock or LOCK_EX; else a read lock or LOCK_SH.
    pub exclusive: bool,
    /// First byte.
    pub start: i64,
    /// Bytes; 0 up to the end of the file, wherever that comes to be.
    pub length: i64,
    /// The process that it belongs to, or one that has the description.
    pub pid: Pid,
    /// A descriptor of that process.
    pub number: i32,
    /// The description.
    pub file: FileId,
}

impl std::fmt::Display for FileLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            LockKind::Process => "POSIX",
            LockKind::Description => "OFD",
            LockKind::Flock => "flock",
        };
        let how = if self.exclusive { "write" } else { "read" };
        let (pid, number) = (self.pid, self.number);
        write!(f, "pid {pid}, fd {number}: {kind} {how} lock")?;
        match (self.kind, self.length) {
            (LockKind::Flock, _) => Ok(()),
            (_, 0) => write!(f, " from {}", self.start),
            (_, length) => write!(f, " of {length} bytes from {}", self.start),
        }
    }
}
