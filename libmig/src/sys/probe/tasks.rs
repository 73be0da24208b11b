//! Facilities about other tasks: tracing, descriptors, pids, namespaces. The
//! child that tries them is itself the parent of the task that it tries them on.

use std::{mem::size_of, ptr};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sched::{CloneFlags, unshare},
    sys::{
        ptrace,
        stat::Mode,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpid, write},
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::{Idler, check, exit, in_child};

/// PTRACE_SEIZE and PTRACE_INTERRUPT (Linux 3.4) of another process.
///
/// # Errors
/// What the kernel says; ETIMEDOUT when it says nothing.
pub fn ptrace_seize() -> Result<(), Errno> {
    in_child(|| seize(&Idler::spawn()?))
}

/// PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13): where a thread's rseq area is.
///
/// # Errors
/// What the kernel says.
pub fn ptrace_rseq() -> Result<(), Errno> {
    const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_long = 0x420f;
    in_child(|| {
        let task = Idler::spawn()?;
        seize(&task)?;
        let mut area = [0_u64; 3];
        // SAFETY: the kernel writes at most the given number of bytes to `area`.
        check(unsafe {
            libc::syscall(
                libc::SYS_ptrace,
                PTRACE_GET_RSEQ_CONFIGURATION,
                task.pid(),
                size_of_val(&area),
                area.as_mut_ptr(),
            )
        })?;
        Ok(())
    })
}

fn seize(task: &Idler) -> Result<(), Errno> {
    let pid = Pid::from_raw(task.pid());
    ptrace::seize(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
    ptrace::interrupt(pid)?;
    match waitpid(pid, Some(WaitPidFlag::__WALL))? {
        WaitStatus::PtraceEvent(..) => Ok(()),
        _ => Err(Errno::EPROTO),
    }
}

/// process_vm_readv(2) (Linux 3.2) of another process.
///
/// # Errors
/// What the kernel says.
pub fn process_vm_readv() -> Result<(), Errno> {
    static WITNESS: u64 = 0x6d69_6720_7072_6f62;
    in_child(|| {
        let task = Idler::spawn()?;
        let mut copy = 0_u64;
        let local = libc::iovec {
            iov_base: (&raw mut copy).cast(),
            iov_len: size_of::<u64>(),
        };
        let remote = libc::iovec {
            iov_base: (&raw const WITNESS).cast_mut().cast(),
            iov_len: size_of::<u64>(),
        };
        // SAFETY: the local vector is `copy`; the remote one is an address of
        // the other process, and only read there.
        let read = unsafe { libc::process_vm_readv(task.pid(), &local, 1, &remote, 1, 0) };
        let whole = Errno::result(read)? == libc::ssize_t::try_from(size_of::<u64>()).unwrap_or(-1);
        (whole && copy == WITNESS)
            .then_some(())
            .ok_or(Errno::EPROTO)
    })
}

/// pidfd_getfd(2) (Linux 5.6): a duplicate of another process's descriptor.
///
/// # Errors
/// What the kernel says.
pub fn pidfd_getfd() -> Result<(), Errno> {
    in_child(|| {
        let null = open(
            "/dev/null",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let task = Idler::spawn()?;
        let pid = rustix::process::Pid::from_raw(task.pid()).ok_or(Errno::EPROTO)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(errno)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&null);
        rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).map_err(errno)?;
        Ok(())
    })
}

/// kcmp(2) (CONFIG_KCMP): whether two processes share an object.
///
/// # Errors
/// What the kernel says.
pub fn kcmp() -> Result<(), Errno> {
    const KCMP_VM: libc::c_long = 1;
    in_child(|| {
        let task = Idler::spawn()?;
        // SAFETY: no pointers.
        let order =
            unsafe { libc::syscall(libc::SYS_kcmp, getpid().as_raw(), task.pid(), KCMP_VM, 0, 0) };
        // They are different: 0 would mean that they are one.
        (check(order)? > 0).then_some(()).ok_or(Errno::EPROTO)
    })
}

/// F_DUPFD_QUERY (Linux 6.10): whether two descriptors are one open file.
///
/// # Errors
/// What the kernel says.
pub fn dupfd_query() -> Result<(), Errno> {
    const F_DUPFD_QUERY: libc::c_int = 1027;
    in_child(|| {
        let null = open(
            "/dev/null",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&null);
        // SAFETY: no pointers; the descriptor is open.
        let same = Errno::result(unsafe { libc::fcntl(number, F_DUPFD_QUERY, number) })?;
        (same == 1).then_some(()).ok_or(Errno::EPROTO)
    })
}

/// clone3(2) with set_tid (Linux 5.5) in a pid namespace of its own.
///
/// # Errors
/// What the kernel says.
pub fn clone3_set_tid() -> Result<(), Errno> {
    const WANTED: i32 = 4711;
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWPID)?;
        // The namespace lives as long as its first process.
        let _init = Idler::spawn()?;
        let wanted = WANTED;
        let args = linux_raw_sys::general::clone_args {
            flags: 0,
            pidfd: 0,
            child_tid: 0,
            parent_tid: 0,
            exit_signal: 17,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: (&raw const wanted) as u64,
            set_tid_size: 1,
            cgroup: 0,
        };
        // SAFETY: without CLONE_VM the child has its own copy of this stack,
        // and it does nothing but exit.
        let pid =
            check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
        if pid == 0 {
            exit(if getpid().as_raw() == WANTED { 0 } else { 1 });
        }
        let pid = i32::try_from(pid).map_err(|_| Errno::EPROTO)?;
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(Errno::EPROTO),
        }
    })
}

/// A time namespace (Linux 5.6) whose monotonic clock is set.
///
/// # Errors
/// What the kernel says.
pub fn time_namespace() -> Result<(), Errno> {
    in_child(|| {
        // CLONE_NEWTIME, which nix does not know.
        // SAFETY: no pointers.
        Errno::result(unsafe { libc::unshare(0x80) })?;
        let offsets = open("/proc/self/timens_offsets", OFlag::O_WRONLY, Mode::empty())?;
        write(&offsets, b"monotonic 1000 0\n")?;
        Ok(())
    })
}

/// PR_SET_MM_MAP (Linux 3.18, CONFIG_CHECKPOINT_RESTORE), asked for its size.
///
/// # Errors
/// What the kernel says.
pub fn prctl_mm_map() -> Result<(), Errno> {
    const PR_SET_MM: libc::c_int = 35;
    const PR_SET_MM_MAP_SIZE: libc::c_ulong = 15;
    in_child(|| {
        let mut size: libc::c_uint = 0;
        let zero: libc::c_ulong = 0;
        // SAFETY: the kernel writes one unsigned int to `size`.
        Errno::result(unsafe {
            libc::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &raw mut size, zero, zero)
        })?;
        (size > 0).then_some(()).ok_or(Errno::EPROTO)
    })
}

/// PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15): timer_create(2) with a chosen ID.
///
/// # Errors
/// What the kernel says.
pub fn timer_restore_ids() -> Result<(), Errno> {
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const ON: libc::c_ulong = 1;
    const WANTED: i32 = 123_456;
    in_child(|| {
        let zero: libc::c_ulong = 0;
        // SAFETY: no pointers.
        Errno::result(unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, ON, zero, zero, zero) })?;
        let mut id = WANTED;
        // SAFETY: no sigevent; the kernel reads and writes `id`. The raw call,
        // since the C library has IDs of its own.
        check(unsafe {
            libc::syscall(
                libc::SYS_timer_create,
                libc::CLOCK_MONOTONIC,
                ptr::null_mut::<libc::sigevent>(),
                &raw mut id,
            )
        })?;
        (id == WANTED).then_some(()).ok_or(Errno::EPROTO)
    })
}

/// rseq(2) (Linux 4.18): asked with nonsense, which EINVAL answers.
///
/// # Errors
/// What the kernel says, ENOSYS above all.
pub fn rseq() -> Result<(), Errno> {
    in_child(|| {
        // SAFETY: no area; the kernel refuses a length of 0.
        let answer = unsafe { libc::syscall(libc::SYS_rseq, 0_usize, 0, 0, 0) };
        match check(answer) {
            Ok(_) | Err(Errno::EINVAL | Errno::EBUSY | Errno::EPERM) => Ok(()),
            Err(errno) => Err(errno),
        }
    })
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
