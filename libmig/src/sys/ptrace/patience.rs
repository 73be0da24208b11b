//! waitpid(2) with an end: a tracee that never stops must not hold its tracer.
//!
//! A timer of the waiting thread interrupts the wait, so that a stop is still
//! seen the moment it happens. The timer fires again and again until the wait
//! is over: once could be just before the thread begins to wait.

use std::{
    cell::{Cell, RefCell},
    fs, io, mem, ptr,
    time::{Duration, Instant},
};

use super::{HostPid, PtraceError, event};
use crate::sys::survivor;

/// How long a tracee may take to its next stop, unless its tracer says otherwise.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two interruptions of a wait that is due to end.
const AGAIN: Duration = Duration::from_millis(10);

thread_local! {
    static LIMIT: Cell<Duration> = const { Cell::new(PATIENCE) };
    static ALARM: RefCell<Option<Alarm>> = const { RefCell::new(None) };
    /// Timers are a process's: what is in [`survivor::run`] has others.
    static SURVIVORS_ALARM: RefCell<Option<Alarm>> = const { RefCell::new(None) };
}

/// Sets how long the calling thread waits for a tracee of its own: husks that
/// execute, source threads that answer.
pub fn limit_waits(limit: Duration) {
    LIMIT.set(limit);
}

/// The status word of the next state change.
pub(super) fn wait_status(thread: HostPid) -> Result<i32, PtraceError> {
    let limit = LIMIT.get();
    wait_for(thread, limit)?.ok_or_else(|| PtraceError::Late {
        thread,
        limit,
        state: state(thread),
    })
}

/// As [`wait_status`]; nothing when `limit`, which is not zero, is over.
pub(super) fn wait_for(thread: HostPid, limit: Duration) -> Result<Option<i32>, PtraceError> {
    let deadline = Instant::now() + limit;
    let alarm = if survivor::principal() == HostPid::own() {
        &ALARM
    } else {
        &SURVIVORS_ALARM
    };
    alarm.with_borrow_mut(|alarm| {
        if alarm.as_ref().is_none_or(|alarm| !alarm.is_own()) {
            *alarm = Alarm::new();
        }
        match alarm {
            Some(alarm) => {
                alarm.set(limit);
                let status = blocking(thread, deadline);
                alarm.set(Duration::ZERO);
                status
            }
            None => polling(thread, deadline),
        }
    })
}

fn blocking(thread: HostPid, deadline: Instant) -> Result<Option<i32>, PtraceError> {
    loop {
        match event::waitpid(thread, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                if Instant::now() >= deadline {
                    return Ok(None);
                }
            }
            other => return other.map_err(|source| event::wait_failed(thread, source)),
        }
    }
}

/// Where no timer is to be had.
fn polling(thread: HostPid, deadline: Instant) -> Result<Option<i32>, PtraceError> {
    loop {
        let status = event::waitpid(thread, libc::WNOHANG);
        match status.map_err(|source| event::wait_failed(thread, source))? {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(50)),
            status => return Ok(status),
        }
    }
}

/// What a thread does instead of stopping, for the error.
fn state(thread: HostPid) -> String {
    let read = |file| fs::read_to_string(format!("/proc/{thread}/{file}")).unwrap_or_default();
    let stat = read("stat");
    let letter = stat.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]);
    let call = read("syscall");
    let call = call.split_ascii_whitespace().next().unwrap_or("?");
    let place = read("wchan");
    format!("state {letter}, system call {call}, waiting in {place}")
}

/// A timer that interrupts the thread that made it.
struct Alarm {
    timer: libc::timer_t,
    process: HostPid,
}

impl Alarm {
    fn new() -> Option<Self> {
        let signal = interrupting_signal()?;
        // SAFETY: all zeroes is a valid sigevent.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        (made == 0).then(|| Self {
            timer,
            process: HostPid::own(),
        })
    }

    fn is_own(&self) -> bool {
        self.process == HostPid::own()
    }

    /// Interrupts the thread after `delay`, and then again and again; never, for zero.
    fn set(&self, delay: Duration) {
        let again = if delay.is_zero() {
            Duration::ZERO
        } else {
            AGAIN
        };
        let setting = libc::itimerspec {
            it_interval: timespec(again),
            it_value: timespec(delay),
        };
        // SAFETY: the timer is ours, the setting outlives the call.
        let set =
            unsafe { libc::timer_settime(self.timer, 0, &raw const setting, ptr::null_mut()) };
        debug_assert_eq!(set, 0, "a valid setting of a timer of ours");
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.is_own() {
            // SAFETY: the timer is ours and nobody uses it any more.
            unsafe { libc::timer_delete(self.timer) };
        }
    }
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// A signal with a handler that does nothing but interrupt; nothing when
/// somebody else in this process uses it. A process has handlers of its own in
/// [`survivor::run`] too.
fn interrupting_signal() -> Option<i32> {
    extern "C" fn nothing(_: i32) {}
    let handler = nothing as extern "C" fn(i32) as usize;
    let signal = libc::SIGRTMIN() + 9;
    // SAFETY: all zeroes is a valid sigaction: default action, no flags, empty mask.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut new: libc::sigaction = unsafe { mem::zeroed() };
    new.sa_sigaction = handler;
    // SAFETY: `old` is a valid place for the answer.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut old) };
    if asked != 0 || ![libc::SIG_DFL, handler].contains(&old.sa_sigaction) {
        return None;
    }
    // SAFETY: the handler does nothing, which is safe at any moment.
    let set = unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) };
    (set == 0).then_some(signal)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::ptrace::{self, Options, Waited};

    /// A child that sleeps, traced by this thread.
    fn traced() -> (std::process::Child, HostPid) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let host = HostPid::new(child.id().cast_signed());
        ptrace::seize(host, Options::PTRACE_O_EXITKILL).unwrap();
        (child, host)
    }

    #[test]
    fn a_wait_for_what_never_stops_ends_and_says_what_it_does() {
        let (mut child, host) = traced();
        limit_waits(Duration::from_millis(60));
        for _ in 0..3 {
            let began = Instant::now();
            let late = ptrace::wait(host).unwrap_err();
            let took = began.elapsed();
            assert!((60..2000).contains(&took.as_millis()), "{took:?}");
            assert!(matches!(late, PtraceError::Late { .. }), "{late}");
            assert!(late.to_string().contains("state S"), "{late}");
        }
        ptrace::interrupt(host).unwrap();
        assert!(matches!(ptrace::wait(host), Ok(Waited::Stopped(..))));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn without_a_timer_it_ends_too() {
        let (mut child, host) = traced();
        let soon = Instant::now() + Duration::from_millis(30);
        assert!(matches!(polling(host, soon), Ok(None)));
        ptrace::interrupt(host).unwrap();
        let soon = Instant::now() + Duration::from_secs(5);
        assert!(matches!(polling(host, soon), Ok(Some(_))));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
