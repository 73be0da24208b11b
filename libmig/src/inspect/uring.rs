//! Rings of io_uring(7), as fdinfo shows them: only those move in which nothing goes on.

use std::{fs, io};

use super::{fd, refusal::Refusal};
use crate::sys::HostPid;

/// The lines of fdinfo about a ring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RingInfo {
    /// Entries of the submission queue.
    pub sq_entries: u32,
    /// Entries of the completion queue.
    pub cq_entries: u32,
    /// Requests that the kernel has taken.
    pub taken: u32,
    /// Answers that it has given.
    pub answered: u32,
    /// Answers that the program has seen.
    pub reaped: u32,
    /// The thread that reads the submission queue (IORING_SETUP_SQPOLL).
    thread: Option<i32>,
    /// Registered files and buffers.
    registered: u32,
    /// Requests that wait for something to be readable, and answers that had no room.
    waiting: bool,
    /// The lines that must be there.
    complete: bool,
}

/// More than liburing lets anybody have.
const MOST_ENTRIES: u32 = 1 << 15;
/// A new ring is brought to the same count by as many requests: some 50 ns each.
const MOST_REQUESTS: u32 = 1 << 25;

/// The number under which a process has the ring with this inode open. Its mappings have the
/// inode, too, but nobody can open a ring by them.
///
/// # Errors
/// The process is gone.
pub fn descriptor(host: HostPid, inode: u64) -> io::Result<Option<i32>> {
    let is_it = |number: &i32| {
        let link = format!("/proc/{host}/fd/{number}");
        let named = fs::read_link(&link);
        named.is_ok_and(|name| name.as_os_str() == "anon_inode:[io_uring]")
            && rustix::fs::stat(&link).is_ok_and(|stat| stat.st_ino == inode)
    };
    Ok(fd::numbers(host)?.into_iter().find(is_it))
}

impl RingInfo {
    /// From the text of fdinfo.
    pub(super) fn parse(text: &str) -> Self {
        let mut info = Self::default();
        let mut seen = 0;
        let mut list = false;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                info.waiting |= list && !line.trim().is_empty();
                continue;
            };
            list = matches!(name, "PollList" | "CqOverflowList");
            let number = value.trim();
            let hexadecimal = number.strip_prefix("0x");
            let count = hexadecimal.map_or_else(
                || number.parse().ok(),
                |digits| u32::from_str_radix(digits, 16).ok(),
            );
            let place = match name {
                "SqMask" => &mut info.sq_entries,
                "CqMask" => &mut info.cq_entries,
                "CachedSqHead" => &mut info.taken,
                "CachedCqTail" => &mut info.answered,
                "CqHead" => &mut info.reaped,
                "UserFiles" | "UserBufs" => {
                    info.registered |= count.unwrap_or(1);
                    continue;
                }
                "SqThread" => {
                    info.thread = number.parse().ok();
                    continue;
                }
                _ => continue,
            };
            seen += usize::from(count.is_some());
            *place = count.unwrap_or(0);
        }
        info.sq_entries = info.sq_entries.saturating_add(1);
        info.cq_entries = info.cq_entries.saturating_add(1);
        info.complete = seen == 5;
        info
    }

    /// Why it cannot travel as it is now.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let busy = |reason| Some(Refusal::ring(reason, true));
        if !self.complete {
            return busy("its state is being changed");
        }
        if self.thread.is_some_and(|thread| thread > 0) {
            return Some(Refusal::ring(
                "a thread of this node's kernel serves it (SQPOLL)",
                false,
            ));
        }
        if self.registered != 0 {
            return Some(Refusal::ring("it has registered files or buffers", false));
        }
        let waiting = self.answered.wrapping_sub(self.reaped);
        let sizes = [self.sq_entries, self.cq_entries];
        let possible = sizes
            .iter()
            .all(|entries| entries.is_power_of_two() && *entries <= 2 * MOST_ENTRIES);
        if !possible || waiting > self.cq_entries || self.taken > MOST_REQUESTS {
            return Some(Refusal::ring(
                "it is too large, or has served too many requests",
                false,
            ));
        }
        if self.waiting || self.taken != self.answered {
            return busy("it has requests that this node's kernel has not answered yet");
        }
        // The kernel keeps to itself how many more answers it believes to have room for.
        if waiting > self.cq_entries / 2 {
            return busy("the program has not taken most of its answers yet");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: &str = "pos:\t0\nSqMask:\t0x7\nSqHead:\t5\nSqTail:\t5\nCachedSqHead:\t5\nCqMask:\t0xf\nCqHead:\t2\n\
        CqTail:\t5\nCachedCqTail:\t5\nSQEs:\t0\nCQEs:\t3\n    2: user_data:102, res:0, flags:0\nSqThread:\t-1\nUserFiles:\t0\nUserBufs:\t0\n\
        PollList:\nCqOverflowList:\nNAPI:\tdisabled\n";

    #[test]
    fn a_ring_without_requests_may_travel() {
        let info = RingInfo::parse(IDLE);
        assert_eq!((info.sq_entries, info.cq_entries), (8, 16));
        assert_eq!((info.taken, info.answered, info.reaped), (5, 5, 2));
        assert_eq!(info.refusal(), None);
    }

    #[test]
    fn what_goes_on_in_a_ring_is_told() {
        for (from, to, reason, transient) in [
            ("CachedSqHead:\t5", "CachedSqHead:\t6", "not answered", true),
            (
                "PollList:\n",
                "PollList:\n  op=22, task_works=0\n",
                "not answered",
                true,
            ),
            ("SqThread:\t-1", "SqThread:\t77", "SQPOLL", false),
            ("UserBufs:\t0", "UserBufs:\t3", "registered", false),
            ("SqMask:\t0x7\n", "", "being changed", true),
            ("SqMask:\t0x7\n", "SqMask:\t0x5\n", "too large", false),
        ] {
            let refusal = RingInfo::parse(&IDLE.replace(from, to)).refusal().unwrap();
            assert!(refusal.reason.contains(reason), "{refusal:?}");
            assert_eq!(refusal.transient, transient);
        }
        let full = IDLE.replace("CachedSqHead:\t5", "CachedSqHead:\t15");
        let full = full.replace("CachedCqTail:\t5", "CachedCqTail:\t15");
        assert!(RingInfo::parse(&full).refusal().unwrap().transient);
    }
}
