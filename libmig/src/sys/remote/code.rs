//! The injected machine code, as data: the walker of records and the boot
//! code. Position independent; whatever they need lies at a fixed distance
//! behind them, so that not even a register is needed to find it.
//!
//! Neither uses the program's stack: a signal that is delivered while they run
//! finds it as the program left it.

use std::{arch::global_asm, slice};

/// Bytes of the page that the walker lies in; its data area follows.
pub(super) const CODE_LEN: u64 = 4096;

/// Offsets in the header at the start of the walker's data area.
pub(super) mod header {
    /// Where the walker stood at the end.
    pub(crate) const CURSOR: usize = 0;
    /// First record.
    pub(crate) const FIRST: usize = 8;
    /// One past the last record.
    pub(crate) const END: usize = 16;
    /// The signal that ends the batch.
    pub(crate) const SIGNAL: usize = 24;
    /// Mask of the program.
    pub(crate) const MASK: usize = 32;
    /// Signals that have a handler and are not blocked by the program.
    pub(crate) const CAUGHT: usize = 40;
    /// Scratch for rt_sigpending.
    pub(crate) const PENDING: usize = 48;
    /// rax and rip for when one of `CAUGHT` is pending.
    pub(crate) const HANDLED_RAX: usize = 56;
    /// See `HANDLED_RAX`.
    pub(crate) const HANDLED_RIP: usize = 64;
    /// The program's registers, user_regs_struct.
    pub(crate) const REGISTERS: usize = 80;
    /// Length; records follow.
    pub(crate) const LEN: usize = 304;
}

/// Offsets in a record of the walker.
pub(super) mod record {
    pub(crate) const NUMBER: usize = 0;
    pub(crate) const FLAGS: usize = 8;
    pub(crate) const ARGS: usize = 16;
    pub(crate) const RESULT: usize = 64;
    pub(crate) const LEN: usize = 72;
    /// In `FLAGS`: bits 0..=5, argument n is the address of its value; this
    /// one, an error ends the batch.
    pub(crate) const STOP_AT_ERROR: u64 = 1 << 6;
    /// As `NUMBER`: store the low half of argument 0 at the address in argument 1.
    pub(crate) const STORE: u64 = u64::MAX;
}

/// Offsets from the boot code to its parameters.
pub(super) mod boot {
    /// Two calls: number and six arguments each.
    pub(crate) const CALLS: usize = 384;
    /// The signal that ends it.
    pub(crate) const SIGNAL: usize = CALLS + 2 * 56;
    /// Mask of the program.
    pub(crate) const MASK: usize = SIGNAL + 8;
    /// The program's registers.
    pub(crate) const REGISTERS: usize = MASK + 8;
    /// Length of code and parameters.
    pub(crate) const LEN: usize = REGISTERS + 216;
}

global_asm!(
    r#"
    .pushsection .text.mig_remote, "ax", @progbits

    // Sends the signal at \signal to the own thread; clobbers rbx.
    .macro MIG_RAISE signal
    mov eax, 39                 // getpid: right in any pid namespace, also in a forked child
    syscall
    mov ebx, eax
    mov eax, 186                // gettid
    syscall
    mov esi, eax
    mov edi, ebx
    mov rdx, [rip + \signal]
    mov eax, 234                // tgkill
    syscall
    .endm

    // Puts mask and registers back. From popf on nothing changes the flags.
    .macro MIG_HOME mask, registers
    lea rsp, [rip + \registers + 18*8]
    popfq
    mov rsp, [rip + \registers + 19*8]
    mov eax, 14                 // rt_sigprocmask(SIG_SETMASK)
    mov edi, 2
    lea rsi, [rip + \mask]
    mov edx, 0
    mov r10d, 8
    syscall
    mov r15, [rip + \registers + 0*8]
    mov r14, [rip + \registers + 1*8]
    mov r13, [rip + \registers + 2*8]
    mov r12, [rip + \registers + 3*8]
    mov rbp, [rip + \registers + 4*8]
    mov rbx, [rip + \registers + 5*8]
    mov r11, [rip + \registers + 6*8]
    mov r10, [rip + \registers + 7*8]
    mov r9,  [rip + \registers + 8*8]
    mov r8,  [rip + \registers + 9*8]
    mov rax, [rip + \registers + 10*8]
    mov rcx, [rip + \registers + 11*8]
    mov rdx, [rip + \registers + 12*8]
    mov rsi, [rip + \registers + 13*8]
    mov rdi, [rip + \registers + 14*8]
    jmp qword ptr [rip + \registers + 16*8]
    .endm

    // An argument, or what it points to.
    .macro MIG_ARGUMENT register, index
    mov \register, [r12 + {args} + \index*8]
    test bl, 1 << \index
    jz 2f
    mov \register, [\register]
2:
    .endm

    .balign 16
    .set .Lmig_header, .Lmig_walker + {code_len}
.Lmig_walker:
    .globl mig_remote_walker
    .hidden mig_remote_walker
mig_remote_walker:
    mov r12, [rip + .Lmig_walker + {code_len} + {first}]
.Lmig_next:
    cmp r12, [rip + .Lmig_walker + {code_len} + {end}]
    jae .Lmig_done
    mov ebx, [r12 + {flags}]
    MIG_ARGUMENT rdi, 0
    MIG_ARGUMENT rsi, 1
    MIG_ARGUMENT rdx, 2
    MIG_ARGUMENT r10, 3
    MIG_ARGUMENT r8, 4
    MIG_ARGUMENT r9, 5
    mov rax, [r12 + {number}]
    cmp rax, -1
    je .Lmig_store
    syscall
    mov [r12 + {result}], rax
    cmp rax, -4095
    jb .Lmig_advance
    test bl, {stop}
    jnz .Lmig_stop
.Lmig_advance:
    add r12, {record_len}
    jmp .Lmig_next
.Lmig_store:
    mov [rsi], edi
    mov qword ptr [r12 + {result}], 0
    jmp .Lmig_advance
.Lmig_stop:
    add r12, {record_len}
.Lmig_done:
    mov [rip + .Lmig_walker + {code_len} + {cursor}], r12
    MIG_RAISE (.Lmig_walker + {code_len} + {signal})
    .globl mig_remote_walker_lost
    .hidden mig_remote_walker_lost
mig_remote_walker_lost:
    // Here only when the tracer is gone. A system call that a handler
    // interrupts now would have failed with EINTR.
    mov eax, 127                // rt_sigpending
    lea rdi, [rip + .Lmig_walker + {code_len} + {pending}]
    mov esi, 8
    syscall
    mov rax, [rip + .Lmig_walker + {code_len} + {pending}]
    and rax, [rip + .Lmig_walker + {code_len} + {caught}]
    jz 3f
    mov rax, [rip + .Lmig_walker + {code_len} + {handled_rax}]
    mov [rip + .Lmig_walker + {code_len} + {registers} + 10*8], rax
    mov rax, [rip + .Lmig_walker + {code_len} + {handled_rip}]
    mov [rip + .Lmig_walker + {code_len} + {registers} + 16*8], rax
3:
    MIG_HOME (.Lmig_walker + {code_len} + {mask}), (.Lmig_walker + {code_len} + {registers})
    .globl mig_remote_walker_end
    .hidden mig_remote_walker_end
mig_remote_walker_end:

    .macro MIG_BOOT_CALL index, result
    mov rax, [rip + .Lmig_boot + {boot_calls} + \index*56]
    mov rdi, [rip + .Lmig_boot + {boot_calls} + \index*56 + 8]
    mov rsi, [rip + .Lmig_boot + {boot_calls} + \index*56 + 16]
    mov rdx, [rip + .Lmig_boot + {boot_calls} + \index*56 + 24]
    mov r10, [rip + .Lmig_boot + {boot_calls} + \index*56 + 32]
    mov r8,  [rip + .Lmig_boot + {boot_calls} + \index*56 + 40]
    mov r9,  [rip + .Lmig_boot + {boot_calls} + \index*56 + 48]
    syscall
    mov \result, rax
    .endm

    .balign 16
.Lmig_boot:
    .globl mig_remote_boot
    .hidden mig_remote_boot
mig_remote_boot:
    MIG_BOOT_CALL 0, r12
    MIG_BOOT_CALL 1, r13
    MIG_RAISE (.Lmig_boot + {boot_signal})
    .globl mig_remote_boot_lost
    .hidden mig_remote_boot_lost
mig_remote_boot_lost:
    MIG_HOME (.Lmig_boot + {boot_mask}), (.Lmig_boot + {boot_registers})
    .globl mig_remote_boot_end
    .hidden mig_remote_boot_end
mig_remote_boot_end:
    .popsection
    "#,
    code_len = const CODE_LEN,
    cursor = const header::CURSOR,
    first = const header::FIRST,
    end = const header::END,
    signal = const header::SIGNAL,
    mask = const header::MASK,
    caught = const header::CAUGHT,
    pending = const header::PENDING,
    handled_rax = const header::HANDLED_RAX,
    handled_rip = const header::HANDLED_RIP,
    registers = const header::REGISTERS,
    number = const record::NUMBER,
    flags = const record::FLAGS,
    args = const record::ARGS,
    result = const record::RESULT,
    record_len = const record::LEN,
    stop = const record::STOP_AT_ERROR,
    boot_calls = const boot::CALLS,
    boot_signal = const boot::SIGNAL,
    boot_mask = const boot::MASK,
    boot_registers = const boot::REGISTERS,
);

unsafe extern "C" {
    static mig_remote_walker: u8;
    static mig_remote_walker_lost: u8;
    static mig_remote_walker_end: u8;
    static mig_remote_boot: u8;
    static mig_remote_boot_lost: u8;
    static mig_remote_boot_end: u8;
}

/// A piece of injected code.
pub(super) struct Code {
    /// The instructions.
    pub(super) bytes: &'static [u8],
    /// Offset of the instruction after the final tgkill: where the program
    /// stands in the stop that ends a batch.
    pub(super) lost: u64,
}

/// The walker of records.
pub(super) fn walker() -> Code {
    code(
        &raw const mig_remote_walker,
        &raw const mig_remote_walker_lost,
        &raw const mig_remote_walker_end,
    )
}

/// The boot code: two calls with constant arguments, results in r12 and r13.
pub(super) fn boot() -> Code {
    code(
        &raw const mig_remote_boot,
        &raw const mig_remote_boot_lost,
        &raw const mig_remote_boot_end,
    )
}

fn code(start: *const u8, lost: *const u8, end: *const u8) -> Code {
    let len = end.addr() - start.addr();
    // SAFETY: the symbols above bound one piece of this program's text, which
    // is readable and never changes.
    let bytes = unsafe { slice::from_raw_parts(start, len) };
    Code {
        bytes,
        lost: (lost.addr() - start.addr()) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_leaves_room_for_what_follows_it() {
        assert!(walker().bytes.len() < 4096);
        assert!(boot().bytes.len() <= boot::CALLS, "{}", boot().bytes.len());
        const { assert!(header::LEN >= header::REGISTERS + 216) };
    }

    /// Every address in the code is relative to rip and ends in its own
    /// parameters: no absolute 64-bit immediate, no displacement beyond them.
    #[test]
    fn code_refers_to_nothing_but_itself() {
        for (code, first, last) in [
            (walker(), CODE_LEN, CODE_LEN + header::LEN as u64),
            (boot(), boot::CALLS as u64, boot::LEN as u64),
        ] {
            let mut references = 0;
            for (at, window) in code.bytes.windows(7).enumerate() {
                // REX.W mov/lea/cmp/and reg, [rip + disp32]: modrm has mod = 0, rm = 5.
                let rex = window[0] & 0xf8 == 0x48;
                let opcode = matches!(window[1], 0x8b | 0x89 | 0x8d | 0x3b | 0x23);
                if rex && opcode && window[2] & 0xc7 == 0x05 {
                    let displacement =
                        i32::from_le_bytes([window[3], window[4], window[5], window[6]]);
                    let target = at as u64 + 7 + u64::from(displacement.cast_unsigned());
                    assert!((first..last).contains(&target), "offset {at}: {target}");
                    references += 1;
                }
            }
            assert!(references > 15, "the pattern above matches no instruction");
        }
    }
}
