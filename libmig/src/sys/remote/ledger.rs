//! Deadlines of relative sleeps that outlived a stop. After a restart the
//! kernel shows restart_syscall(2) in the registers and keeps the deadline to
//! itself, so that a second capture could not tell how much of the sleep is
//! left. Whoever knows it, the capture that is given up or the restore, notes
//! it in the unused tail of the vDSO, just before the [`super::Foothold`]: it
//! belongs to the process, outlives every daemon and is seen by nobody.

use std::io;

use crate::{
    image::{Pid, Registers},
    sys::{HostPid, process_vm, ptrace::reg},
};

/// Bytes that a ledger takes.
pub const LEDGER_LEN: usize = HEADER + CAPACITY * NOTE;
/// Notes that fit; the sleeps of further threads start again after a second stop.
pub const CAPACITY: usize = 30;
const HEADER: usize = 16;
const NOTE: usize = 24;
/// A name of our own, so that nothing else is taken for a ledger.
const MAGIC: [u8; 8] = *b"migsleep";
const MARK: u64 = u64::from_le_bytes(MAGIC);

/// A thread that sleeps to a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The thread, in the capsule.
    pub tid: Pid,
    /// The system call that it made: nanosleep, clock_nanosleep, poll or futex.
    pub number: u32,
    /// When it ends, CLOCK_MONOTONIC of the job in nanoseconds.
    pub deadline_ns: u64,
    /// Of the registers: whether it is still the same call.
    pub fingerprint: u64,
}

impl Note {
    /// The note for a thread that was interrupted with these registers.
    #[must_use]
    pub fn new(tid: Pid, number: u32, deadline_ns: u64, registers: &Registers) -> Self {
        Self {
            tid,
            number,
            deadline_ns,
            fingerprint: fingerprint(registers),
        }
    }

    /// Whether it is about this thread and the call that it is in: one that has been
    /// restarted, or that was marked and has not run since. A program that sleeps in a loop
    /// makes the same call anew with the same registers.
    #[must_use]
    pub fn concerns(&self, tid: Pid, registers: &Registers) -> bool {
        let restarted = registers[reg::ORIG_RAX] == libc::SYS_restart_syscall.cast_unsigned();
        self.tid == tid
            && (restarted || registers[reg::R11] == MARK)
            && self.fingerprint == fingerprint(registers)
    }
}

/// Marks a thread that is to go on in the call of its note, in a register that belongs to
/// nobody: a system call leaves EFLAGS there, and so does its restart.
pub fn mark(registers: &mut Registers) {
    registers[reg::R11] = MARK;
}

/// The notes in a process; none where there is no ledger.
#[must_use]
pub fn read(process: HostPid, at: u64) -> Vec<Note> {
    let mut bytes = [0; LEDGER_LEN];
    match process_vm::read_exact(process, at, &mut bytes) {
        Ok(()) => parse(&bytes),
        Err(_) => Vec::new(),
    }
}

/// Replaces the notes of a process whose threads are all stopped; those beyond
/// [`CAPACITY`] are dropped.
///
/// # Errors
/// When the process is gone, or the place holds something else.
pub fn write(process: HostPid, at: u64, notes: &[Note]) -> io::Result<()> {
    let mut bytes = [0; LEDGER_LEN];
    process_vm::read_exact(process, at, &mut bytes)?;
    let ours = bytes.starts_with(&MAGIC);
    if !ours && bytes != [0; LEDGER_LEN] {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let wanted = compose(notes);
    // No page is copied for a process that has nothing to note.
    if wanted == bytes || (notes.is_empty() && !ours) {
        return Ok(());
    }
    process_vm::force_write(process, at, &wanted)
}

/// Takes a ledger out of a copy of a vDSO.
pub fn erase(code: &mut [u8]) {
    let end = code.len().saturating_sub(super::foothold::PADDING_LEN);
    let start = end.saturating_sub(LEDGER_LEN);
    if code[start..end].starts_with(&MAGIC) {
        code[start..end].fill(0);
    }
}

fn compose(notes: &[Note]) -> [u8; LEDGER_LEN] {
    let mut bytes = [0; LEDGER_LEN];
    let notes = &notes[..notes.len().min(CAPACITY)];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    for (note, place) in notes.iter().zip(bytes[HEADER..].chunks_exact_mut(NOTE)) {
        place[..4].copy_from_slice(&note.tid.to_le_bytes());
        place[4..8].copy_from_slice(&note.number.to_le_bytes());
        place[8..16].copy_from_slice(&note.deadline_ns.to_le_bytes());
        place[16..].copy_from_slice(&note.fingerprint.to_le_bytes());
    }
    bytes
}

fn parse(bytes: &[u8; LEDGER_LEN]) -> Vec<Note> {
    if !bytes.starts_with(&MAGIC) {
        return Vec::new();
    }
    let word =
        |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("a note has whole words"));
    let half =
        |bytes: &[u8]| u32::from_le_bytes(*bytes.first_chunk().expect("a note has whole words"));
    let count = usize::try_from(word(&bytes[8..]))
        .unwrap_or(0)
        .min(CAPACITY);
    let notes = bytes[HEADER..].chunks_exact(NOTE).take(count);
    notes
        .map(|place| Note {
            tid: half(place).cast_signed(),
            number: half(&place[4..]),
            deadline_ns: word(&place[8..]),
            fingerprint: word(&place[16..]),
        })
        .collect()
}

/// FNV-1a of the registers that stay the same for as long as the call lasts.
fn fingerprint(registers: &Registers) -> u64 {
    const CHANGING: [usize; 5] = [reg::RAX, reg::ORIG_RAX, reg::EFLAGS, reg::RCX, reg::R11];
    let stable = registers
        .iter()
        .enumerate()
        .filter(|(index, _)| !CHANGING.contains(index))
        .flat_map(|(_, word)| word.to_le_bytes());
    stable.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_as_written() {
        let mut registers = [7; 27];
        let notes: Vec<Note> = (0..40)
            .map(|tid| Note::new(tid, 35, 1 << 40, &registers))
            .collect();
        assert_eq!(parse(&compose(&notes)), notes[..CAPACITY]);
        assert!(
            !notes[3].concerns(3, &registers),
            "the same call, made anew"
        );
        registers[reg::ORIG_RAX] = libc::SYS_restart_syscall.cast_unsigned();
        assert!(notes[3].concerns(3, &registers));
        registers[reg::ORIG_RAX] = 7;
        mark(&mut registers);
        assert!(notes[3].concerns(3, &registers) && !notes[3].concerns(4, &registers));
        registers[reg::RAX] = 1;
        assert!(notes[3].concerns(3, &registers));
        registers[reg::RSP] = 1;
        assert!(!notes[3].concerns(3, &registers));
    }

    #[test]
    fn other_bytes_are_no_ledger() {
        assert_eq!(parse(&[0xff; LEDGER_LEN]), []);
        let mut forged = compose(&[]);
        forged[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(parse(&forged).len(), CAPACITY);
    }
}
