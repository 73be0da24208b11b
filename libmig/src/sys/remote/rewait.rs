//! A wait that is made again with the time that is left.
//!
//! Some system calls with a relative timeout fail with EINTR at every stop, and
//! the kernel keeps nothing of them: made again as they were they would wait
//! their full time again. Their arguments may not be changed for good, since a
//! program may count on its registers after a system call. So the thread makes
//! the call in a detour, a few instructions in the unused tail of the vDSO, and
//! finds its registers and its way back in a frame on its own stack, below the
//! red zone:
//!
//! ```text
//!  rsp - 192: rdx, r10, r8, rip | deadline, mark | timeout (16 bytes) | red zone (128)
//! ```
//!
//! A handler that runs meanwhile, or a jump out of one, is none of our business:
//! the stack is as scoped as the call. The code stays for ever in a process that
//! has needed it once, and travels with it: a signal frame may lead back to it.

use std::{arch::global_asm, io, ops::Range, slice};

use super::{foothold::ERESTARTNOHAND, ledger::LEDGER_LEN};
use crate::{
    image::Registers,
    sys::{HostPid, process_vm, ptrace::reg},
};

/// Bytes that the detour takes.
pub const DETOUR_LEN: usize = 32;
/// Bytes from the end of a vDSO to the start of the detour.
const FROM_END: usize = super::foothold::PADDING_LEN + LEDGER_LEN + DETOUR_LEN;
/// Bytes of a frame.
const FRAME: usize = 64;
/// Where the timeout lies in it.
const TIMEOUT: u64 = 48;
/// Frame and red zone.
const BELOW: u64 = 192;
/// Length of the `syscall` instruction, with which the detour begins.
const SYSCALL_LEN: u64 = 2;
/// A mark of our own, so that nothing else is taken for a frame.
const MARK: u64 = u64::from_le_bytes(*b"migwait\0");

global_asm!(
    r#"
    .pushsection .text.mig_remote, "ax", @progbits
    .globl mig_remote_detour
    .hidden mig_remote_detour
mig_remote_detour:
    syscall
    mov rdx, [rsp]
    mov r10, [rsp + 8]
    mov r8, [rsp + 16]
    mov rcx, [rsp + 24]         // the kernel has overwritten it anyway
    lea rsp, [rsp + {below}]
    jmp rcx
    .globl mig_remote_detour_end
    .hidden mig_remote_detour_end
mig_remote_detour_end:
    .popsection
    "#,
    below = const BELOW,
);

unsafe extern "C" {
    static mig_remote_detour: u8;
    static mig_remote_detour_end: u8;
}

fn detour() -> [u8; DETOUR_LEN] {
    let (start, end) = (
        &raw const mig_remote_detour,
        &raw const mig_remote_detour_end,
    );
    // SAFETY: the symbols bound one piece of this program's text, which is
    // readable and never changes.
    let code = unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) };
    let mut bytes = [0; DETOUR_LEN];
    bytes[..code.len()].copy_from_slice(code);
    bytes
}

/// Where a call keeps its relative timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Milliseconds in this register, an int; negative for ever.
    Milliseconds(usize),
    /// The address of a timespec in this register; 0 for ever.
    Timespec(usize),
    /// The address of a timeval.
    Timeval(usize),
}

/// The timeout of a call that the kernel keeps nothing of.
#[must_use]
pub fn timeout_of(number: i64) -> Option<Timeout> {
    const IO_PGETEVENTS: i64 = 333;
    match number {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => Some(Timeout::Milliseconds(reg::R10)),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => Some(Timeout::Timespec(reg::R10)),
        libc::SYS_rt_sigtimedwait | libc::SYS_ppoll => Some(Timeout::Timespec(reg::RDX)),
        libc::SYS_io_getevents | IO_PGETEVENTS | libc::SYS_pselect6 => {
            Some(Timeout::Timespec(reg::R8))
        }
        libc::SYS_select => Some(Timeout::Timeval(reg::R8)),
        _ => None,
    }
}

impl Timeout {
    /// Whether the call waits for ever.
    #[must_use]
    pub fn is_endless(self, registers: &Registers) -> bool {
        match self {
            Self::Milliseconds(register) => registers[register] & 0x8000_0000 != 0,
            Self::Timespec(register) | Self::Timeval(register) => registers[register] == 0,
        }
    }

    /// Nanoseconds that a stopped thread has asked for, or that the kernel has left
    /// there; nothing for a wait without an end.
    #[must_use]
    pub fn asked(self, thread: HostPid, registers: &Registers) -> Option<u64> {
        if self.is_endless(registers) {
            return None;
        }
        let (address, unit) = match self {
            Self::Milliseconds(register) => {
                return (registers[register] & 0xffff_ffff).checked_mul(1_000_000);
            }
            Self::Timespec(register) => (registers[register], 1),
            Self::Timeval(register) => (registers[register], 1000),
        };
        let mut words = [[0u8; 8]; 2];
        process_vm::read_exact(thread, address, words.as_flattened_mut()).ok()?;
        let [seconds, fraction] = words.map(u64::from_le_bytes);
        seconds
            .checked_mul(1_000_000_000)?
            .checked_add(fraction.checked_mul(unit)?)
    }

    /// Writes what is left to where the kernel itself has written it.
    ///
    /// # Errors
    /// When the memory is gone.
    pub fn update(self, thread: HostPid, registers: &Registers, left_ns: u64) -> io::Result<()> {
        match self {
            Self::Milliseconds(_) => Ok(()),
            Self::Timespec(register) | Self::Timeval(register) => {
                process_vm::write_all(thread, registers[register], &self.encoded(left_ns))
            }
        }
    }

    fn encoded(self, left_ns: u64) -> [u8; 16] {
        let unit = if matches!(self, Self::Timeval(_)) {
            1000
        } else {
            1
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(left_ns / 1_000_000_000).to_le_bytes());
        bytes[8..].copy_from_slice(&(left_ns % 1_000_000_000).div_ceil(unit).to_le_bytes());
        bytes
    }
}

/// A thread that was stopped in its detour, as it would be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its registers behind the program's own `syscall` instruction.
    pub registers: Registers,
    /// When its wait ends, CLOCK_MONOTONIC of the job in nanoseconds.
    pub deadline_ns: u64,
}

/// Takes the registers of a thread that is in the detour at `place` home.
#[must_use]
pub fn home(thread: HostPid, place: u64, registers: &Registers) -> Option<Waiting> {
    if registers[reg::RIP] != place + SYSCALL_LEN || registers[reg::ORIG_RAX].cast_signed() < 0 {
        return None;
    }
    let mut words = [[0u8; 8]; 6];
    process_vm::read_exact(thread, registers[reg::RSP], words.as_flattened_mut()).ok()?;
    let [rdx, r10, r8, rip, deadline_ns, mark] = words.map(u64::from_le_bytes);
    if mark != MARK {
        return None;
    }
    let mut home = *registers;
    home[reg::RDX] = rdx;
    home[reg::R10] = r10;
    home[reg::R8] = r8;
    home[reg::RIP] = rip;
    home[reg::RCX] = rip;
    home[reg::RSP] = registers[reg::RSP].wrapping_add(BELOW);
    Some(Waiting {
        registers: home,
        deadline_ns,
    })
}

/// Prepares a thread that was stopped in a call of [`timeout_of`] to wait for
/// what is left; returns the registers with which the kernel makes the call
/// again, or lets it fail with EINTR when a handler runs.
///
/// # Errors
/// When there is no room for the detour or on the stack; nothing that the
/// program could notice has been changed then.
pub fn enter(
    thread: HostPid,
    place: u64,
    waiting: &Waiting,
    left_ns: u64,
) -> io::Result<Registers> {
    let registers = &waiting.registers;
    let unknown = io::ErrorKind::InvalidInput;
    let timeout = timeout_of(registers[reg::ORIG_RAX].cast_signed()).ok_or(unknown)?;
    install(thread, place)?;
    let stack = registers[reg::RSP].wrapping_sub(BELOW);
    let words = [
        registers[reg::RDX],
        registers[reg::R10],
        registers[reg::R8],
        registers[reg::RIP],
        waiting.deadline_ns,
        MARK,
    ];
    let mut frame: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    frame.extend(timeout.encoded(left_ns));
    debug_assert_eq!(frame.len(), FRAME, "the layout above");
    process_vm::write_all(thread, stack, &frame)?;
    let mut detoured = *registers;
    match timeout {
        Timeout::Milliseconds(register) => {
            detoured[register] = left_ns
                .div_ceil(1_000_000)
                .min(i32::MAX.unsigned_abs().into());
        }
        Timeout::Timespec(register) | Timeout::Timeval(register) => {
            detoured[register] = stack + TIMEOUT;
        }
    }
    detoured[reg::RIP] = place + SYSCALL_LEN;
    detoured[reg::RSP] = stack;
    detoured[reg::RAX] = (-ERESTARTNOHAND).cast_unsigned();
    Ok(detoured)
}

/// Writes the detour into a process, if it is not there yet.
///
/// # Errors
/// When the place holds something else, or the process is gone.
pub fn install(process: HostPid, place: u64) -> io::Result<()> {
    let mut found = [0; DETOUR_LEN];
    process_vm::read_exact(process, place, &mut found)?;
    if found == detour() {
        return Ok(());
    }
    if found != [0; DETOUR_LEN] {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    process_vm::force_write(process, place, &detour())
}

/// Where the frame of a thread lies whose stack pointer at home is `rsp`.
#[must_use]
pub fn frame(rsp: u64) -> Range<u64> {
    let start = rsp.wrapping_sub(BELOW);
    start..start.wrapping_add(FRAME as u64)
}

/// Where the detour is or can be in a vDSO that ends at `end`.
#[must_use]
pub fn place(end: u64) -> u64 {
    end - FROM_END as u64
}

/// Whether the process that this copy of a vDSO is from has needed the detour.
#[must_use]
pub fn is_in(code: &[u8]) -> bool {
    code.len()
        .checked_sub(FROM_END)
        .is_some_and(|start| code[start..start + DETOUR_LEN] == detour())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detour_is_short_and_leads_home() {
        let code = detour();
        assert_eq!(code[..2], [0x0f, 0x05]);
        let end = code.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!(code[end - 1..=end], [0xff, 0xe1], "jmp rcx");
        let mut vdso = vec![0; 8192];
        assert!(!is_in(&vdso));
        let at = usize::try_from(place(8192)).unwrap();
        vdso[at..at + DETOUR_LEN].copy_from_slice(&code);
        assert!(is_in(&vdso) && !is_in(&vdso[..100]));
    }

    #[test]
    fn timeouts_are_read_and_written_in_their_units() {
        let own = HostPid::own();
        let mut registers = [0; 27];
        registers[reg::R10] = 0xffff_ffff_0000_05dc;
        let epoll = timeout_of(libc::SYS_epoll_wait).unwrap();
        assert_eq!(epoll.asked(own, &registers), Some(1_500_000_000));
        registers[reg::R10] = u64::from(u32::MAX);
        assert_eq!(epoll.asked(own, &registers), None, "for ever");
        let time = [2u64, 500];
        registers[reg::R8] = time.as_ptr().addr() as u64;
        let (select, pselect) = (libc::SYS_select, libc::SYS_pselect6);
        let asked = |number| timeout_of(number).unwrap().asked(own, &registers);
        assert_eq!(asked(select), Some(2_000_500_000));
        assert_eq!(asked(pselect), Some(2_000_000_500));
        let encoded = timeout_of(select).unwrap().encoded(1_000_000_001);
        assert_eq!((encoded[0], encoded[8]), (1, 1), "rounded up");
    }
}
