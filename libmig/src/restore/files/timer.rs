//! timerfds as they would be had they run on.

use std::{io, os::fd::OwnedFd, time::Instant};

use crate::{image::TimerFile, sys::descriptor};

/// How often a timer is armed anew when it expires while it is being armed.
const ATTEMPTS: usize = 8;

/// Arms a timer as it was armed `passed` ns ago. An absolute one stays
/// absolute, so that it follows when the clock is set.
///
/// To arm it forgets its expirations and to set these forgets one that has come
/// since: a timer that expires in between is armed again.
pub(super) fn set(fd: &OwnedFd, timer: &TimerFile, passed: u64) -> io::Result<()> {
    let began = Instant::now();
    for _ in 0..ATTEMPTS {
        let late = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let due = Due::after(timer, passed.saturating_add(late));
        let mut value = due.value_ns;
        if value != 0 && timer.settime_flags & libc::TFD_TIMER_ABSTIME != 0 {
            value = value.saturating_add(clock_now(timer.clock)?);
        }
        descriptor::set_timerfd(fd, timer.settime_flags, value, timer.interval_ns)?;
        if due.ticks == 0 {
            break;
        }
        descriptor::set_timerfd_ticks(fd, due.ticks)?;
        let spent = began.elapsed().as_nanos().saturating_sub(late.into());
        if due.value_ns == 0 || spent < due.value_ns.into() {
            break;
        }
    }
    Ok(())
}

/// A timer as it is to be armed.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// Nanoseconds to the next expiry; 0 when it is disarmed.
    value_ns: u64,
    /// Expirations until now that nobody has read.
    ticks: u64,
}

impl Due {
    /// What has become of a timer in `passed` ns: one that repeats has expired
    /// once for each period, as the kernel counts them for whoever reads late.
    fn after(timer: &TimerFile, passed: u64) -> Self {
        let ticks = timer.ticks;
        if timer.remaining_ns == 0 || passed < timer.remaining_ns {
            let value_ns = timer.remaining_ns.saturating_sub(passed);
            return Self { value_ns, ticks };
        }
        if timer.interval_ns == 0 {
            // Its only expiry is the kernel's to count.
            return Self { value_ns: 1, ticks };
        }
        let over = passed - timer.remaining_ns;
        Self {
            value_ns: timer.interval_ns - over % timer.interval_ns,
            ticks: ticks.saturating_add(1 + over / timer.interval_ns),
        }
    }
}

/// The clock as this process reads it: absolute times are its own.
fn clock_now(clock: i32) -> io::Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::from_raw(clock))?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let rest = u64::try_from(now.tv_nsec()).unwrap_or(0);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(remaining_ns: u64, interval_ns: u64, ticks: u64, passed: u64) -> (u64, u64) {
        let timer = TimerFile {
            clock: libc::CLOCK_MONOTONIC,
            ticks,
            settime_flags: 0,
            remaining_ns,
            interval_ns,
        };
        let due = Due::after(&timer, passed);
        (due.value_ns, due.ticks)
    }

    #[test]
    fn every_period_that_has_passed_is_an_expiration() {
        assert_eq!(due(7, 10, 2, 5), (2, 2));
        assert_eq!(due(7, 10, 2, 7), (10, 3));
        assert_eq!(due(7, 10, 2, 16), (1, 3));
        assert_eq!(due(7, 10, 2, 47), (10, 7));
    }

    #[test]
    fn a_timer_that_does_not_repeat_expires_once() {
        assert_eq!(due(7, 0, 0, 6), (1, 0));
        assert_eq!(due(7, 0, 0, 100), (1, 0));
        assert_eq!(due(0, 0, 1, 100), (0, 1), "it has expired and is not armed");
        assert_eq!(due(0, 10, 0, 100), (0, 0), "it is not armed");
        assert_eq!(due(1, 1, u64::MAX, u64::MAX), (1, u64::MAX));
    }

    #[test]
    fn a_timer_that_is_set_late_has_missed_nothing() {
        let timer = TimerFile {
            clock: libc::CLOCK_MONOTONIC,
            ticks: 4,
            settime_flags: 0,
            remaining_ns: 1_000_000,
            interval_ns: 3_600_000_000_000,
        };
        let made = descriptor::timerfd(timer.clock).unwrap();
        set(&made, &timer, 2 * timer.interval_ns).unwrap();
        let mut ticks = [0; 8];
        rustix::io::read(&made, &mut ticks).unwrap();
        assert_eq!(u64::from_ne_bytes(ticks), 4 + 2);
    }
}
