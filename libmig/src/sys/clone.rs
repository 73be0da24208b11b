//! clone3(2) as a fork: new namespaces, a chosen pid and a cgroup in one call.
//!
//! Invariant: only a process with a single thread forks here, so the child
//! never finds a lock held by a thread that it does not have. Raw clone3
//! skips the C library's fork handlers; with one thread they have nothing to do.

use std::{
    fs, io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// What the child is to be born with.
#[derive(Debug, Default)]
pub struct CloneOptions<'a> {
    /// CLONE_NEW* bits.
    pub namespaces: u64,
    /// Exact pid in the innermost pid namespace (Linux 5.5); EEXIST if taken.
    pub pid: Option<i32>,
    /// Directory of a cgroup v2 (Linux 5.7). Unlike writing to `cgroup.procs`
    /// this takes no system-wide lock: microseconds instead of milliseconds.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Which of the two processes returns.
#[derive(Debug)]
pub enum Forked {
    /// The caller.
    Parent {
        /// Child's pid in the caller's namespace.
        pid: i32,
        /// Its pidfd, close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// CLONE_INTO_CGROUP; libc's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks the calling process, which must have one thread only.
///
/// # Errors
/// EDEADLK when the caller has several threads; whatever clone3(2) says.
pub fn fork(options: &CloneOptions<'_>) -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut pidfd: RawFd = -1;
    let set_tid = options.pid.unwrap_or(0);
    let mut flags = u64::from(libc::CLONE_PIDFD.cast_unsigned()) | options.namespaces;
    if options.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let args = linux_raw_sys::general::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: if options.pid.is_some() {
            (&raw const set_tid) as u64
        } else {
            0
        },
        set_tid_size: u64::from(options.pid.is_some()),
        cgroup: options
            .cgroup
            .map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    // SAFETY: `args` and what it points to outlive the call. Without CLONE_VM the
    // child has its own copy of memory and returns here on a copy of this stack; the caller
    // has one thread (checked above), so no lock of another thread stays held in the child.
    // JUSTIFICATION: neither nix nor rustix offers clone3.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    const { assert!(size_of::<linux_raw_sys::general::clone_args>() == 88) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent {
            pid: i32::try_from(pid).expect("pids are ints"),
            // SAFETY: CLONE_PIDFD made this descriptor for us, and no one else knows it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Restores the default action of every signal but those in `ignored` (bit n-1 for
/// signal n), which become SIG_IGN, and installs `blocked` as the mask: what
/// execve(2) hands on to a program.
///
/// # Errors
/// As rt_sigprocmask(2).
pub fn reset_signals(ignored: u64, blocked: u64) -> io::Result<()> {
    for signal in 1..=64 {
        let ignore = ignored >> (signal - 1) & 1 == 1;
        let action = KernelSigaction {
            handler: usize::from(ignore),
            ..KernelSigaction::default()
        };
        // SAFETY: SIG_DFL and SIG_IGN run no code of ours; the struct is what the kernel
        // expects for 8-byte masks. KILL, STOP answer EINVAL and are left alone.
        // JUSTIFICATION: nix cannot name the C library's own real-time signals 32 and 33.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                0usize,
                8usize,
            );
        }
    }
    // SAFETY: the mask is 8 bytes, as said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const blocked,
            0usize,
            8usize,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// struct kernel_sigaction of x86_64.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}
