//! The first system calls in a process that holds no code of ours: where to
//! stand, and how.
//!
//! The last page of a vDSO has room behind the ELF image. Code written there
//! (a debugger's write: the page becomes a private copy, as for a breakpoint)
//! makes two system calls and finds home by itself. Without that room a
//! `syscall` instruction anywhere in the program is borrowed under
//! PTRACE_SYSCALL; a tracer that dies in these microseconds leaves the
//! program with foreign registers, so it is the second choice.

use super::{
    HostPid, RemoteError,
    code::{self, boot},
    injector::Pause,
    plan::put,
};
use crate::{
    image::Registers,
    sys::{
        process_vm,
        ptrace::{Event, Stopped, bit, reg},
        survivor::Shield,
    },
};

/// Codes that a system call leaves in rax for the kernel's signal delivery.
pub const ERESTARTSYS: i64 = 512;
/// Restart, whatever happens.
pub const ERESTARTNOINTR: i64 = 513;
/// Restart unless a handler runs.
pub const ERESTARTNOHAND: i64 = 514;
/// Go on by restart_syscall(2), with a deadline that only the kernel knows.
pub const ERESTART_RESTARTBLOCK: i64 = 516;

/// Where to stand for the first system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foothold {
    /// [`PADDING_LEN`] unused bytes of executable private memory.
    Padding(u64),
    /// A `syscall` instruction (0f 05).
    Syscall(u64),
}

/// Bytes of padding that a foothold needs.
pub const PADDING_LEN: usize = boot::LEN;

/// A system call with constant arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainCall {
    /// System call number.
    pub number: i64,
    /// Arguments.
    pub args: [u64; 6],
}

/// Has the thread execute two system calls and puts it back as it was, in a
/// stop inside the kernel's get_signal(). Returns what rax was after each.
///
/// # Errors
/// When the thread dies or cannot be reached.
pub fn two_calls(
    thread: &mut Stopped,
    foothold: Foothold,
    calls: [PlainCall; 2],
) -> Result<[i64; 2], RemoteError> {
    let saved = thread.registers()?;
    let mask = thread.sigmask()?;
    let _shield = Shield::raise();
    let result = match foothold {
        Foothold::Padding(at) => from_padding(thread, at, calls, &saved, mask),
        Foothold::Syscall(at) => borrow(thread, at, calls, &saved),
    };
    if matches!(&result, Err(RemoteError::Ptrace(error)) if error.is_lost()) {
        return result;
    }
    thread.set_sigmask(mask)?;
    thread.set_registers(&saved)?;
    match foothold {
        Foothold::Padding(at) => wipe(thread, at)?,
        Foothold::Syscall(_) => thread.park()?,
    }
    result
}

/// Registers for injected code: those of the program, but no restart of its
/// interrupted system call (orig_rax), no single-step, direction up.
pub(super) fn injected(saved: &Registers, rip: u64) -> Registers {
    const TRAP_AND_DIRECTION: u64 = 0x100 | 0x400;
    let mut registers = *saved;
    registers[reg::RIP] = rip;
    registers[reg::ORIG_RAX] = u64::MAX;
    registers[reg::RAX] = 0;
    registers[reg::EFLAGS] &= !TRAP_AND_DIRECTION;
    registers
}

/// The registers that let the program go on without the kernel's help: the
/// restart of an interrupted system call is made by hand.
pub(super) fn restarted(saved: &Registers) -> Registers {
    const SYSCALL_LEN: u64 = 2;
    let mut registers = *saved;
    if saved[reg::ORIG_RAX].cast_signed() < 0 {
        return registers;
    }
    let number = match saved[reg::RAX].cast_signed().wrapping_neg() {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => saved[reg::ORIG_RAX],
        ERESTART_RESTARTBLOCK => libc::SYS_restart_syscall.cast_unsigned(),
        _ => return registers,
    };
    registers[reg::RIP] = registers[reg::RIP].wrapping_sub(SYSCALL_LEN);
    registers[reg::RAX] = number;
    registers
}

fn from_padding(
    thread: &mut Stopped,
    at: u64,
    calls: [PlainCall; 2],
    saved: &Registers,
    mask: u64,
) -> Result<[i64; 2], RemoteError> {
    let signal = thread
        .signals()
        .quiet_signal()
        .ok_or(RemoteError::NoQuietSignal {
            thread: thread.thread(),
        })?;
    let code = code::boot();
    let mut image = vec![0; boot::LEN];
    image[..code.bytes.len()].copy_from_slice(code.bytes);
    for (index, call) in calls.iter().enumerate() {
        let place = boot::CALLS + index * 56;
        put(&mut image, place, call.number.cast_unsigned());
        for (number, arg) in call.args.iter().enumerate() {
            put(&mut image, place + 8 + number * 8, *arg);
        }
    }
    put(&mut image, boot::SIGNAL, u64::from(signal.cast_unsigned()));
    put(&mut image, boot::MASK, mask);
    for (index, value) in restarted(saved).iter().enumerate() {
        put(&mut image, boot::REGISTERS + index * 8, *value);
    }
    force_write(thread.thread(), at, &image)?;
    thread.set_registers(&injected(saved, at))?;
    thread.set_sigmask(!bit(signal))?;
    run_to(thread, signal, at + code.lost)?;
    let registers = thread.registers()?;
    Ok([
        registers[reg::R12].cast_signed(),
        registers[reg::R13].cast_signed(),
    ])
}

/// Lets injected code run until it has raised `signal` at `rip`.
pub(super) fn run_to(
    thread: &mut Stopped,
    signal: i32,
    rip: u64,
) -> Result<Vec<HostPid>, RemoteError> {
    let mut children = Vec::new();
    let mut swallowed = Vec::new();
    loop {
        match thread.cont_wait(0)? {
            Event::Signal(number) if number == signal && thread.registers()?[reg::RIP] == rip => {
                break;
            }
            // Someone else's: SIGSTOP cannot be masked, and the ending signal is not.
            Event::Signal(number) => swallowed.push(number),
            Event::Fork(child) | Event::Vfork(child) | Event::Clone(child) => children.push(child),
            Event::Stop | Event::GroupStop(_) | Event::VforkDone => {}
            event => {
                return Err(RemoteError::Unexpected {
                    thread: thread.thread(),
                    event,
                });
            }
        }
    }
    swallowed.dedup();
    for number in swallowed {
        thread.send_again(number)?;
    }
    Ok(children)
}

/// Lets injected code run to the entry of the first call of this number, which it must make.
pub(super) fn run_to_call(
    thread: &mut Stopped,
    (number, told): Pause<'_>,
) -> Result<(), RemoteError> {
    loop {
        to_syscall_stop(thread)?;
        let registers = thread.registers()?;
        let entered = registers[reg::RAX].cast_signed() == -i64::from(libc::ENOSYS);
        if entered && registers[reg::ORIG_RAX].cast_signed() == number {
            told(registers[reg::RDI]);
            return Ok(());
        }
    }
}

fn borrow(
    thread: &mut Stopped,
    at: u64,
    calls: [PlainCall; 2],
    saved: &Registers,
) -> Result<[i64; 2], RemoteError> {
    let mut results = [0; 2];
    thread.set_sigmask(u64::MAX)?;
    for (call, result) in calls.iter().zip(&mut results) {
        let mut registers = injected(saved, at);
        registers[reg::RAX] = call.number.cast_unsigned();
        let order = [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9];
        for (register, arg) in order.into_iter().zip(call.args) {
            registers[register] = arg;
        }
        thread.set_registers(&registers)?;
        to_syscall_stop(thread)?;
        to_syscall_stop(thread)?;
        *result = thread.registers()?[reg::RAX].cast_signed();
    }
    Ok(results)
}

fn to_syscall_stop(thread: &mut Stopped) -> Result<(), RemoteError> {
    loop {
        match thread.syscall_wait(0)? {
            Event::Syscall => return Ok(()),
            Event::Signal(number) => thread.send_again(number)?,
            Event::Stop | Event::GroupStop(_) => {}
            event => {
                return Err(RemoteError::Unexpected {
                    thread: thread.thread(),
                    event,
                });
            }
        }
    }
}

/// The padding as it was.
fn wipe(thread: &Stopped, at: u64) -> Result<(), RemoteError> {
    force_write(thread.thread(), at, &[0; boot::LEN])
}

pub(super) fn force_write(thread: HostPid, address: u64, bytes: &[u8]) -> Result<(), RemoteError> {
    process_vm::force_write(thread, address, bytes).map_err(|source| RemoteError::Memory {
        thread,
        address,
        source,
    })
}
