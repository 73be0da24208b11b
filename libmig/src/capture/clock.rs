//! The clocks of a job, as the daemon computes them.

use std::io;

use rustix::time::{ClockId, clock_gettime};

use crate::{
    image::{ClockShift, Clocks},
    inspect::text,
    sys::HostPid,
};

/// By how much the clocks of a job's time namespace differ from the daemon's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct JobClock {
    monotonic_ns: i64,
    boottime_ns: i64,
}

impl JobClock {
    /// The clocks that a live process reads.
    pub(super) fn of(process: HostPid) -> io::Result<Self> {
        let offsets = |who: &str| {
            let text = text::string(format!("/proc/{who}/timens_offsets"))?;
            Ok::<_, io::Error>(parse_offsets(&text))
        };
        let (job, own) = (offsets(&process.to_string())?, offsets("self")?);
        Ok(Self {
            monotonic_ns: job[0] - own[0],
            boottime_ns: job[1] - own[1],
        })
    }

    /// By how much those of `process` differ from those of `base`.
    pub(super) fn shift(process: HostPid, base: HostPid) -> io::Result<ClockShift> {
        let (process, base) = (Self::of(process)?, Self::of(base)?);
        Ok(ClockShift {
            monotonic_ns: process.monotonic_ns - base.monotonic_ns,
            boottime_ns: process.boottime_ns - base.boottime_ns,
        })
    }

    /// All of them, now.
    pub(super) fn clocks(self) -> Clocks {
        Clocks {
            realtime_ns: now(ClockId::Realtime),
            monotonic_ns: now(ClockId::Monotonic) + self.monotonic_ns,
            boottime_ns: now(ClockId::Boottime) + self.boottime_ns,
        }
    }

    /// CLOCK_MONOTONIC.
    pub(super) fn now_ns(self) -> u64 {
        u64::try_from(now(ClockId::Monotonic) + self.monotonic_ns).unwrap_or(0)
    }
}

fn now(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Offsets of CLOCK_MONOTONIC and CLOCK_BOOTTIME in nanoseconds:
/// `monotonic  10  500` in seconds and nanoseconds.
fn parse_offsets(text: &str) -> [i64; 2] {
    ["monotonic", "boottime"].map(|clock| {
        let line = text.lines().find_map(|line| line.strip_prefix(clock));
        let mut numbers = line
            .into_iter()
            .flat_map(str::split_ascii_whitespace)
            .map(|word| word.parse::<i64>().unwrap_or(0));
        numbers.next().unwrap_or(0) * 1_000_000_000 + numbers.next().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace() {
        assert_eq!(
            parse_offsets("monotonic          -2  500\nboottime            3         0\n"),
            [-1_999_999_500, 3_000_000_000]
        );
        assert_eq!(parse_offsets(""), [0, 0]);
    }
}
