//! Waits with a relative timeout of which the kernel keeps nothing at a stop:
//! how much of them is left, and how the thread goes on with that.

use super::{clock::JobClock, sample::Sample};
use crate::{
    image::Registers,
    sys::{
        HostPid,
        ptrace::{PtraceError, Stopped, reg},
        remote::{
            foothold::ERESTARTNOHAND,
            rewait::{self, Timeout, Waiting},
        },
    },
};

/// A wait that a stop has interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimedWait {
    /// The call.
    pub(super) number: i64,
    /// When it ends, CLOCK_MONOTONIC of its process.
    pub(super) deadline_ns: u64,
    clock: JobClock,
    /// Where the detour of its process is.
    place: Option<u64>,
    /// The kernel has written what is left into the program's memory, and made
    /// again the call takes it from there.
    kept: Option<Timeout>,
}

/// The registers that a stopped thread has without a detour, and its wait if it
/// is in one. `place` says where its process has the detour.
pub(super) fn find(
    thread: HostPid,
    registers: &Registers,
    sample: Sample,
    clock: JobClock,
    place: impl FnOnce() -> Option<u64>,
) -> (Registers, Option<TimedWait>) {
    let number = registers[reg::ORIG_RAX].cast_signed();
    let Some(timeout) = rewait::timeout_of(number) else {
        return (*registers, None);
    };
    let place = place();
    let detoured = place.and_then(|place| rewait::home(thread, place, registers));
    let home = detoured.map_or(*registers, |waiting| waiting.registers);
    let wait = |deadline_ns, kept| TimedWait {
        number,
        deadline_ns,
        clock,
        place,
        kept,
    };
    let found = match interruption(number, registers) {
        Interruption::None => None,
        _ if detoured.is_some() => detoured.map(|waiting| wait(waiting.deadline_ns, None)),
        Interruption::Kept => timeout
            .asked(thread, &home)
            .map(|left| wait(clock.now_ns().saturating_add(left), Some(timeout))),
        Interruption::Forgotten => timeout.asked(thread, &home).map(|asked| {
            let slept = sample.slept_ns.filter(|slept| *slept <= asked);
            let left = asked - slept.unwrap_or(0);
            wait(clock.now_ns().saturating_add(left), None)
        }),
    };
    (home, found)
}

enum Interruption {
    /// The call has come to its end.
    None,
    /// select and its like: what is left has been written to where the timeout is.
    Kept,
    /// Nothing tells what is left.
    Forgotten,
}

fn interruption(number: i64, registers: &Registers) -> Interruption {
    let selects = [libc::SYS_select, libc::SYS_pselect6, libc::SYS_ppoll];
    match registers[reg::RAX].cast_signed().wrapping_neg() {
        ERESTARTNOHAND if selects.contains(&number) => Interruption::Kept,
        ERESTARTNOHAND => Interruption::Forgotten,
        error if error == i64::from(libc::EINTR) => Interruption::Forgotten,
        _ => Interruption::None,
    }
}

impl TimedWait {
    /// Nanoseconds to its end; nothing for a wait whose rest is in memory.
    pub(super) fn left_ns(&self, now_ns: u64) -> Option<u64> {
        self.kept.is_none().then_some(self.left(now_ns))
    }

    /// Whatever becomes of the capture: put back, the thread waits for no more than
    /// was left at its stop.
    pub(super) fn arm(&self, stopped: &mut Stopped) -> Result<(), PtraceError> {
        if let Some(detoured) = self.detoured(stopped)? {
            stopped.put_back_instead(&detoured);
        }
        Ok(())
    }

    /// The thread, in the stop in which it was frozen, goes on here with what is left now.
    pub(super) fn resume(&self, stopped: &mut Stopped) -> Result<(), PtraceError> {
        if let Some(timeout) = self.kept {
            let (thread, left_ns) = (stopped.thread(), self.left(self.clock.now_ns()));
            if let Err(error) = timeout.update(thread, &stopped.registers()?, left_ns) {
                tracing::debug!(%thread, %error, "a wait goes on with what was left at its stop");
            }
        }
        match self.detoured(stopped)? {
            Some(detoured) => stopped.amend_registers(&detoured),
            None => Ok(()),
        }
    }

    /// What cannot be written is no reason to harm a thread: it waits its full time again.
    fn detoured(&self, stopped: &Stopped) -> Result<Option<Registers>, PtraceError> {
        let (None, Some(place)) = (self.kept, self.place) else {
            return Ok(None);
        };
        let thread = stopped.thread();
        let waiting = Waiting {
            registers: stopped.registers()?,
            deadline_ns: self.deadline_ns,
        };
        let entered = rewait::enter(thread, place, &waiting, self.left(self.clock.now_ns()));
        Ok(entered
            .inspect_err(|error| tracing::debug!(%thread, %error, "a wait begins anew"))
            .ok())
    }

    fn left(&self, now_ns: u64) -> u64 {
        self.deadline_ns.saturating_sub(now_ns)
    }
}
