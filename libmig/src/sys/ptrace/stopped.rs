//! A thread in a ptrace stop.

use std::{marker::PhantomData, mem};

use super::{Event, HostPid, Options, PtraceError, RseqConfiguration, event, patience, request};
use crate::{
    image::{Registers, SigInfo},
    sys::survivor::Shield,
};

/// Indices into [`Registers`] (user_regs_struct).
pub mod reg {
    #![expect(missing_docs, reason = "the names are those of the registers")]
    pub const R15: usize = 0;
    pub const R14: usize = 1;
    pub const R13: usize = 2;
    pub const R12: usize = 3;
    pub const RBP: usize = 4;
    pub const RBX: usize = 5;
    pub const R11: usize = 6;
    pub const R10: usize = 7;
    pub const R9: usize = 8;
    pub const R8: usize = 9;
    pub const RAX: usize = 10;
    pub const RCX: usize = 11;
    pub const RDX: usize = 12;
    pub const RSI: usize = 13;
    pub const RDI: usize = 14;
    pub const ORIG_RAX: usize = 15;
    pub const RIP: usize = 16;
    pub const CS: usize = 17;
    pub const EFLAGS: usize = 18;
    pub const RSP: usize = 19;
    pub const SS: usize = 20;
    pub const FS_BASE: usize = 21;
    pub const GS_BASE: usize = 22;
}

/// A thread in a ptrace stop. Bound to the OS thread that traces it.
///
/// Dropped, a thread that is guarded ([`Stopped::guard`], for sources) gets its
/// registers and mask back and is detached: an unwinding capture leaves no
/// frozen program. One that is not (a husk) stays stopped, for PTRACE_O_EXITKILL
/// or its owner to end it.
#[derive(Debug)]
pub struct Stopped {
    thread: HostPid,
    signals: SignalState,
    on_drop: OnDrop,
    bound_to_tracer: PhantomData<*const ()>,
}

/// What happens to a thread that nobody holds any longer.
#[derive(Debug)]
enum OnDrop {
    /// A husk: stays stopped.
    Leave,
    /// A source thread of which nothing has been touched.
    Detach,
    /// A source thread: what it had when it was stopped is put back first.
    PutBack(Box<Guard>),
}

/// What a source thread had when it was stopped.
#[derive(Debug, Clone)]
struct Guard {
    registers: Registers,
    sigmask: u64,
}

/// The signals that matter to code injected into a thread (/proc/TID/status).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignalState {
    /// SigCgt: signals with a handler, bit n-1 for signal n.
    pub caught: u64,
    /// SigPnd | ShdPnd.
    pub pending: u64,
}

impl SignalState {
    /// The signal that ends a batch: ignored by default, so that it is nothing
    /// when the tracer is gone; not pending, so that the program's own is not
    /// swallowed with ours. Best without a handler: with one, the program of a
    /// lost tracer sees it once. `None` when all are pending.
    #[must_use]
    pub fn quiet_signal(self) -> Option<i32> {
        let candidates = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD];
        let free = |signal: &i32| self.pending & bit(*signal) == 0;
        let silent = |signal: &i32| free(signal) && self.caught & bit(*signal) == 0;
        candidates
            .into_iter()
            .find(silent)
            .or_else(|| candidates.into_iter().find(free))
    }
}

/// The bit of a signal in a mask.
#[must_use]
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

impl Stopped {
    /// For the stop that waitpid has just reported.
    pub(super) fn new(thread: HostPid) -> Self {
        Self {
            thread,
            signals: SignalState::default(),
            on_drop: OnDrop::Leave,
            bound_to_tracer: PhantomData,
        }
    }

    /// The thread.
    #[must_use]
    pub fn thread(&self) -> HostPid {
        self.thread
    }

    /// A source thread of which nothing has been touched: dropping detaches it.
    pub fn detach_on_drop(&mut self) {
        self.on_drop = OnDrop::Detach;
    }

    /// Makes it a source thread: from now on, dropping puts back the registers
    /// and the mask of this moment, and detaches.
    ///
    /// # Errors
    /// When they cannot be read; dropping then just detaches.
    pub fn guard(&mut self, signals: SignalState) -> Result<(), PtraceError> {
        self.on_drop = OnDrop::Detach;
        self.signals = signals;
        let guard = Guard {
            registers: self.registers()?,
            sigmask: self.sigmask()?,
        };
        self.on_drop = OnDrop::PutBack(Box::new(guard));
        Ok(())
    }

    /// Replaces the registers, and those that dropping or [`Stopped::release`] puts back.
    ///
    /// # Errors
    /// As [`Stopped::set_registers`].
    pub fn amend_registers(&mut self, registers: &Registers) -> Result<(), PtraceError> {
        self.set_registers(registers)?;
        if let OnDrop::PutBack(guard) = &mut self.on_drop {
            guard.registers = *registers;
        }
        Ok(())
    }

    /// Replaces the registers that dropping or [`Stopped::release`] puts back, and
    /// leaves those that the thread has.
    pub fn put_back_instead(&mut self, registers: &Registers) {
        if let OnDrop::PutBack(guard) = &mut self.on_drop {
            guard.registers = *registers;
        }
    }

    /// The signals that [`Stopped::guard`] was told of.
    #[must_use]
    pub fn signals(&self) -> SignalState {
        self.signals
    }

    /// General registers.
    ///
    /// # Errors
    /// [`PtraceError::Compat`] for a 32-bit task.
    pub fn registers(&self) -> Result<Registers, PtraceError> {
        request::registers(self.thread)
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// EIO for values that the kernel does not accept (segment selectors).
    pub fn set_registers(&mut self, registers: &Registers) -> Result<(), PtraceError> {
        request::set_registers(self.thread, registers)
    }

    /// The XSAVE area, NT_X86_XSTATE, standard format.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn xstate(&self) -> Result<Vec<u8>, PtraceError> {
        request::xstate(self.thread)
    }

    /// Sets the XSAVE area; it must have this CPU's full size.
    ///
    /// # Errors
    /// EFAULT when it is too short, EINVAL for components this CPU lacks.
    pub fn set_xstate(&mut self, area: &[u8]) -> Result<(), PtraceError> {
        request::set_xstate(self.thread, area)
    }

    /// Blocked signals. Inside sigsuspend, ppoll and their like the mask that
    /// the kernel will put back.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn sigmask(&self) -> Result<u64, PtraceError> {
        request::sigmask(self.thread)
    }

    /// Sets the blocked signals.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn set_sigmask(&mut self, mask: u64) -> Result<(), PtraceError> {
        request::set_sigmask(self.thread, mask)
    }

    /// Pending signals, oldest first: the thread's own or the process's.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn peek_siginfo(&self, shared: bool) -> Result<Vec<SigInfo>, PtraceError> {
        request::peek_siginfo(self.thread, shared)
    }

    /// The rseq(2) registration; an address of 0 means none.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn rseq(&self) -> Result<RseqConfiguration, PtraceError> {
        request::rseq(self.thread)
    }

    /// Whether its system calls go to a handler of its program (syscall user dispatch).
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn dispatches_calls(&self) -> Result<bool, PtraceError> {
        request::dispatches_calls(self.thread)
    }

    /// PTRACE_SETOPTIONS.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn set_options(&mut self, options: Options) -> Result<(), PtraceError> {
        nix::sys::ptrace::setoptions(self.thread.into(), options)
            .map_err(|errno| request::error("set options of", self.thread, errno))
    }

    /// Lets it run, delivering `signal` if it is in a signal-delivery stop (0 = none),
    /// and blocks until its next stop.
    ///
    /// # Errors
    /// [`PtraceError::Gone`] when it died instead, [`PtraceError::Late`] when it
    /// does neither: a source thread then finds home by itself, without a tracer.
    pub fn cont_wait(&mut self, signal: i32) -> Result<Event, PtraceError> {
        request::resume(self.thread, false, signal)?;
        self.next_stop()
    }

    /// As [`Stopped::cont_wait`], but stops also at the entry or exit of a system call.
    ///
    /// # Errors
    /// [`PtraceError::Gone`] when it died instead.
    pub fn syscall_wait(&mut self, signal: i32) -> Result<Event, PtraceError> {
        request::resume(self.thread, true, signal)?;
        self.next_stop()
    }

    fn next_stop(&mut self) -> Result<Event, PtraceError> {
        let status = patience::wait_status(self.thread)?;
        if libc::WIFSTOPPED(status) {
            return event::decode(self.thread, status);
        }
        self.on_drop = OnDrop::Leave;
        Err(PtraceError::Gone {
            thread: self.thread,
        })
    }

    /// Goes from any stop to one inside the kernel's get_signal(), without
    /// running user code: only there does the kernel apply its restart rules to
    /// the registers that it finds. (After a system call stop it would
    /// return to user mode with -ERESTARTSYS in rax.)
    ///
    /// # Errors
    /// [`PtraceError::Gone`] when it died instead.
    pub fn park(&mut self) -> Result<(), PtraceError> {
        super::interrupt(self.thread)?;
        loop {
            match self.cont_wait(0)? {
                Event::Stop | Event::GroupStop(_) => return Ok(()),
                // All but SIGSTOP and SIGKILL are masked while we inject; a SIGSTOP
                // that is swallowed here is sent again.
                Event::Signal(libc::SIGSTOP) => self.send_again(libc::SIGSTOP)?,
                Event::Syscall => {}
                event => {
                    return Err(PtraceError::Unexpected {
                        thread: self.thread,
                        event,
                        expected: "the end of an interrupt",
                    });
                }
            }
        }
    }

    /// Sends to the process a signal that a stop of ours swallowed, once more.
    pub(in crate::sys) fn send_again(&self, signal: i32) -> Result<(), PtraceError> {
        crate::sys::signal::send(self.thread, signal).map_err(|source| PtraceError::Refused {
            request: "signal",
            thread: self.thread,
            source,
        })
    }

    /// Lets it run and stays attached; [`super::wait`] says when it stops again.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn cont(mut self, signal: i32) -> Result<HostPid, PtraceError> {
        self.on_drop = OnDrop::Leave;
        request::resume(self.thread, false, signal)?;
        Ok(self.thread)
    }

    /// Ends the tracing; the thread runs on with the registers it has now.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn detach(mut self) -> Result<(), PtraceError> {
        self.on_drop = OnDrop::Leave;
        request::detach(self.thread, 0)
    }

    /// As [`Stopped::detach`] from a signal-delivery stop, delivering the signal.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn detach_with(mut self, signal: i32) -> Result<(), PtraceError> {
        self.on_drop = OnDrop::Leave;
        request::detach(self.thread, signal)
    }

    /// Puts back what [`Stopped::guard`] recorded, and detaches.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn release(mut self) -> Result<(), PtraceError> {
        self.put_back()?;
        self.detach()
    }

    fn put_back(&mut self) -> Result<(), PtraceError> {
        let OnDrop::PutBack(guard) = mem::replace(&mut self.on_drop, OnDrop::Detach) else {
            return Ok(());
        };
        let _shield = Shield::raise();
        // The mask first: with injected registers and the right mask the
        // injected code still finds home by itself, the reverse is not true.
        if self.sigmask()? != guard.sigmask {
            self.set_sigmask(guard.sigmask)?;
        }
        if self.registers()? != guard.registers {
            self.set_registers(&guard.registers)?;
            self.park()?;
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if matches!(self.on_drop, OnDrop::Leave) {
            return;
        }
        // Nobody is left to tell: a thread that cannot be put back is dead.
        if let Err(error) = self
            .put_back()
            .and_then(|()| request::detach(self.thread, 0))
        {
            tracing::debug!(thread = %self.thread, %error, "thread died while it was put back");
        }
    }
}
