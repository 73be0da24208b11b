//! The system calls by which a husk takes over what the threads of a process
//! share: signal actions, directories, attributes, timers.

use rustix::time::ClockId;

use super::clocks;
use crate::{
    image::{Clocks, IntervalTimer, LiveProcess, Pid, PosixTimer, SigInfo, SignalAction},
    sys::remote::{Arg, Batch},
};

const PR_SET_CHILD_SUBREAPER: u64 = 36;
const PR_SET_MDWE: u64 = 65;
const PR_SET_THP_DISABLE: u64 = 41;
/// Linux 6.15.
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// sizeof(sigset_t) in the kernel.
const SIGSET: u64 = 8;
const SIGNALS: usize = 64;
const ITIMER_REAL: u64 = 0;
/// Timers that are made and deleted to reach an ID, on kernels that cannot be
/// told which ID to give.
const TIMER_DETOUR: i32 = 4096;

/// Attributes that need no other thread and no open descriptor.
pub(super) fn attributes(batch: &mut Batch, process: &LiveProcess) {
    for (number, action) in (1u64..).zip(process.actions.iter().take(SIGNALS)) {
        if number != libc::SIGKILL as u64 && number != libc::SIGSTOP as u64 {
            set_action(batch, number, action);
        }
    }
    batch.call(libc::SYS_personality, &[process.personality.into()]);
    if process.child_subreaper {
        prctl(batch, &[PR_SET_CHILD_SUBREAPER, 1]);
    }
    if process.thp_disable {
        prctl(batch, &[PR_SET_THP_DISABLE, 1]);
    }
}

/// Memory that may not become executable. Late: to map the program was to make it so.
pub(super) fn confine_memory(batch: &mut Batch, process: &LiveProcess) {
    if process.exec_gain != 0 {
        prctl(batch, &[PR_SET_MDWE, process.exec_gain.into()]);
    }
}

fn set_action(batch: &mut Batch, number: u64, action: &SignalAction) {
    let words = [action.handler, action.flags, action.restorer, action.mask];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let action = batch.data(&bytes);
    batch.call(
        libc::SYS_rt_sigaction,
        &[number.into(), action.into(), 0u64.into(), SIGSET.into()],
    );
}

/// Where path lookups start. Late: every other path is one of the job's root.
pub(super) fn directories(batch: &mut Batch, process: &LiveProcess) {
    batch.call(libc::SYS_umask, &[process.fs.umask.into()]);
    let cwd = batch.string(&process.fs.cwd.path);
    batch.call(libc::SYS_chdir, &[cwd.into()]);
    if process.fs.root.path != b"/" {
        let root = batch.string(&process.fs.root.path);
        batch.call(libc::SYS_chroot, &[root.into()]);
    }
}

/// Forgets the SIGCHLDs that the restore itself caused (zombies that died a
/// second time, children that were stopped again) and queues what was pending.
pub(super) fn pending(batch: &mut Batch, signals: &[SigInfo]) {
    let set = batch.data(&(1u64 << (libc::SIGCHLD - 1)).to_le_bytes());
    let now = batch.reserve(16);
    batch.attempt(
        libc::SYS_rt_sigtimedwait,
        &[set.into(), 0u64.into(), now.into(), SIGSET.into()],
    );
    for signal in signals {
        let info = batch.data(&signal.0);
        let own = batch.call(libc::SYS_getpid, &[]);
        batch.call(
            libc::SYS_rt_sigqueueinfo,
            &[own.into(), number_of(signal), info.into()],
        );
    }
}

/// Waits for the stops of these children: the program had done so before.
pub(super) fn notice_stops(batch: &mut Batch, children: &[Pid]) {
    let options = libc::WSTOPPED | libc::WNOHANG;
    for child in children {
        let who = [
            libc::P_PID.into(),
            (*child).into(),
            0u64.into(),
            options.into(),
            0u64.into(),
        ];
        batch.attempt(libc::SYS_waitid, &who);
    }
}

/// si_signo, as an argument.
pub(super) fn number_of(signal: &SigInfo) -> Arg {
    Arg::from(signal_number(signal))
}

/// si_signo.
pub(super) fn signal_number(signal: &SigInfo) -> i32 {
    signal
        .0
        .first_chunk()
        .map_or(0, |bytes| i32::from_le_bytes(*bytes))
}

/// Makes the POSIX timers, disarmed; `exact` when the kernel takes IDs. `seen` is what the
/// process calls a thread.
pub(super) fn make_timers(
    batch: &mut Batch,
    timers: &[PosixTimer],
    exact: bool,
    seen: impl Fn(Pid) -> Pid,
) {
    if timers.is_empty() {
        return;
    }
    if exact {
        prctl(batch, &[PR_TIMER_CREATE_RESTORE_IDS, 1]);
        for timer in timers {
            make_timer(batch, timer, timer.id, &seen);
        }
        prctl(batch, &[PR_TIMER_CREATE_RESTORE_IDS, 0]);
        return;
    }
    // Older kernels count from 0 in every process.
    let mut next = 0;
    for timer in timers {
        while next < timer.id.min(TIMER_DETOUR) {
            let id = make_timer(batch, timer, next, &seen);
            batch.call(libc::SYS_timer_delete, &[id]);
            next += 1;
        }
        make_timer(batch, timer, timer.id, &seen);
        next = timer.id.saturating_add(1);
    }
}

/// Returns the ID as an argument for other calls.
fn make_timer(batch: &mut Batch, timer: &PosixTimer, id: i32, seen: &impl Fn(Pid) -> Pid) -> Arg {
    let mut event = Vec::with_capacity(64);
    event.extend(timer.value.to_le_bytes());
    event.extend(timer.signal.to_le_bytes());
    event.extend(timer.notify.to_le_bytes());
    event.extend(seen(timer.tid).to_le_bytes());
    event.resize(64, 0);
    let event = batch.data(&event);
    let place = batch.data(&id.to_le_bytes());
    batch.call(
        libc::SYS_timer_create,
        &[timer.clock.into(), event.into(), place.into()],
    );
    id.into()
}

/// Arms everything that ticks, to be due when it would have been had the job
/// run on. `then` are its clocks when it was captured, `now` what they are.
/// Last of all.
pub(super) fn arm(batch: &mut Batch, process: &LiveProcess, then: &Clocks, now: &Clocks) {
    for timer in process
        .timers
        .iter()
        .filter(|timer| timer.remaining_ns != 0)
    {
        let (flags, value) = posix_expiry(timer, then, now);
        let setting = batch.data(&interval(timer.interval_ns, value, 1_000_000_000));
        batch.call(
            libc::SYS_timer_settime,
            &[timer.id.into(), flags.into(), setting.into(), 0u64.into()],
        );
    }
    let passed_us = clocks::passed(libc::CLOCK_MONOTONIC, then, now) / 1000;
    for (which, timer) in (0u64..).zip(process.itimers) {
        let value_us = next_expiry(which, timer, passed_us);
        if value_us != 0 || timer.interval_us != 0 {
            let setting = batch.data(&interval(timer.interval_us, value_us, 1_000_000));
            batch.call(
                libc::SYS_setitimer,
                &[which.into(), setting.into(), 0u64.into()],
            );
        }
    }
}

/// Flags and value with which a timer is armed. One whose clock stood still for
/// as long as the job did is told the very moment: had it expired since, it
/// does so at once, and the kernel counts what else was missed.
fn posix_expiry(timer: &PosixTimer, then: &Clocks, now: &Clocks) -> (i32, u64) {
    let began = match timer.clock {
        libc::CLOCK_MONOTONIC => then.monotonic_ns,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => then.boottime_ns,
        clock => {
            let passed = clocks::passed(clock, then, now);
            return (0, timer.remaining_ns.saturating_sub(passed).max(1));
        }
    };
    let moment = u64::try_from(began).unwrap_or(0);
    let moment = moment.saturating_add(timer.remaining_ns);
    (libc::TIMER_ABSTIME, moment)
}

/// When an interval timer is due, in microseconds from now.
///
/// A periodic ITIMER_REAL has nothing left only between its expiry and the
/// delivery of SIGALRM, at which the kernel winds it up again. It comes to be in
/// that state by expiring at once; two SIGALRMs pending are one. To a timer of
/// CPU time the kernel adds one tick of its own whenever it is set.
fn next_expiry(which: u64, timer: IntervalTimer, passed_us: u64) -> u64 {
    let IntervalTimer {
        value_us,
        interval_us,
    } = timer;
    match (which, value_us) {
        (ITIMER_REAL, 0) => u64::from(interval_us != 0),
        (ITIMER_REAL, left) => left.saturating_sub(passed_us).max(1),
        (_, 0) => 0,
        (_, left) => left.saturating_sub(tick_us()).max(1),
    }
}

/// The kernel's tick, by which CPU time is counted.
fn tick_us() -> u64 {
    let tick = rustix::time::clock_getres(ClockId::MonotonicCoarse);
    u64::try_from(tick.tv_nsec / 1000).unwrap_or(0)
}

/// struct itimerspec or itimerval: reload value, then time to the next expiry.
fn interval(reload: u64, next: u64, unit: u64) -> Vec<u8> {
    [reload / unit, reload % unit, next / unit, next % unit]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

pub(super) fn prctl(batch: &mut Batch, arguments: &[u64]) {
    let mut five = [Arg::Value(0); 5];
    for (place, value) in five.iter_mut().zip(arguments) {
        *place = Arg::Value(*value);
    }
    batch.call(libc::SYS_prctl, &five);
}
