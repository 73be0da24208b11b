//! Sleeps whose deadline only the kernel knew: the call is made again with the
//! time that was left, and interrupted at once, so that the kernel here has a
//! restart block of its own, with the right deadline.

use std::io;

use super::{
    clocks,
    error::{RestoreError, host, trace},
    task::Task,
};
use crate::{
    api::Obstacle,
    image::{Clocks, InterruptedSleep, Pid, Registers, Thread},
    inspect::maps,
    sys::{
        HostPid, process_vm,
        ptrace::{self, Event, PtraceError, reg},
        remote::{
            Injector,
            ledger::{self, Note},
            rewait::{self, Waiting},
        },
    },
};

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// Kept free at the end of the injected data: a timespec.
const SCRATCH: u64 = 64;
/// FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME.
const FUTEX_MODIFIERS: u64 = 128 | 256;

/// What is left of a sleep when the job's clock has gone on from `then` to `now`.
pub(super) fn left(sleep: InterruptedSleep, then: &Clocks, now: &Clocks) -> InterruptedSleep {
    let passed = clocks::passed(libc::CLOCK_MONOTONIC, then, now);
    InterruptedSleep {
        remaining_ns: sleep.remaining_ns.saturating_sub(passed),
        ..sleep
    }
}

/// Puts the thread into its sleep; returns the registers with which it goes on:
/// in the sleep, or with the result when the call came back at once. `call` is
/// a `syscall` instruction.
pub(super) fn resume(
    task: &mut Task,
    thread: &Thread,
    sleep: InterruptedSleep,
    injector: Injector,
    call: u64,
) -> Result<Registers, RestoreError> {
    let scratch = injector.address() + Injector::SPAN - SCRATCH;
    let arguments = arguments(thread, sleep, scratch)?;
    let timespec = [sleep.remaining_ns / SECOND, sleep.remaining_ns % SECOND];
    let bytes: Vec<u8> = timespec
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    process_vm::write_all(task.host(), scratch, &bytes)
        .map_err(host(format!("write the timeout of thread {}", thread.tid)))?;
    let result = enter(task, call, sleep.number, arguments)
        .map_err(trace(thread.tid, "put back to sleep"))?;
    let mut registers = thread.registers;
    registers[reg::RAX] = result;
    registers[reg::ORIG_RAX] = sleep.number;
    ledger::mark(&mut registers);
    Ok(registers)
}

/// A wait of which the kernel would keep nothing: the thread makes its call
/// again with the time that is left. What cannot be prepared is made again as it was.
pub(super) fn wait_again(
    thread: &Thread,
    task: HostPid,
    sleep: InterruptedSleep,
    now: &Clocks,
) -> Registers {
    let now_ns = u64::try_from(now.monotonic_ns).unwrap_or(0);
    let waiting = Waiting {
        registers: thread.registers,
        deadline_ns: now_ns.saturating_add(sleep.remaining_ns),
    };
    let entered = maps::detour_place(task)
        .and_then(|place| place.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .and_then(|place| rewait::enter(task, place, &waiting, sleep.remaining_ns));
    entered.unwrap_or_else(|error| {
        tracing::warn!(tid = thread.tid, %error, "a wait begins anew");
        thread.registers
    })
}

/// Whether an interrupted call is one for [`wait_again`].
pub(super) fn is_forgotten(sleep: InterruptedSleep) -> bool {
    i64::try_from(sleep.number).is_ok_and(|number| rewait::timeout_of(number).is_some())
}

/// Notes the deadlines in the process, for the next time that it is captured:
/// once restarted, its sleeps are known to the kernel alone. `then` are the
/// job's clocks when it was captured.
pub(super) fn note(
    pid: Pid,
    process: HostPid,
    threads: &[Thread],
    registers: &[Registers],
    then: &Clocks,
) -> Result<(), RestoreError> {
    let then_ns = u64::try_from(then.monotonic_ns).unwrap_or(0);
    let notes: Vec<Note> = threads
        .iter()
        .zip(registers)
        .filter_map(|(thread, registers)| {
            let sleep = thread.sleep.filter(|sleep| !is_forgotten(*sleep))?;
            let number = u32::try_from(sleep.number).ok()?;
            let deadline_ns = then_ns.saturating_add(sleep.remaining_ns);
            Some(Note::new(thread.tid, number, deadline_ns, registers))
        })
        .collect();
    if notes.is_empty() {
        return Ok(());
    }
    let what = || format!("note the sleeps of pid {pid}");
    match maps::ledger_place(process).map_err(host(what()))? {
        Some(place) => ledger::write(process, place, &notes).map_err(host(what())),
        None => Ok(()),
    }
}

/// The arguments of the interrupted call, with the time that was left.
fn arguments(thread: &Thread, sleep: InterruptedSleep, scratch: u64) -> Result<[u64; 6], Obstacle> {
    let registers = &thread.registers;
    let mut arguments =
        [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9].map(|index| registers[index]);
    match i64::try_from(sleep.number) {
        Ok(libc::SYS_nanosleep) => arguments[0] = scratch,
        Ok(libc::SYS_clock_nanosleep) => arguments[2] = scratch,
        Ok(libc::SYS_poll) => arguments[2] = sleep.remaining_ns.div_ceil(MILLISECOND),
        // Only FUTEX_WAIT counts from now; the others have a deadline.
        Ok(libc::SYS_futex) if arguments[1] & !FUTEX_MODIFIERS == 0 => arguments[3] = scratch,
        _ => {
            return Err(Obstacle {
                pid: Some(thread.tid),
                object: format!("system call {}", sleep.number),
                reason: "cannot be entered again with the time that was left".into(),
                remedy: "report it: the source should not have sent this".into(),
                transient: true,
            });
        }
    }
    Ok(arguments)
}

/// Makes the call and interrupts it; returns rax.
fn enter(task: &mut Task, call: u64, number: u64, arguments: [u64; 6]) -> Result<u64, PtraceError> {
    task.point_at_call(call, number, arguments)?;
    until(task, true, Event::Syscall)?;
    // Pending before the call runs: it looks, finds an interruption, and leaves
    // its restart block.
    ptrace::interrupt(task.host())?;
    until(task, false, Event::Stop)?;
    Ok(task.stopped.registers()?[reg::RAX])
}

fn until(task: &mut Task, syscalls: bool, wanted: Event) -> Result<(), PtraceError> {
    loop {
        let event = if syscalls {
            task.stopped.syscall_wait(0)?
        } else {
            task.stopped.cont_wait(0)?
        };
        match event {
            event if event == wanted => return Ok(()),
            // Left over from an earlier stop.
            Event::Stop | Event::Signal(_) | Event::Syscall => {}
            event => {
                return Err(PtraceError::Unexpected {
                    thread: task.host(),
                    event,
                    expected: "a system call",
                });
            }
        }
    }
}
