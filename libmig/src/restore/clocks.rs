//! The job's clocks at the destination: offsets of its time namespace.
//!
//! MONOTONIC goes on where it was at the freeze; BOOTTIME includes the pause,
//! as it would include a suspend. REALTIME is not touched.

use std::{fs, io};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::{
    image::{ClockShift, Clocks},
    sys::HostPid,
};

const SECOND: i128 = 1_000_000_000;

/// Offsets in nanoseconds against the clocks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// Added to CLOCK_MONOTONIC.
    pub monotonic_ns: i128,
    /// Added to CLOCK_BOOTTIME.
    pub boottime_ns: i128,
}

impl Offsets {
    /// Those of a time namespace that differs from the job's.
    #[must_use]
    pub fn shifted(self, shift: ClockShift) -> Self {
        Self {
            monotonic_ns: self.monotonic_ns + i128::from(shift.monotonic_ns),
            boottime_ns: self.boottime_ns + i128::from(shift.boottime_ns),
        }
    }
}

/// What the job's clocks must be shifted by, `here` being the machine's own
/// clocks now. A clock that was set back meanwhile counts as no pause.
#[must_use]
pub fn offsets(job: &Clocks, here: &Clocks) -> Offsets {
    let pause = (i128::from(here.realtime_ns) - i128::from(job.realtime_ns)).max(0);
    Offsets {
        monotonic_ns: i128::from(job.monotonic_ns) - i128::from(here.monotonic_ns),
        boottime_ns: i128::from(job.boottime_ns) + pause - i128::from(here.boottime_ns),
    }
}

/// The machine's clocks, without the offsets of our own time namespace: the
/// kernel counts the offsets of every namespace from the initial one.
///
/// # Errors
/// When `/proc/self/timens_offsets` is there and unreadable.
pub fn machine() -> io::Result<Clocks> {
    let own = own_offsets()?;
    Ok(Clocks {
        realtime_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
        monotonic_ns: nanoseconds(clock_gettime(ClockId::Monotonic)).saturating_sub(own[0]),
        boottime_ns: nanoseconds(clock_gettime(ClockId::Boottime)).saturating_sub(own[1]),
    })
}

/// The job's clocks now.
///
/// # Errors
/// As [`machine`].
pub fn job(offsets: Offsets) -> io::Result<Clocks> {
    let here = machine()?;
    let shifted =
        |clock: i64, offset: i128| i64::try_from(i128::from(clock) + offset).unwrap_or(i64::MAX);
    Ok(Clocks {
        realtime_ns: here.realtime_ns,
        monotonic_ns: shifted(here.monotonic_ns, offsets.monotonic_ns),
        boottime_ns: shifted(here.boottime_ns, offsets.boottime_ns),
    })
}

/// Nanoseconds that a clock of the job has advanced.
#[must_use]
pub fn passed(clock: i32, then: &Clocks, now: &Clocks) -> u64 {
    let difference = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => {
            now.realtime_ns - then.realtime_ns
        }
        libc::CLOCK_MONOTONIC => now.monotonic_ns - then.monotonic_ns,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => now.boottime_ns - then.boottime_ns,
        // CPU time: nothing has run.
        _ => 0,
    };
    u64::try_from(difference).unwrap_or(0)
}

/// Sets the offsets of the namespace that `process` has unshared and nobody has entered.
///
/// # Errors
/// `ERANGE` when a clock would be negative, `EACCES` when somebody is in it.
pub fn write(process: HostPid, offsets: Offsets) -> io::Result<()> {
    let line = |name: &str, ns: i128| {
        format!(
            "{name} {} {}\n",
            ns.div_euclid(SECOND),
            ns.rem_euclid(SECOND)
        )
    };
    let text = line("monotonic", offsets.monotonic_ns) + &line("boottime", offsets.boottime_ns);
    fs::write(format!("/proc/{process}/timens_offsets"), text)
}

fn own_offsets() -> io::Result<[i64; 2]> {
    let text = match fs::read_to_string("/proc/self/timens_offsets") {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok([0; 2]),
        Err(error) => return Err(error),
    };
    Ok(["monotonic", "boottime"].map(|clock| parse(&text, clock).unwrap_or(0)))
}

fn parse(text: &str, clock: &str) -> Option<i64> {
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(clock))?;
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<i64>);
    let (seconds, rest) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(rest)
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(realtime_ns: i64, monotonic_ns: i64, boottime_ns: i64) -> Clocks {
        Clocks {
            realtime_ns,
            monotonic_ns,
            boottime_ns,
        }
    }

    #[test]
    fn monotonic_hides_the_pause_and_boottime_does_not() {
        let offsets = offsets(&clocks(1000, 50, 70), &clocks(1030, 400, 500));
        assert_eq!(
            (offsets.monotonic_ns, offsets.boottime_ns),
            (-350, 70 + 30 - 500)
        );
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_negative_pause() {
        assert_eq!(
            offsets(&clocks(1000, 0, 70), &clocks(10, 0, 0)).boottime_ns,
            70
        );
    }

    #[test]
    fn offsets_are_read_as_the_kernel_prints_them() {
        let text = "monotonic           -5         7\nboottime             3         0\n";
        assert_eq!(parse(text, "monotonic"), Some(-4_999_999_993));
        assert_eq!(parse(text, "boottime"), Some(3_000_000_000));
    }
}
