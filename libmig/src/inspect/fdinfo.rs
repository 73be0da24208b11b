//! `/proc/PID/fdinfo/N`: the kernel's words about one descriptor. Lines that
//! are not known here are skipped: whether a *kind* of file is known is decided
//! by [`super::fd`], from its name.

use super::{inotify::WatchLine, uring::RingInfo};
use crate::image::TimerFile;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What fdinfo says, as far as it matters for a move.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// File offset.
    pub position: i64,
    /// Open flags and, as O_CLOEXEC, the descriptor's own flag.
    pub flags: i32,
    /// Inode number; 0 on kernels that do not print it.
    pub inode: u64,
    /// `lock:` lines: file locks and leases taken through this description
    /// (of locks that belong to a process, those of the process that was looked at).
    pub locks: Vec<String>,
    /// eventfd: count and EFD_SEMAPHORE.
    pub event: Option<(u64, bool)>,
    /// timerfd.
    pub timer: Option<TimerFile>,
    /// signalfd: the mask.
    pub signal_mask: Option<u64>,
    /// epoll: the interest list.
    pub epoll: Vec<EpollLine>,
    /// inotify: the watches.
    pub inotify: Vec<WatchLine>,
    /// io_uring, as a whole.
    pub ring: Option<RingInfo>,
    /// pidfd: whom it names, in the reader's pid namespace.
    pub pid: Option<i32>,
    /// Index of a pty, which only masters have.
    pub tty_index: Option<u32>,
}

/// One `tfd:` line of an epoll descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpollLine {
    /// Descriptor number when it was added.
    pub number: i32,
    /// EPOLL* bits.
    pub events: u32,
    /// User data.
    pub data: u64,
    /// Inode of the target; all anonymous inodes have the same.
    pub inode: u64,
}

impl FdInfo {
    /// Reads the whole text.
    ///
    /// # Errors
    /// The first line that has a known name and a value that does not parse:
    /// what is known must be understood.
    pub fn parse(text: &str) -> Result<Self, FdInfoError> {
        let mut info = Self::default();
        for line in text.lines() {
            info.line(line).ok_or_else(|| FdInfoError {
                line: line.chars().take(200).collect(),
            })?;
        }
        // A ring that is busy shows none of its lines.
        info.ring = text
            .contains("CachedSqHead:")
            .then(|| RingInfo::parse(text));
        Ok(info)
    }

    /// FD_CLOEXEC of the descriptor.
    #[must_use]
    pub fn close_on_exec(&self) -> bool {
        self.flags & libc::O_CLOEXEC != 0
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let Some((name, value)) = line.split_once(':') else {
            return Some(());
        };
        let value = value.trim();
        match name {
            "pos" => self.position = value.parse().ok()?,
            "flags" => self.flags = octal(value)?,
            "ino" => self.inode = value.parse().ok()?,
            "lock" => self.locks.push(value.to_owned()),
            // Hexadecimal, although nothing says so.
            "eventfd-count" => self.event.get_or_insert_default().0 = hex(value)?,
            "eventfd-semaphore" => self.event.get_or_insert_default().1 = value != "0",
            "sigmask" => self.signal_mask = Some(hex(value)?),
            "Pid" => self.pid = Some(value.parse().ok()?),
            "tty-index" => self.tty_index = Some(value.parse().ok()?),
            "inotify wd" => self.inotify.push(WatchLine::parse(line)?),
            "tfd" => self.epoll.push(epoll_line(line)?),
            "clockid" => self.timer().clock = value.parse().ok()?,
            "ticks" => self.timer().ticks = value.parse().ok()?,
            "settime flags" => self.timer().settime_flags = octal(value)?,
            "it_value" => self.timer().remaining_ns = nanoseconds(value)?,
            "it_interval" => self.timer().interval_ns = nanoseconds(value)?,
            _ => {}
        }
        Some(())
    }

    fn timer(&mut self) -> &mut TimerFile {
        self.timer.get_or_insert(TimerFile {
            clock: 0,
            ticks: 0,
            settime_flags: 0,
            remaining_ns: 0,
            interval_ns: 0,
        })
    }
}

/// A line of fdinfo that this version does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the fdinfo line {line:?}")]
pub struct FdInfoError {
    line: String,
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn octal(text: &str) -> Option<i32> {
    // Flags are an unsigned int in the kernel; the top bit is not in use.
    i32::from_str_radix(text, 8).ok()
}

/// `(seconds, nanoseconds)`.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, rest) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    let rest: u64 = rest.trim().parse().ok()?;
    seconds.checked_mul(NS_PER_SECOND)?.checked_add(rest)
}

/// `tfd: 3 events: 40000019 data: 3  pos:0 ino:40e sdev:10`, where a space may
/// or may not follow a colon.
fn epoll_line(line: &str) -> Option<EpollLine> {
    let spaced = line.replace(':', ": ");
    let mut words = spaced.split_whitespace();
    let mut entry = EpollLine {
        number: -1,
        events: 0,
        data: 0,
        inode: 0,
    };
    while let Some(name) = words.next() {
        let value = words.next()?;
        match name {
            "tfd:" => entry.number = value.parse().ok()?,
            "events:" => entry.events = u32::from_str_radix(value, 16).ok()?,
            "data:" => entry.data = hex(value)?,
            "ino:" => entry.inode = hex(value)?,
            _ => {}
        }
    }
    (entry.number >= 0).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_with_a_lock() {
        let text = "pos:\t17\nflags:\t022300002\nmnt_id:\t27\nino:\t10010666\n\
                    lock:\t1: FLOCK  ADVISORY  WRITE 20983 fe:00:10010666 0 EOF\n";
        let info = FdInfo::parse(text).unwrap();
        assert_eq!(info.position, 17);
        assert!(info.close_on_exec());
        assert_eq!(info.inode, 10_010_666);
        assert_eq!(info.locks.len(), 1);
    }

    #[test]
    fn an_event_counter_is_hexadecimal() {
        let text = "eventfd-count:          1234567\neventfd-id: 1\neventfd-semaphore: 1\n";
        assert_eq!(FdInfo::parse(text).unwrap().event, Some((0x123_4567, true)));
    }

    #[test]
    fn a_timer() {
        let text = "clockid: 1\nticks: 3\nsettime flags: 01\n\
                    it_value: (5, 499999999)\nit_interval: (1, 0)\n";
        assert_eq!(
            FdInfo::parse(text).unwrap().timer,
            Some(TimerFile {
                clock: 1,
                ticks: 3,
                settime_flags: 1,
                remaining_ns: 5_499_999_999,
                interval_ns: 1_000_000_000,
            })
        );
    }

    #[test]
    fn an_interest_list() {
        let text = "tfd:        3 events: 40000019 data:                3  pos:0 ino:40e sdev:10\n\
                    tfd:       12 events: c0000000 data: ffffffffffffffff  pos:0 ino:40e sdev:10\n";
        let info = FdInfo::parse(text).unwrap();
        assert_eq!(info.epoll[0].number, 3);
        assert_eq!(info.epoll[0].events, 0x4000_0019);
        assert_eq!(info.epoll[0].inode, 0x40e);
        assert_eq!(info.epoll[1].data, u64::MAX);
    }

    #[test]
    fn known_names_with_unknown_values_are_errors() {
        for bad in [
            "pos:\tx",
            "flags:\t9",
            "sigmask:\t12345678901234567",
            "it_value: (1, 2",
            "it_value: (99999999999999999, 0)",
            "tfd: 3 events:",
            "tfd: -1 events: 0 data: 0",
        ] {
            assert!(FdInfo::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            FdInfo::parse("SqMask:\t0x3\n\nnonsense").unwrap(),
            FdInfo::default()
        );
    }
}
