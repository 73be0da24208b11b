//! Which locks the job holds. A lock is shown under every number of its
//! description, one of a process only where that process is looked at.

use std::collections::HashSet;

use crate::{
    image::{FileId, FileLock, LockKind, Pid},
    inspect::lock::HeldLock,
};

/// The locks of a tree, each once.
#[derive(Default)]
pub(super) struct Locks {
    pub(super) found: Vec<FileLock>,
    known: HashSet<FileLock>,
}

impl Locks {
    /// Takes the `lock:` lines of a descriptor that may travel.
    pub(super) fn note(&mut self, pid: Pid, number: i32, file: FileId, lines: &[String]) {
        for held in lines.iter().filter_map(|line| HeldLock::parse(line)) {
            let lock = FileLock {
                kind: held.kind,
                exclusive: held.exclusive,
                start: held.start,
                length: held.length,
                pid,
                number,
                file,
            };
            let owner = if lock.kind == LockKind::Process {
                pid
            } else {
                0
            };
            let name = FileLock {
                pid: owner,
                number: 0,
                ..lock
            };
            if self.known.insert(name) {
                self.found.push(lock);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_seen_twice_is_one() {
        let line = |kind| format!("1: {kind} ADVISORY  WRITE 7 fe:00:1 0 9");
        let mut locks = Locks::default();
        locks.note(2, 3, 0, &[line("POSIX")]);
        locks.note(2, 4, 0, &[line("POSIX")]);
        locks.note(2, 3, 0, &[line("OFDLCK")]);
        locks.note(5, 3, 0, &[line("OFDLCK")]);
        locks.note(5, 3, 0, &[line("POSIX")]);
        let seen: Vec<_> = locks
            .found
            .iter()
            .map(|lock| (lock.kind, lock.pid, lock.number))
            .collect();
        assert_eq!(
            seen,
            [
                (LockKind::Process, 2, 3),
                (LockKind::Description, 2, 3),
                (LockKind::Process, 5, 3)
            ]
        );
    }
}
