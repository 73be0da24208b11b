//! Filters of seccomp(2): classic BPF programs, asked what they would say.
//!
//! A program under a filter makes system calls that it never wrote: the kernel goes
//! on with an interrupted sleep by restart_syscall(2). Whether that is allowed is
//! better known before.

use std::ops::Range;

/// SECCOMP_RET_ACTION_FULL.
const ACTION: u32 = 0xffff_0000;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
/// AUDIT_ARCH_X86_64.
const ARCH: u32 = 0xc000_003e;
/// struct seccomp_data: number, architecture, instruction pointer, six arguments.
const DATA_LEN: usize = 64;
/// Where the instruction pointer lies in it.
const POINTER: Range<u32> = 8..16;
/// BPF_MEMWORDS.
const SCRATCH: usize = 16;
/// struct sock_filter.
const INSTRUCTION: usize = 8;

/// A system call, as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Behind the `syscall` instruction.
    pub instruction_pointer: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Whether a filter (an array of struct sock_filter) lets a call through.
#[must_use]
pub fn allows(program: &[u8], call: &Call) -> bool {
    let answer = run(&instructions(program), &data(call));
    answer.is_some_and(|answer| matches!(answer & ACTION, ALLOW | LOG))
}

/// Whether a filter may leave the answer to another process (SECCOMP_RET_USER_NOTIF).
/// One that computes its answers may say anything.
#[must_use]
pub fn may_notify(program: &[u8]) -> bool {
    instructions(program).iter().any(|one| match one.code {
        code::RETURN_CONSTANT => one.constant & ACTION == USER_NOTIF,
        code::RETURN_ACCUMULATOR => true,
        _ => false,
    })
}

/// Whether a filter asks where in the program a call is made.
#[must_use]
pub fn asks_for_place(program: &[u8]) -> bool {
    let mut instructions = instructions(program).into_iter();
    instructions.any(|one| one.code == code::LOAD_DATA && POINTER.contains(&one.constant))
}

/// Operation codes of struct sock_filter.
mod code {
    pub(super) const LOAD_DATA: u16 = 0x20;
    pub(super) const RETURN_CONSTANT: u16 = 0x06;
    pub(super) const RETURN_ACCUMULATOR: u16 = 0x16;
    /// BPF_CLASS.
    pub(super) const CLASS: u16 = 0x07;
    /// BPF_ALU and BPF_JMP.
    pub(super) const ARITHMETIC: u16 = 0x04;
    pub(super) const JUMP: u16 = 0x05;
    /// BPF_X: the second operand is the index register.
    pub(super) const INDEX: u16 = 0x08;
    /// BPF_OP.
    pub(super) const OPERATION: u16 = 0xf0;
}

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    constant: u32,
}

fn instructions(program: &[u8]) -> Vec<Instruction> {
    let (whole, _) = program.as_chunks::<INSTRUCTION>();
    let parsed = whole.iter().map(|bytes| Instruction {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        if_true: bytes[2],
        if_false: bytes[3],
        constant: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    });
    parsed.collect()
}

/// struct seccomp_data.
fn data(call: &Call) -> [u8; DATA_LEN] {
    let mut bytes = [0; DATA_LEN];
    let number = u32::try_from(call.number).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..8].copy_from_slice(&ARCH.to_le_bytes());
    bytes[8..16].copy_from_slice(&call.instruction_pointer.to_le_bytes());
    for (place, argument) in bytes[16..].chunks_exact_mut(8).zip(call.arguments) {
        place.copy_from_slice(&argument.to_le_bytes());
    }
    bytes
}

/// What a program returns; nothing when it is none that the kernel would have taken.
/// Jumps lead forward only, so that it ends.
fn run(program: &[Instruction], data: &[u8; DATA_LEN]) -> Option<u32> {
    let mut machine = Machine::default();
    let mut at = 0;
    loop {
        let one = *program.get(at)?;
        at += 1;
        match one.code & code::CLASS {
            code::ARITHMETIC => machine.compute(one)?,
            code::JUMP => at += machine.jump(one)?,
            _ => match one.code {
                code::RETURN_CONSTANT => return Some(one.constant),
                code::RETURN_ACCUMULATOR => return Some(machine.accumulator),
                _ => machine.load(one, data)?,
            },
        }
    }
}

#[derive(Default)]
struct Machine {
    accumulator: u32,
    index: u32,
    scratch: [u32; SCRATCH],
}

impl Machine {
    /// Loads, stores and transfers.
    fn load(&mut self, one: Instruction, data: &[u8; DATA_LEN]) -> Option<()> {
        let offset = usize::try_from(one.constant).ok()?;
        let length = u32::try_from(DATA_LEN).ok()?;
        match one.code {
            code::LOAD_DATA => {
                let word = data.get(offset..)?.first_chunk()?;
                self.accumulator = u32::from_le_bytes(*word);
            }
            0x00 => self.accumulator = one.constant,
            0x01 => self.index = one.constant,
            0x60 => self.accumulator = *self.scratch.get(offset)?,
            0x61 => self.index = *self.scratch.get(offset)?,
            0x80 => self.accumulator = length,
            0x81 => self.index = length,
            0x02 => *self.scratch.get_mut(offset)? = self.accumulator,
            0x03 => *self.scratch.get_mut(offset)? = self.index,
            0x07 => self.index = self.accumulator,
            0x87 => self.accumulator = self.index,
            _ => return None,
        }
        Some(())
    }

    fn operand(&self, one: Instruction) -> u32 {
        if one.code & code::INDEX == 0 {
            one.constant
        } else {
            self.index
        }
    }

    fn compute(&mut self, one: Instruction) -> Option<()> {
        let (a, b) = (self.accumulator, self.operand(one));
        self.accumulator = match one.code & code::OPERATION {
            0x00 => a.wrapping_add(b),
            0x10 => a.wrapping_sub(b),
            0x20 => a.wrapping_mul(b),
            0x30 => a.checked_div(b)?,
            0x40 => a | b,
            0x50 => a & b,
            0x60 => a.checked_shl(b)?,
            0x70 => a.checked_shr(b)?,
            0x80 => a.wrapping_neg(),
            0xa0 => a ^ b,
            _ => return None,
        };
        Some(())
    }

    /// Instructions to skip.
    fn jump(&self, one: Instruction) -> Option<usize> {
        let (a, b) = (self.accumulator, self.operand(one));
        let holds = match one.code & code::OPERATION {
            0x00 => return usize::try_from(one.constant).ok(),
            0x10 => a == b,
            0x20 => a > b,
            0x30 => a >= b,
            0x40 => a & b != 0,
            _ => return None,
        };
        let distance = if holds { one.if_true } else { one.if_false };
        Some(usize::from(distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = 0x8000_0000;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (code, if_true, if_false, constant) in instructions {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*if_true, *if_false]);
            bytes.extend(constant.to_le_bytes());
        }
        bytes
    }

    fn call(number: i64) -> Call {
        Call {
            number,
            instruction_pointer: 0x1234_5678_9abc_def0,
            arguments: [1, 2, 3, 4, 5, 1 << 33],
        }
    }

    #[test]
    fn an_allow_list_says_what_it_allows() {
        let list = program(&[
            (0x20, 0, 0, 4),
            (0x15, 1, 0, ARCH),
            (0x06, 0, 0, KILL),
            (0x20, 0, 0, 0),
            (0x15, 0, 1, 35),
            (0x06, 0, 0, ALLOW),
            (0x15, 0, 1, 39),
            (0x06, 0, 0, LOG),
            (0x06, 0, 0, 0x0005_0001),
        ]);
        assert!(allows(&list, &call(35)) && allows(&list, &call(39)));
        assert!(!allows(&list, &call(219)));
        assert!(!may_notify(&list) && !asks_for_place(&list));
    }

    #[test]
    fn arguments_are_judged_in_halves_and_by_arithmetic() {
        // (high half of the last argument * 3) >> 1 == 3
        let filter = |expected| {
            program(&[
                (0x20, 0, 0, 60),
                (0x02, 0, 0, 7),
                (0x61, 0, 0, 7),
                (0x00, 0, 0, 3),
                (0x2c, 0, 0, 0),
                (0x74, 0, 0, 1),
                (0x15, 0, 1, expected),
                (0x06, 0, 0, ALLOW),
                (0x06, 0, 0, KILL),
            ])
        };
        assert!(allows(&filter(3), &call(0)) && !allows(&filter(4), &call(0)));
    }

    #[test]
    fn what_asks_others_or_for_the_place_is_known() {
        assert!(may_notify(&program(&[(0x06, 0, 0, USER_NOTIF)])));
        assert!(may_notify(&program(&[(0x16, 0, 0, 0)])));
        let place = program(&[(0x20, 0, 0, 12), (0x06, 0, 0, ALLOW)]);
        assert!(asks_for_place(&place) && allows(&place, &call(0)));
    }

    #[test]
    fn what_is_no_program_allows_nothing() {
        let endless = program(&[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, ALLOW)]);
        let beyond = program(&[(0x20, 0, 0, 64), (0x06, 0, 0, ALLOW)]);
        let zero = program(&[(0x34, 0, 0, 0), (0x06, 0, 0, ALLOW)]);
        for odd in [Vec::new(), vec![6; 7], endless, beyond, zero] {
            assert!(!allows(&odd, &call(0)), "{odd:?}");
        }
    }
}
