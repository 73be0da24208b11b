//! The `lock:` lines of fdinfo.

use crate::image::LockKind;

/// A lock as its line shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLock {
    /// What it belongs to.
    pub kind: LockKind,
    /// WRITE; else READ.
    pub exclusive: bool,
    /// First byte.
    pub start: i64,
    /// Bytes; 0 up to the end of the file.
    pub length: i64,
}

impl HeldLock {
    /// Reads what follows `lock:`, as in
    /// `1: POSIX  ADVISORY  WRITE 20983 fe:00:10010666 0 EOF`.
    ///
    /// `None` for a lease, which the kernel takes back by a signal, and for
    /// whatever else is not known here.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, kind, "ADVISORY", access, _, _, start, end] = words.as_slice() else {
            return None;
        };
        let kind = match kind {
            "POSIX" => LockKind::Process,
            "OFDLCK" => LockKind::Description,
            "FLOCK" => LockKind::Flock,
            _ => return None,
        };
        let exclusive = match access {
            "WRITE" => true,
            "READ" => false,
            _ => return None,
        };
        let start: i64 = start.parse().ok().filter(|start| *start >= 0)?;
        let length = match end {
            "EOF" => 0,
            end => end
                .parse::<i64>()
                .ok()
                .and_then(|end| end.checked_sub(start)?.checked_add(1))
                .filter(|length| *length > 0)?,
        };
        Some(Self {
            kind,
            exclusive,
            start,
            length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(line: &str) -> (LockKind, bool, i64, i64) {
        let lock = HeldLock::parse(line).unwrap();
        (lock.kind, lock.exclusive, lock.start, lock.length)
    }

    #[test]
    fn three_kinds() {
        assert_eq!(
            held("1: POSIX  ADVISORY  WRITE 20983 fe:00:10010666 1073741824 1073741825"),
            (LockKind::Process, true, 1 << 30, 2)
        );
        assert_eq!(
            held("2: OFDLCK ADVISORY  READ  -1 fe:00:10010666 7 EOF"),
            (LockKind::Description, false, 7, 0)
        );
        assert_eq!(
            held("1: FLOCK  ADVISORY  WRITE 20983 fe:00:10010666 0 EOF"),
            (LockKind::Flock, true, 0, 0)
        );
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        for line in [
            "1: LEASE  ACTIVE    READ  20983 fe:00:10010666 0 EOF",
            "1: DELEG  ACTIVE    READ  20983 fe:00:10010666 0 EOF",
            "1: ACCESS ADVISORY  READ  20983 fe:00:10010666 0 EOF",
            "1: POSIX  *NOINODE* WRITE 20983 <none>:0 0 EOF",
            "1: POSIX  ADVISORY  UNLCK 20983 fe:00:10010666 0 EOF",
            "1: POSIX  ADVISORY  WRITE 20983 fe:00:10010666 9 8",
            "1: POSIX  ADVISORY  WRITE 20983 fe:00:10010666 -1 8",
            "1: POSIX  ADVISORY  WRITE 20983 fe:00:10010666 0 9223372036854775807",
            "",
        ] {
            assert_eq!(HeldLock::parse(line), None, "{line}");
        }
    }
}
