//! close_range(2), which neither nix nor rustix has as a safe call. Linux 5.9;
//! CLOSE_RANGE_CLOEXEC since 5.11.

use std::io;

/// Marks every descriptor of the calling process close-on-exec. No descriptor
/// is closed, so nothing that owns one is harmed.
///
/// # Errors
/// `EINVAL` before Linux 5.11.
pub fn mark_all_close_on_exec() -> io::Result<()> {
    mark_close_on_exec_from(0)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// `EINVAL` before Linux 5.11.
pub fn mark_close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: integers only; with CLOSE_RANGE_CLOEXEC the call changes a flag
    // of descriptors and touches no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
