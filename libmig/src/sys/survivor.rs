//! Work that outlives a SIGKILL of this process, for as long as it must.
//!
//! A source thread that executes calls for us must not lose its tracer: what is left
//! of them would be judged by its own seccomp filters, and a call that a stop has
//! interrupted would go on by restart_syscall(2), of which few filters know. So the
//! tracer is a process of its own, which has memory and descriptors in common with this
//! one and is not killed with it. It ends with this process (PR_SET_PDEATHSIG), but not
//! before the last [`Shield`] has been put down.

use std::{
    any::Any,
    cell::Cell,
    ffi::c_void,
    io,
    panic::{self, AssertUnwindSafe},
    ptr, thread,
};

use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask},
    unistd::getppid,
};

use super::HostPid;

/// Bytes of stack: those of a main thread.
const STACK: usize = 8 << 20;
/// How long a shield is held up at most: whoever died may have held a lock, that of the
/// allocator for one, for which its survivor waits in vain.
const LONGEST_S: i64 = 30;
/// As `pkill` and `killall` see it, which mean the daemon.
const NAME: &std::ffi::CStr = c"mig-mover";
/// What the daemon ends by in an orderly way, and its movers then with it.
const LEFT_TO_THE_PARENT: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

thread_local! {
    /// The process that is survived, in its survivor.
    static SURVIVED: Cell<Option<HostPid>> = const { Cell::new(None) };
    static SHIELDS: Cell<u32> = const { Cell::new(0) };
}

/// The signal that ends a survivor. No real-time signal: its new parent may not cope with
/// a status that nix has no name for.
const ENDING: Signal = Signal::SIGUSR2;

/// The process on whose behalf the calling thread works: not the calling process,
/// within [`run`].
#[must_use]
pub fn principal() -> HostPid {
    SURVIVED.get().unwrap_or_else(HostPid::own)
}

/// Does `work` in a process of its own, as if the calling thread did it: with all that it
/// has, its thread-local variables too. It blocks until the work is done, and until every
/// thread has ended that the work has started: they belong to that process.
///
/// # Errors
/// When there can be no further process.
///
/// # Panics
/// As `work` does.
pub fn run<R>(work: impl FnOnce() -> R) -> io::Result<R> {
    let stack = Stack::new()?;
    let old = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let mut errand = Errand {
        work: Some(work),
        outcome: None,
        principal: HostPid::own(),
        mask: old,
    };
    let started = start(&stack, &mut errand);
    let waited = started.map(wait);
    old.thread_set_mask()?;
    waited?;
    match errand.outcome {
        Some(Ok(result)) => Ok(result),
        Some(Err(panic)) => panic::resume_unwind(panic),
        // Killed in the middle of something, with locks that nobody will ever unlock.
        None => std::process::abort(),
    }
}

/// While it is held up, the death of the process that is survived ends nothing. Nothing
/// but a delay of that elsewhere.
#[derive(Debug)]
pub struct Shield {
    was_blocked: bool,
}

impl Shield {
    /// Holds one up. They may be nested.
    #[must_use]
    pub fn raise() -> Self {
        let was_blocked = mask_ending(SigmaskHow::SIG_BLOCK);
        if SHIELDS.replace(SHIELDS.get() + 1) == 0 && SURVIVED.get().is_some() {
            alarm(LONGEST_S);
        }
        Self { was_blocked }
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        SHIELDS.set(SHIELDS.get() - 1);
        if SHIELDS.get() == 0 && SURVIVED.get().is_some() {
            alarm(0);
        }
        if !self.was_blocked {
            mask_ending(SigmaskHow::SIG_UNBLOCK);
        }
    }
}

/// Blocks or unblocks the ending signal of the calling thread; whether it was blocked.
fn mask_ending(how: SigmaskHow) -> bool {
    let old = SigSet::from(ENDING).thread_swap_mask(how);
    old.is_ok_and(|old| old.contains(ENDING))
}

/// ITIMER_REAL, of which a survivor has one to itself; its signal ends it.
fn alarm(seconds: i64) {
    let none = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let setting = libc::itimerval {
        it_interval: none,
        it_value: libc::timeval {
            tv_sec: seconds,
            ..none
        },
    };
    // SAFETY: the setting is valid and outlives the call.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const setting, ptr::null_mut()) };
}

struct Errand<F, R> {
    work: Option<F>,
    outcome: Option<thread::Result<R>>,
    principal: HostPid,
    mask: SigSet,
}

impl<F: FnOnce() -> R, R> Errand<F, R> {
    /// In the new process.
    fn perform(&mut self) {
        if self.settle().is_err() {
            return;
        }
        if let Some(work) = self.work.take() {
            SURVIVED.set(Some(self.principal));
            let outcome: Result<R, Box<dyn Any + Send>> =
                panic::catch_unwind(AssertUnwindSafe(work));
            SURVIVED.set(None);
            self.outcome = Some(outcome);
        }
    }

    fn settle(&self) -> nix::Result<()> {
        for signal in LEFT_TO_THE_PARENT {
            // SAFETY: an ignored signal runs no code; the handlers are this process's own copy.
            unsafe { libc::signal(signal as i32, libc::SIG_IGN) };
        }
        for signal in [ENDING, Signal::SIGALRM] {
            // SAFETY: as above, for the default action.
            unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
        }
        // SAFETY: the option takes a number.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, ENDING as i32) };
        // SAFETY: the option takes a string, which is a constant.
        unsafe { libc::prctl(libc::PR_SET_NAME, NAME.as_ptr()) };
        if getppid() != self.principal.into() {
            return Err(nix::Error::ESRCH);
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)?;
        mask_ending(SigmaskHow::SIG_UNBLOCK);
        Ok(())
    }
}

extern "C" fn enter<F: FnOnce() -> R, R>(errand: *mut c_void) -> i32 {
    // SAFETY: `start` passes its errand, which nobody else touches until this process has ended.
    let errand = unsafe { &mut *errand.cast::<Errand<F, R>>() };
    errand.perform();
    0
}

/// clone(2) with CLONE_VM and CLONE_FILES. Without CLONE_SETTLS the new process has
/// the thread-local variables of the calling thread, which must not run meanwhile. No signal tells
/// of its end: nobody but [`wait`] hears of it.
fn start<F: FnOnce() -> R, R>(stack: &Stack, errand: &mut Errand<F, R>) -> io::Result<i32> {
    let flags = libc::CLONE_VM | libc::CLONE_FILES;
    let errand = ptr::from_mut(errand).cast();
    // SAFETY: the stack is memory of its own, as large as it says. The errand outlives the new process,
    // for which `wait` waits; what it shares with the calling thread, that thread does not touch
    // meanwhile: it does nothing but execute one instruction.
    let pid = unsafe { libc::clone(enter::<F, R>, stack.top(), flags, errand) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Waits for the end of a process. Not by the C library: it would write `errno`, which is that of
/// the other process just now.
fn wait(pid: i32) {
    loop {
        let result: i64;
        // SAFETY: wait4(pid, NULL, __WALL, NULL) writes no memory; the kernel clobbers
        // rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") libc::SYS_wait4 => result,
                in("rdi") i64::from(pid),
                in("rsi") 0,
                in("rdx") i64::from(libc::__WALL),
                in("r10") 0,
                out("rcx") _,
                out("r11") _,
            );
        }
        if result != -i64::from(libc::EINTR) {
            return;
        }
    }
}

/// A stack with a page below it that cannot be touched.
struct Stack(*mut c_void);

impl Stack {
    fn new() -> io::Result<Self> {
        const GUARD: usize = 4096;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at a place that the kernel chooses.
        let base = unsafe { libc::mmap(ptr::null_mut(), STACK, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self(base);
        // SAFETY: the lowest page of our own mapping, which nothing uses yet.
        match unsafe { libc::mprotect(base, GUARD, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the process that ran on it has ended.
        unsafe { libc::munmap(self.0, STACK) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    thread_local!(static OWN: Cell<i32> = const { Cell::new(1) });

    #[test]
    fn work_is_done_as_if_the_calling_thread_did_it() {
        let local = [1, 2, 3];
        OWN.set(7);
        let own = HostPid::own();
        let (worker, sum, on_behalf_of) = run(|| {
            OWN.set(OWN.get() + 1);
            let threads = thread::spawn(HostPid::own).join().ok();
            assert_eq!(threads, Some(HostPid::own()));
            (HostPid::own(), local.iter().sum::<i32>(), principal())
        })
        .unwrap();
        assert_ne!(worker, own);
        assert_eq!((sum, on_behalf_of, OWN.get()), (6, own, 8));
        assert_eq!(principal(), own);
    }

    /// Handlers are a process's own, and what waits for tracees needs one.
    #[test]
    fn one_waits_after_another() {
        use super::super::ptrace::{self, Options, PtraceError};
        use std::{process::Command, time::Duration};
        for _ in 0..2 {
            let late = run(|| {
                let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
                let host = HostPid::new(child.id().cast_signed());
                ptrace::seize(host, Options::empty()).unwrap();
                let late = ptrace::wait_until(host, Instant::now() + Duration::from_millis(20));
                child.kill().unwrap();
                child.wait().unwrap();
                late.unwrap_err()
            });
            assert!(matches!(late.unwrap(), PtraceError::Stuck { .. }));
        }
    }

    #[test]
    fn a_panic_comes_back() {
        let caught = panic::catch_unwind(|| run(|| panic!("as it was")));
        let said = caught.unwrap_err();
        assert_eq!(said.downcast_ref(), Some(&"as it was"));
    }
}
