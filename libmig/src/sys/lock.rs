//! Locks on files, as system calls: of the caller's own descriptors, and as
//! arguments for a call that another process makes.

use std::{io, os::fd::AsFd};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::FlockOperation;

use crate::image::{FileLock, LockKind};

/// What is to be done about a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A read lock, LOCK_SH.
    Shared,
    /// A write lock, LOCK_EX.
    Exclusive,
    /// No lock.
    Unlocked,
}

impl Access {
    /// What the holder of a lock has.
    #[must_use]
    pub fn of(lock: &FileLock) -> Self {
        if lock.exclusive {
            Self::Exclusive
        } else {
            Self::Shared
        }
    }

    fn code(self) -> i16 {
        let code = match self {
            Self::Shared => libc::F_RDLCK,
            Self::Exclusive => libc::F_WRLCK,
            Self::Unlocked => libc::F_UNLCK,
        };
        i16::try_from(code).expect("0, 1 or 2")
    }
}

/// Whether an error of a lock call means that somebody else has it.
#[must_use]
pub fn is_taken(errno: i32) -> bool {
    errno == libc::EAGAIN || errno == libc::EACCES
}

/// Sets the lock of an open file description of this process, without waiting.
/// False when somebody else has a lock that conflicts.
///
/// A lock of the kind [`LockKind::Process`] becomes one of the description: a
/// daemon holds none for itself.
///
/// # Errors
/// ENOLCK and its like: the file system has no locks.
pub fn set(description: impl AsFd, lock: &FileLock, access: Access) -> io::Result<bool> {
    let result = if lock.kind == LockKind::Flock {
        let operation = match access {
            Access::Shared => FlockOperation::NonBlockingLockShared,
            Access::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Access::Unlocked => FlockOperation::NonBlockingUnlock,
        };
        rustix::fs::flock(description, operation).map_err(io::Error::from)
    } else {
        let range = range(lock, access);
        let set = FcntlArg::F_OFD_SETLK(&range);
        fcntl(description, set).map(drop).map_err(io::Error::from)
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error().is_some_and(is_taken) => Ok(false),
        Err(error) => Err(error),
    }
}

/// struct flock, for fcntl(2).
fn range(lock: &FileLock, access: Access) -> libc::flock {
    libc::flock {
        l_type: access.code(),
        l_whence: 0,
        l_start: lock.start,
        l_len: lock.length,
        l_pid: 0,
    }
}

/// struct flock as bytes, for a call that another process makes.
#[must_use]
pub fn argument(lock: &FileLock, access: Access) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&access.code().to_ne_bytes());
    // l_whence is SEEK_SET, 0; the offsets are aligned.
    bytes[8..16].copy_from_slice(&lock.start.to_ne_bytes());
    bytes[16..24].copy_from_slice(&lock.length.to_ne_bytes());
    bytes
}

/// F_SETLEASE: a write lease.
#[cfg(test)]
pub(crate) fn lease(file: impl AsFd) -> io::Result<()> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(&file.as_fd());
    // SAFETY: F_SETLEASE takes an integer.
    if unsafe { libc::fcntl(raw, libc::F_SETLEASE, libc::F_WRLCK) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(kind: LockKind, start: i64, length: i64) -> FileLock {
        FileLock {
            kind,
            exclusive: true,
            start,
            length,
            pid: 1,
            number: 0,
            file: 0,
        }
    }

    #[test]
    fn locks_of_two_descriptions_conflict_where_they_meet() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, other) = (file.reopen().unwrap(), file.reopen().unwrap());
        for kind in [LockKind::Process, LockKind::Description, LockKind::Flock] {
            let (whole, tail) = (lock(kind, 0, 0), lock(kind, 7, 3));
            assert!(set(&one, &whole, Access::Exclusive).unwrap());
            assert!(!set(&other, &tail, Access::Exclusive).unwrap());
            assert!(set(&one, &whole, Access::Shared).unwrap());
            assert!(set(&other, &tail, Access::Shared).unwrap());
            assert!(set(&one, &whole, Access::Unlocked).unwrap());
            assert!(set(&other, &tail, Access::Exclusive).unwrap());
            assert!(set(&other, &tail, Access::Unlocked).unwrap());
        }
    }

    #[test]
    fn the_argument_is_what_the_library_makes() {
        let lock = lock(LockKind::Process, 1 << 30, 510);
        let bytes = argument(&lock, Access::Exclusive);
        let range = range(&lock, Access::Exclusive);
        assert_eq!(size_of_val(&range), bytes.len());
        assert_eq!(bytes[..2], range.l_type.to_ne_bytes());
        let field = |at: usize| i64::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        let places = [
            std::mem::offset_of!(libc::flock, l_start),
            std::mem::offset_of!(libc::flock, l_len),
        ];
        assert_eq!(places.map(field), [1 << 30, 510]);
    }
}
