//! kill(2) with any signal number: nix's `Signal` ends at 31, the kernel's signals at 64.

use std::io;

use super::HostPid;

/// Sends `signal` to a process.
///
/// # Errors
/// ESRCH when it is gone, EINVAL for a number that is none.
pub fn send(process: HostPid, signal: i32) -> io::Result<()> {
    // SAFETY: two integers; no memory is touched.
    if unsafe { libc::kill(process.raw(), signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
