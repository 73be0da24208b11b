//! Tries kernel facilities out, each in a child of its own.
//!
//! Whether a call works here cannot be read off the kernel's version: seccomp
//! filters, missing capabilities and build options decide as well. So each
//! function forks a child that makes the very call and tells its errno by its
//! exit status. The child is killed when it takes too long, and dies with the
//! thread that made it; nothing of the caller is changed.
//!
//! The caller may have threads. Between fork and exit only calls are made that
//! neither allocate nor lock; that is the invariant of this folder.
//! `inspect::probe` says what the answers mean.

mod host;
mod memory;
mod tasks;

use std::time::{Duration, Instant};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpid, getppid},
};

pub use host::{bridge, overlayfs, veth};
pub use memory::{pagemap_scan, write_tracking};
pub use tasks::{
    clone3_set_tid, dupfd_query, kcmp, pidfd_getfd, prctl_mm_map, process_vm_readv, ptrace_rseq,
    ptrace_seize, rseq, time_namespace, timer_restore_ids,
};

/// How long a child may take for its answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a child does: only calls that neither allocate nor lock.
type Action = fn() -> Result<(), Errno>;

/// A child that does nothing until it is killed, as [`Drop`] does.
#[derive(Debug)]
pub struct Idler(Pid);

impl Idler {
    /// Forks it.
    ///
    /// # Errors
    /// What fork(2) says.
    pub fn spawn() -> Result<Self, Errno> {
        let parent = getpid();
        // SAFETY: the child only makes system calls until it is killed: no
        // allocation, no lock. JUSTIFICATION: it must cost nothing and need no
        // file of this machine, which an exec'd helper would.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self(child)),
            ForkResult::Child => idle(parent),
        }
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }

    /// Waits until something else has killed it; false when nothing has within
    /// `patience`.
    #[must_use]
    pub fn has_died(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            // Not reaped here: Drop does that, of the same pid.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let id = nix::sys::wait::Id::Pid(self.0);
            match nix::sys::wait::waitid(id, flags) {
                Ok(WaitStatus::StillAlive) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        end(self.0);
    }
}

/// Runs `action` in a child. Its errno, or ETIMEDOUT.
fn in_child(action: Action) -> Result<(), Errno> {
    let parent = getpid();
    // SAFETY: every action of this folder only makes system calls on memory of
    // its own: no allocation, no lock, no unwinding past `exit`.
    match unsafe { fork() }? {
        ForkResult::Child => {
            die_with(parent);
            let errno = action().err().map_or(0, |errno| errno as i32);
            exit(errno)
        }
        ForkResult::Parent { child } => answer(child, Instant::now() + PATIENCE),
    }
}

fn answer(child: Pid, deadline: Instant) -> Result<(), Errno> {
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(WaitStatus::StillAlive) => {
                end(child);
                return Err(Errno::ETIMEDOUT);
            }
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => return Err(Errno::from_raw(errno)),
            // A seccomp filter may kill instead of answering.
            Ok(_) => return Err(Errno::EPERM),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills and reaps a child of ours. There is nothing to be done when that
/// fails: it is then no longer a child of ours.
fn end(child: Pid) {
    if kill(child, Signal::SIGKILL).is_ok() {
        while waitpid(child, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}

/// Dies when `parent` does, also when it already has. The first process of a
/// pid namespace sees a parent outside of it as 0.
fn die_with(parent: Pid) {
    let set = prctl::set_pdeathsig(Signal::SIGKILL);
    if set.is_err() || ![parent, Pid::from_raw(0)].contains(&getppid()) {
        exit(Errno::ESRCH as i32);
    }
}

fn idle(parent: Pid) -> ! {
    die_with(parent);
    loop {
        nix::unistd::pause();
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process at once, without running what the parent has
    // registered for its own exit.
    unsafe { libc::_exit(status) }
}

/// The result of a raw call: -1 is an errno.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    Errno::result(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_whole() {
        assert_eq!(in_child(|| Ok(())), Ok(()));
        assert_eq!(in_child(|| Err(Errno::ENOSYS)), Err(Errno::ENOSYS));
        let killed = in_child(|| {
            kill(Pid::this(), Signal::SIGKILL)?;
            Ok(())
        });
        assert_eq!(killed, Err(Errno::EPERM));
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let parent = getpid();
        // SAFETY: the child only sleeps.
        let ForkResult::Parent { child } = unsafe { fork() }.unwrap() else {
            idle(parent)
        };
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(answer(child, soon), Err(Errno::ETIMEDOUT));
        assert_eq!(kill(child, None), Err(Errno::ESRCH));
    }

    #[test]
    fn an_idler_ends_with_its_owner() {
        let idler = Idler::spawn().unwrap();
        assert!(!idler.has_died(Duration::ZERO));
        let pid = Pid::from_raw(idler.pid());
        kill(pid, Signal::SIGKILL).unwrap();
        assert!(idler.has_died(Duration::from_secs(5)));
        drop(idler);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }
}
