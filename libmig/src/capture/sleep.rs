//! Relative sleeps: how much of them was left. The kernel keeps the deadline
//! where nobody can read it; what was asked for is in the registers, and
//! when the thread went to sleep the scheduler says.

use std::collections::BTreeMap;

use super::interrupted::has_restart_block;
use crate::{
    image::{InterruptedSleep, Registers},
    inspect::process,
    sys::{HostPid, process_vm, ptrace::reg},
};

/// Nanoseconds that each sleeping thread had been asleep, just before the freeze.
pub(super) type Samples = BTreeMap<HostPid, u64>;

/// Looks at the threads that sleep in a call with a relative timeout. Costs
/// some 30 us for each, none for the others.
pub(super) fn sample(processes: &[HostPid]) -> Samples {
    let threads = processes
        .iter()
        .flat_map(|pid| process::threads(*pid).unwrap_or_default());
    threads
        .filter(|thread| sleeps_relatively(*thread))
        .filter_map(|thread| {
            let slept_since = process::last_ran_ns(thread)?;
            Some((
                thread,
                process::scheduler_now_ns()?.saturating_sub(slept_since),
            ))
        })
        .collect()
}

/// `/proc/TID/syscall` of a blocked thread begins with the call's number.
fn sleeps_relatively(thread: HostPid) -> bool {
    let Ok(text) = process::small_file(thread, "syscall") else {
        return false;
    };
    let number = text.split(' ').next().and_then(|word| word.parse().ok());
    number.is_some_and(|number| request_of(number).is_some())
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

/// The sleep that a stopped thread was in; `None` when it was in none, or in
/// one with an absolute deadline, which needs no help.
pub(super) fn interrupted(
    thread: HostPid,
    registers: &Registers,
    samples: &Samples,
) -> Option<InterruptedSleep> {
    if !has_restart_block(registers) {
        return None;
    }
    let number = registers[reg::ORIG_RAX];
    let request = request_of(number.cast_signed())?;
    if number.cast_signed() == libc::SYS_futex && !is_plain_futex_wait(registers) {
        return None;
    }
    let asked = match request {
        Request::Timespec { asked, left } => {
            // The kernel has written what is left, to the nanosecond. It may
            // be the same buffer: sleep(3) passes one for both.
            if let Some(address) = left
                .map(|left| registers[left])
                .filter(|address| *address != 0)
            {
                let remaining_ns = timespec(thread, address)?;
                return Some(InterruptedSleep {
                    number,
                    remaining_ns,
                });
            }
            timespec(thread, registers[asked])?
        }
        Request::Milliseconds => {
            // poll takes an int; a negative one has no end and no restart block.
            let [a, b, c, d, ..] = registers[reg::RDX].to_le_bytes();
            let milliseconds = u64::try_from(i32::from_le_bytes([a, b, c, d])).ok()?;
            milliseconds.saturating_mul(1_000_000)
        }
    };
    let slept = samples
        .get(&thread)
        .copied()
        .filter(|slept| *slept <= asked)
        .unwrap_or(0);
    Some(InterruptedSleep {
        number,
        remaining_ns: asked - slept,
    })
}

/// FUTEX_WAIT takes a relative timeout, FUTEX_WAIT_BITSET an absolute one.
fn is_plain_futex_wait(registers: &Registers) -> bool {
    const COMMAND: u64 = 0x7f;
    registers[reg::RSI] & COMMAND == 0
}

fn timespec(thread: HostPid, address: u64) -> Option<u64> {
    let mut words = [[0u8; 8]; 2];
    process_vm::read_exact(thread, address, words.as_flattened_mut()).ok()?;
    let [seconds, nanoseconds] = words.map(u64::from_le_bytes);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}
