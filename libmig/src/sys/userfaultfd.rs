//! userfaultfd(2) in mode WP_ASYNC (Linux 6.7): the kernel notes which pages of a process
//! are written to, and [`super::pagemap`] reads that. Nobody waits for anybody.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const UFFD_API: u64 = 0xAA;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;

/// struct uffdio_api of include/uapi/linux/userfaultfd.h.
#[repr(C)]
pub struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// struct uffdio_register.
#[repr(C)]
pub struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

mod ioctl {
    use super::{Api, Register};

    nix::ioctl_readwrite!(api, 0xAA, 0x3F, Api);
    nix::ioctl_readwrite!(register, 0xAA, 0x00, Register);
}

/// Notes the writes to the memory of the process that made the descriptor. Dropped, it
/// notes nothing any more, and the process is as before.
#[derive(Debug)]
pub struct WriteTracker(OwnedFd);

impl WriteTracker {
    /// Takes a descriptor that userfaultfd(2) has just returned to its process.
    ///
    /// # Errors
    /// EINVAL for a kernel without WP_ASYNC, or for a descriptor in use.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let mut api = Api {
            api: UFFD_API,
            features: UFFD_FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the call reads and writes the struct that it is given, which outlives it.
        unsafe { ioctl::api(descriptor.as_raw_fd(), &raw mut api) }?;
        Ok(Self(descriptor))
    }

    /// For the calling process.
    ///
    /// # Errors
    /// EPERM without the right, EMFILE, and as [`WriteTracker::new`].
    pub fn of_this_process() -> io::Result<Self> {
        // SAFETY: no pointers; a new descriptor comes back.
        let made = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let made = i32::try_from(made).map_err(io::Error::other)?;
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made, and nobody else has it.
        Self::new(unsafe { OwnedFd::from_raw_fd(made) })
    }

    /// Notes writes to `start..end` from now on; everything in it counts as written
    /// until a scan clears that. Ranges may be given again.
    ///
    /// # Errors
    /// EBUSY for a range that another userfaultfd has, EINVAL for one that is not mapped or
    /// is the kernel's, EPERM for a read-only view of a file, ESRCH when the process is gone.
    pub fn register(&self, start: u64, end: u64) -> io::Result<()> {
        let mut register = Register {
            start,
            len: end - start,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: as above. The range is of the descriptor's process, whose accesses are
        // resolved by the kernel itself in mode WP_ASYNC: nothing waits for us.
        unsafe { ioctl::register(self.0.as_raw_fd(), &raw mut register) }?;
        Ok(())
    }
}
