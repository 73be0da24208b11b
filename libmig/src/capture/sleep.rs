//! Sleeps that the freeze interrupted: how much of them was left. The kernel
//! keeps the deadline where nobody can read it. What was asked for is in the
//! registers; when the thread went to sleep, the scheduler says; and a sleep
//! that was stopped once already is in the process's `ledger`.

use std::{collections::BTreeMap, time::Instant};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::interrupted::has_restart_block;
use crate::{
    image::{self, InterruptedSleep, Registers},
    inspect::process,
    sys::{HostPid, process_vm, ptrace::reg, remote::ledger::Note},
};

/// What was seen of the sleeping threads just before the freeze: being
/// stopped is to run.
pub(super) type Samples = BTreeMap<HostPid, Sample>;

/// A thread that is blocked in a call with a timeout.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Nanoseconds since it last ran.
    slept_ns: Option<u64>,
    /// For restart_syscall(2): the call that it stands for.
    number: Option<i64>,
}

/// Looks at the threads that sleep with a timeout: some 30 us for each, little
/// for the others.
pub(super) fn sample(processes: &[HostPid]) -> Samples {
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
            slept_ns: None,
            number: restarted_call(thread, *arguments.first()?),
        }),
        libc::SYS_futex if !is_plain_wait(*arguments.get(1)?) => None,
        number if request_of(number).is_some() => Some(Sample {
            slept_ns: clocks.since_it_ran(thread),
            number: None,
        }),
        _ => None,
    }
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

/// Where a call keeps its relative timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    /// A timespec at the address in this register; what is left is written to
    /// the address in the other when the call is interrupted.
    Timespec { asked: usize, left: Option<usize> },
    /// Milliseconds in rdx.
    Milliseconds,
}

fn request_of(number: i64) -> Option<Request> {
    match number {
        libc::SYS_nanosleep => Some(Request::Timespec {
            asked: reg::RDI,
            left: Some(reg::RSI),
        }),
        libc::SYS_clock_nanosleep => Some(Request::Timespec {
            asked: reg::RDX,
            left: Some(reg::R10),
        }),
        libc::SYS_futex => Some(Request::Timespec {
            asked: reg::R10,
            left: None,
        }),
        libc::SYS_poll => Some(Request::Milliseconds),
        _ => None,
    }
}

/// A call with a restart block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interrupted {
    /// The call that the program made; in the registers it may be
    /// restart_syscall, which means nothing to another kernel.
    pub(super) number: i64,
    /// Its remaining time; `None` for an absolute deadline, which needs no help.
    pub(super) sleep: Option<InterruptedSleep>,
}

/// The call that a stopped thread was in, if it has a restart block. `notes`
/// are those of its process, `now_ns` is the job's CLOCK_MONOTONIC.
pub(super) fn interrupted(
    thread: HostPid,
    tid: image::Pid,
    registers: &Registers,
    sample: Sample,
    notes: &[Note],
    now_ns: u64,
) -> Option<Interrupted> {
    if !has_restart_block(registers) {
        return None;
    }
    if let Some(note) = notes.iter().find(|note| note.concerns(tid, registers)) {
        let remaining_ns = note.deadline_ns.saturating_sub(now_ns);
        let sleep = Some(InterruptedSleep {
            number: note.number.into(),
            remaining_ns,
        });
        return Some(Interrupted {
            number: note.number.into(),
            sleep,
        });
    }
    let number = match registers[reg::ORIG_RAX].cast_signed() {
        libc::SYS_restart_syscall => sample.number?,
        number => number,
    };
    let absolute = number == libc::SYS_futex && !is_plain_wait(registers[reg::RSI]);
    let sleep = if absolute {
        None
    } else {
        relative(thread, number, registers, sample.slept_ns)
    };
    Some(Interrupted { number, sleep })
}

fn relative(
    thread: HostPid,
    number: i64,
    registers: &Registers,
    slept_ns: Option<u64>,
) -> Option<InterruptedSleep> {
    let sleep = |remaining_ns| InterruptedSleep {
        number: number.cast_unsigned(),
        remaining_ns,
    };
    let asked = match request_of(number)? {
        Request::Timespec { asked, left } => {
            // The kernel has written what is left, to the nanosecond. It may
            // be the same buffer: sleep(3) passes one for both.
            if let Some(address) = left
                .map(|left| registers[left])
                .filter(|address| *address != 0)
            {
                return timespec(thread, address).map(sleep);
            }
            timespec(thread, registers[asked])?
        }
        Request::Milliseconds => {
            // poll takes an int; a negative one has no end and no restart block.
            let [a, b, c, d, ..] = registers[reg::RDX].to_le_bytes();
            u64::try_from(i32::from_le_bytes([a, b, c, d]))
                .ok()?
                .saturating_mul(1_000_000)
        }
    };
    let slept = slept_ns.filter(|slept| *slept <= asked).unwrap_or(0);
    Some(sleep(asked - slept))
}

/// FUTEX_WAIT takes a relative timeout, FUTEX_WAIT_BITSET an absolute one.
fn is_plain_wait(operation: u64) -> bool {
    const COMMAND: u64 = 0x7f;
    operation & COMMAND == 0
}

fn timespec(thread: HostPid, address: u64) -> Option<u64> {
    let mut words = [[0u8; 8]; 2];
    process_vm::read_exact(thread, address, words.as_flattened_mut()).ok()?;
    let [seconds, nanoseconds] = words.map(u64::from_le_bytes);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: HostPid = HostPid::new(0);

    fn restarted() -> Registers {
        let mut registers = [9; 27];
        registers[reg::ORIG_RAX] = libc::SYS_restart_syscall.cast_unsigned();
        registers[reg::RAX] = (-516i64).cast_unsigned();
        registers
    }

    #[test]
    fn a_note_knows_the_deadline_of_a_restarted_sleep() {
        let registers = restarted();
        let notes = [Note::new(5, 35, 1000, &registers)];
        let found = interrupted(HERE, 5, &registers, Sample::default(), &notes, 400).unwrap();
        assert_eq!(found.number, 35);
        assert_eq!(
            found.sleep,
            Some(InterruptedSleep {
                number: 35,
                remaining_ns: 600
            })
        );
        let late = interrupted(HERE, 5, &registers, Sample::default(), &notes, 4000).unwrap();
        assert_eq!(late.sleep.unwrap().remaining_ns, 0);
        assert_eq!(
            interrupted(HERE, 6, &registers, Sample::default(), &notes, 400),
            None
        );
    }

    #[test]
    fn an_absolute_wait_is_just_made_again() {
        let mut registers = restarted();
        registers[reg::RSI] = 9 | 128; // FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG
        let sample = Sample {
            slept_ns: None,
            number: Some(libc::SYS_futex),
        };
        let found = interrupted(HERE, 5, &registers, sample, &[], 0).unwrap();
        assert_eq!(
            found,
            Interrupted {
                number: libc::SYS_futex,
                sleep: None
            }
        );
    }
}
