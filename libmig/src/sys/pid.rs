//! Process and thread IDs as this daemon's pid namespace sees them. The IDs
//! that a job sees are [`crate::image::Pid`]; the two are never mixed.

use std::{
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// A process or thread ID in the daemon's own pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPid(i32);

impl HostPid {
    /// Wraps a raw ID of the daemon's pid namespace.
    #[must_use]
    pub const fn new(raw: i32) -> Self {
        Self(raw)
    }

    /// The ID of the calling process.
    #[must_use]
    pub fn own() -> Self {
        Self(nix::unistd::getpid().as_raw())
    }

    /// The process that a pidfd is for (`Pid:` of its fdinfo).
    ///
    /// # Errors
    /// NotFound when the process has been waited for, or is not in this pid namespace.
    pub fn of_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Self> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        let number = text.lines().find_map(|line| line.strip_prefix("Pid:"));
        match number.and_then(|number| number.trim().parse::<i32>().ok()) {
            Some(raw) if raw > 0 => Ok(Self(raw)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for HostPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<HostPid> for nix::unistd::Pid {
    fn from(pid: HostPid) -> Self {
        Self::from_raw(pid.0)
    }
}
