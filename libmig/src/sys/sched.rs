//! Scheduling of another thread: sched_getattr(2), ioprio_get(2),
//! get_robust_list(2), kcmp(2), getters that nix and rustix lack.

use std::{cmp::Ordering, io};

use super::HostPid;
use crate::image::Scheduling;

/// struct sched_attr, first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// What two tasks may share (KCMP_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Shared {
    /// KCMP_VM.
    Memory = 1,
    /// KCMP_FILES.
    Files = 2,
    /// KCMP_FS.
    Fs = 3,
    /// KCMP_SIGHAND.
    Actions = 4,
    /// KCMP_SYSVSEM: the list of SEM_UNDO adjustments, or having none.
    Adjustments = 6,
}

/// sched_getattr(2) (Linux 3.14).
///
/// # Errors
/// ESRCH when the thread is gone.
pub fn scheduling(thread: HostPid) -> io::Result<Scheduling> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: the kernel writes at most `size` bytes to `attr`.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            thread.raw(),
            &raw mut attr,
            size,
            0,
        )
    })?;
    Ok(Scheduling {
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        deadline: (attr.runtime, attr.deadline, attr.period),
    })
}

/// ioprio_get(2): class and level; 0 when never set.
///
/// # Errors
/// ESRCH when the thread is gone.
pub fn io_priority(thread: HostPid) -> io::Result<i32> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: no pointer is passed.
    let priority =
        check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread.raw()) })?;
    i32::try_from(priority).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// get_robust_list(2): address and length of the head.
///
/// # Errors
/// ESRCH when the thread is gone.
pub fn robust_list(thread: HostPid) -> io::Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes a pointer and a size, 8 bytes each.
    check(unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            thread.raw(),
            &raw mut head,
            &raw mut len,
        )
    })?;
    Ok((head, len))
}

/// kcmp(2): whether two tasks share something.
///
/// # Errors
/// ESRCH when one is gone, EPERM without the right to trace both.
pub fn share(one: HostPid, other: HostPid, what: Shared) -> io::Result<bool> {
    compare(one, other, what).map(Ordering::is_eq)
}

/// kcmp(2): an order of the objects that tasks have, equal where they share
/// one. It holds until the next boot and means nothing else.
///
/// # Errors
/// ESRCH when one is gone, EPERM without the right to trace both.
pub fn compare(one: HostPid, other: HostPid, what: Shared) -> io::Result<Ordering> {
    // SAFETY: no pointer is passed.
    let order =
        check(unsafe { libc::syscall(libc::SYS_kcmp, one.raw(), other.raw(), what as i32, 0, 0) })?;
    match order {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_own_process() {
        let own = HostPid::own();
        assert_eq!(scheduling(own).unwrap().policy, 0);
        assert!(robust_list(own).is_ok() && io_priority(own).is_ok());
        assert!(share(own, own, Shared::Memory).unwrap());
        assert!(
            !share(
                own,
                HostPid::new(nix::unistd::getppid().as_raw()),
                Shared::Memory
            )
            .unwrap()
        );
    }
}
