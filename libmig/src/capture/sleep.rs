//! Sleeps that the freeze interrupted: how much of them was left. The kernel
//! keeps the deadline where nobody can read it. What was asked for is in the
//! registers; when the thread went to sleep, the scheduler says; and a sleep
//! that was stopped once already is in the process's `ledger`.

use super::{interrupted::has_restart_block, sample::Sample, timed::TimedWait};
use crate::{
    image::{self, InterruptedSleep, Registers},
    sys::{HostPid, process_vm, ptrace::reg, remote::ledger::Note},
};

/// Where a call keeps its relative timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// A timespec at the address in this register; what is left is written to
    /// the address in the other when the call is interrupted.
    Timespec { asked: usize, left: Option<usize> },
    /// Milliseconds in rdx.
    Milliseconds,
}

pub(super) fn request_of(number: i64) -> Option<Request> {
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

/// An interrupted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interrupted {
    /// The call that the program made; in the registers it may be
    /// restart_syscall, which means nothing to another kernel.
    pub(super) number: i64,
    /// Its remaining time; `None` for an absolute deadline, which needs no help.
    pub(super) sleep: Option<InterruptedSleep>,
}

/// The call of a wait that the kernel keeps nothing of.
pub(super) fn timed(wait: &TimedWait, now_ns: u64) -> Option<Interrupted> {
    let sleep = InterruptedSleep {
        number: wait.number.cast_unsigned(),
        remaining_ns: wait.left_ns(now_ns)?,
    };
    Some(Interrupted {
        number: wait.number,
        sleep: Some(sleep),
    })
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
pub(super) fn is_plain_wait(operation: u64) -> bool {
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
            number: Some(libc::SYS_futex),
            ..Sample::default()
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
