//! How long threads have slept, read just before they are stopped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    clock::JobClock,
    sleep::{is_plain_wait, request_of},
};
use crate::{
    image::Registers,
    inspect::process::{self, Status},
    sys::{HostPid, ptrace::reg, remote::rewait},
};

/// What was seen of the sleeping threads just before the freeze: being
/// stopped is to run.
pub(super) type Samples = BTreeMap<HostPid, Sample>;

/// What is known of a tree from before it was stopped.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) samples: Samples,
    pub(super) clock: JobClock,
    /// The time namespace with that clock, by inode.
    time: Option<u64>,
}

impl Watch {
    /// The clock that a process reads: deadlines are kept in that, whoever is the first one later.
    pub(super) fn clock_of(&self, host: HostPid) -> JobClock {
        if time_of(host) == self.time {
            return self.clock;
        }
        JobClock::of(host).unwrap_or(self.clock)
    }

    pub(super) fn of(processes: &[HostPid]) -> Self {
        // A zombie has no clocks any more.
        let clock = |host: &HostPid| Some((JobClock::of(*host).ok()?, time_of(*host)));
        let (clock, time) = processes.iter().find_map(clock).unwrap_or_default();
        Self {
            samples: sample(processes),
            clock,
            time,
        }
    }

    /// With what was seen of others so much later. Nobody of these has run meanwhile.
    pub(super) fn and_later(mut self, time: Duration, others: Self) -> Self {
        let passed = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        for sample in self.samples.values_mut() {
            sample.slept_ns = sample.slept_ns.map(|slept| slept.saturating_add(passed));
        }
        self.samples.extend(others.samples);
        self
    }
}

fn time_of(host: HostPid) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(format!("/proc/{host}/ns/time"));
    found.ok().map(|found| found.ino())
}

/// A thread that is blocked in a call with a timeout.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Nanoseconds since it last ran.
    pub(super) slept_ns: Option<u64>,
    /// For restart_syscall(2): the call that it stands for.
    pub(super) number: Option<i64>,
    /// How often it had gone to sleep.
    pub(super) switches: u64,
}

impl Sample {
    /// What is still true of a thread that has been stopped since: the stop counts
    /// as a sleep, and with another one it is in another call, or was woken in this.
    pub(super) fn at_stop(self, status: &Status) -> Self {
        let same = status.voluntary_switches == self.switches + 1;
        Self {
            slept_ns: self.slept_ns.filter(|_| same),
            ..self
        }
    }
}

/// Looks at the threads that sleep with a timeout: some 30 us for each, little
/// for the others.
fn sample(processes: &[HostPid]) -> Samples {
    let mut clocks = SchedulerClocks::new();
    let threads = processes
        .iter()
        .flat_map(|pid| process::threads(*pid).unwrap_or_default());
    threads
        .filter_map(|thread| Some((thread, sample_one(thread, &mut clocks)?)))
        .collect()
}

fn sample_one(thread: HostPid, clocks: &mut SchedulerClocks) -> Option<Sample> {
    // "35 0x7ffc.. 0x0 ...": number and arguments of a blocked thread's call.
    let text = process::small_file(thread, "syscall").ok()?;
    let mut words = text.split(' ');
    let number = words.next()?.parse().ok()?;
    let arguments: Vec<u64> = words
        .map_while(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    match number {
        libc::SYS_restart_syscall => Some(Sample {
            number: restarted_call(thread, *arguments.first()?),
            ..Sample::default()
        }),
        libc::SYS_futex if !is_plain_wait(*arguments.get(1)?) => None,
        number if ends(number, &arguments) => Some(Sample {
            switches: process::status(thread).ok()?.voluntary_switches,
            slept_ns: clocks.since_it_ran(thread),
            number: None,
        }),
        _ => None,
    }
}

/// Whether a call has a relative timeout.
fn ends(number: i64, arguments: &[u64]) -> bool {
    let Some(timeout) = rewait::timeout_of(number) else {
        return request_of(number).is_some();
    };
    let mut registers: Registers = [0; 27];
    let order = [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9];
    for (register, value) in order.into_iter().zip(arguments) {
        registers[register] = *value;
    }
    !timeout.is_endless(&registers)
}

/// The scheduler's clocks, one for each CPU, which only a task that runs there
/// can read. The calling thread visits the CPUs, and goes home when dropped.
struct SchedulerClocks {
    /// Affinity of the calling thread; none when it cannot be read.
    home: Option<CpuSet>,
    read: BTreeMap<u32, (u64, Instant)>,
}

impl SchedulerClocks {
    fn new() -> Self {
        Self {
            home: sched_getaffinity(Pid::from_raw(0)).ok(),
            read: BTreeMap::new(),
        }
    }

    /// Nanoseconds since a sleeping thread ran.
    fn since_it_ran(&mut self, thread: HostPid) -> Option<u64> {
        let ran = process::last_ran_ns(thread)?;
        self.now(process::stat(thread).ok()?.cpu)?.checked_sub(ran)
    }

    fn now(&mut self, cpu: u32) -> Option<u64> {
        if !self.read.contains_key(&cpu) {
            // No home to go back to: stay there.
            self.home?;
            let mut only = CpuSet::new();
            only.set(usize::try_from(cpu).ok()?).ok()?;
            sched_setaffinity(Pid::from_raw(0), &only).ok()?;
            self.read
                .insert(cpu, (process::scheduler_now_ns()?, Instant::now()));
        }
        let (clock, at) = self.read[&cpu];
        clock.checked_add(u64::try_from(at.elapsed().as_nanos()).ok()?)
    }
}

impl Drop for SchedulerClocks {
    fn drop(&mut self) {
        if let (Some(home), false) = (&self.home, self.read.is_empty())
            && let Err(error) = sched_setaffinity(Pid::from_raw(0), home)
        {
            tracing::warn!(%error, "cannot leave the CPU that a sleeper was on");
        }
    }
}

/// Which call a restarted one is: the kernel function that it waits in tells.
fn restarted_call(thread: HostPid, first_argument: u64) -> Option<i64> {
    /// Clock numbers are small; nanosleep's first argument is an address.
    const CLOCKS: u64 = 64;
    let wchan = process::small_file(thread, "wchan").ok()?;
    if wchan.contains("futex") {
        Some(libc::SYS_futex)
    } else if wchan.contains("poll") {
        Some(libc::SYS_poll)
    } else if wchan.contains("nanosleep") || wchan.contains("nsleep") {
        Some(if first_argument < CLOCKS {
            libc::SYS_clock_nanosleep
        } else {
            libc::SYS_nanosleep
        })
    } else {
        None
    }
}
