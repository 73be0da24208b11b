//! What a pidfd tells of a process that nobody can look at any more.

use std::os::fd::{AsFd, AsRawFd};

/// struct pidfd_info, as Linux 6.15 has it.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
    rest: [u32; 2],
}

/// PIDFD_GET_INFO, of a structure of 72 bytes.
const PIDFD_GET_INFO: libc::c_ulong = 0xc048_ff0b;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that has been waited for (PIDFD_INFO_EXIT, Linux 6.15). `None`
/// where the kernel does not keep it, or while the process is there.
#[must_use]
pub fn wait_status(pidfd: impl AsFd) -> Option<i32> {
    const { assert!(size_of::<Info>() == 72) };
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        ..Info::default()
    };
    let number = pidfd.as_fd().as_raw_fd();
    // SAFETY: the structure is as long as the number of the request says, and ours.
    let answer = unsafe { libc::ioctl(number, PIDFD_GET_INFO, &raw mut info) };
    (answer == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_status_is_there_when_the_process_is_not() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line; exit 7"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert_eq!(wait_status(&pidfd), None);
        child.wait().unwrap();
        // Kernels before 6.15 keep nothing.
        assert!(matches!(wait_status(&pidfd), None | Some(0x700)));
    }
}
