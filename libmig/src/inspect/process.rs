//! `/proc/PID/stat`, `status` and the small files beside them. Strict: an
//! unknown format is an error, never a default.

mod tree;

use std::{fs, io};

pub use tree::{Scope, Size, id_at, level, size, tree};

use super::text;
use crate::sys::HostPid;

/// The fields of `/proc/PID/stat` that a move needs. IDs are those of the
/// reader's pid namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name of the program or thread.
    pub comm: Vec<u8>,
    /// R, S, D, T, t, Z, X, I ...
    pub state: u8,
    /// Parent.
    pub ppid: HostPid,
    /// Session.
    pub session: i32,
    /// Device number of its controlling terminal; 0 without one.
    pub terminal: i32,
    /// Foreground process group of that terminal; -1 without one.
    pub foreground: i32,
    /// PF_* flags of the kernel.
    pub flags: u64,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
    /// Fields 26 to 28 and 45 to 51: the layout of the address space.
    pub layout: StatLayout,
    /// The CPU that it runs or last ran on.
    pub cpu: u32,
    /// Wait status, for a zombie.
    pub exit_code: i32,
}

/// Addresses in `/proc/PID/stat`; 0 without the right to trace the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of proc(5)")]
pub struct StatLayout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_stack: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
}

impl Stat {
    /// Major and minor number of its controlling terminal.
    #[must_use]
    pub fn controlling_terminal(&self) -> Option<(u32, u32)> {
        // The kernel's new_encode_dev().
        let device = self.terminal.cast_unsigned();
        let minor = device & 0xff | device >> 12 & 0xfff00;
        (device != 0).then_some((device >> 8 & 0xfff, minor))
    }

    /// Whether it is a zombie, or about to be gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Reads `/proc/PID/stat`; of a thread, with its thread ID.
///
/// # Errors
/// NotFound when it is gone; InvalidData for an unknown format.
pub fn stat(pid: HostPid) -> io::Result<Stat> {
    let text = read(pid, "stat")?;
    parse_stat(&text).ok_or_else(|| unknown("stat"))
}

/// Parses `/proc/PID/stat`. The name may contain anything, also `) R 1`.
#[must_use]
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc(5) counts from 1; the state is field 3.
    let field = |number: usize| fields.get(number - 3).copied();
    let address = |number: usize| field(number)?.parse::<u64>().ok();
    Some(Stat {
        comm,
        state: *field(3)?.as_bytes().first()?,
        ppid: HostPid::new(field(4)?.parse().ok()?),
        session: field(6)?.parse().ok()?,
        terminal: field(7)?.parse().ok()?,
        foreground: field(8)?.parse().ok()?,
        flags: address(9)?,
        started: address(22)?,
        layout: StatLayout {
            start_code: address(26)?,
            end_code: address(27)?,
            start_stack: address(28)?,
            start_data: address(45)?,
            end_data: address(46)?,
            start_brk: address(47)?,
            arg_start: address(48)?,
            arg_end: address(49)?,
            env_start: address(50)?,
            env_end: address(51)?,
        },
        cpu: field(39)?.parse().ok()?,
        exit_code: field(52)?.parse().ok()?,
    })
}

/// The fields of `/proc/TID/status` that a move needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// ID in each pid namespace, outermost first; the last is the innermost.
    pub ns_pid: Vec<i32>,
    /// Process group, likewise; 0 where its leader cannot be seen.
    pub ns_pgid: Vec<i32>,
    /// Session, likewise.
    pub ns_sid: Vec<i32>,
    /// Who traces it; 0 = nobody.
    pub tracer: i32,
    /// File mode creation mask; absent for a zombie.
    pub umask: Option<u32>,
    /// Real, effective, saved, filesystem user ID.
    pub uids: [u32; 4],
    /// The same for groups.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb.
    pub capabilities: [u64; 5],
    /// NoNewPrivs.
    pub no_new_privs: bool,
    /// Seccomp: 0 off, 1 strict, 2 filter.
    pub seccomp: u32,
    /// SigPnd, ShdPnd, SigBlk, SigIgn, SigCgt.
    pub signals: [u64; 5],
    /// How often it has gone to sleep by itself; a ptrace stop counts, too.
    pub voluntary_switches: u64,
}

impl Status {
    /// The ID that the task has for itself.
    #[must_use]
    pub fn own_id(&self) -> Option<i32> {
        self.ns_pid.last().copied()
    }
}

/// Reads `/proc/TID/status`.
///
/// # Errors
/// As [`stat`].
pub fn status(pid: HostPid) -> io::Result<Status> {
    let text = read(pid, "status")?;
    parse_status(&text).ok_or_else(|| unknown("status"))
}

/// Parses `/proc/TID/status`; `None` when a known field has an unknown form or is missing.
#[must_use]
pub fn parse_status(text: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    let mut seen = 0;
    for line in text.split(|byte| *byte == b'\n') {
        // The name is the only field that is not ASCII; it is not needed.
        let Some((key, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let value = value.trim();
        match key {
            "NSpid" => status.ns_pid = numbers(value)?,
            "NSpgid" => status.ns_pgid = numbers(value)?,
            "NSsid" => status.ns_sid = numbers(value)?,
            "TracerPid" => status.tracer = value.parse().ok()?,
            "Umask" => status.umask = Some(u32::from_str_radix(value, 8).ok()?),
            "Uid" => status.uids = numbers(value)?.try_into().ok()?,
            "Gid" => status.gids = numbers(value)?.try_into().ok()?,
            "Groups" => status.groups = numbers(value)?,
            "NoNewPrivs" => status.no_new_privs = value != "0",
            "Seccomp" => status.seccomp = value.parse().ok()?,
            "CapInh" => status.capabilities[0] = hex(value)?,
            "CapPrm" => status.capabilities[1] = hex(value)?,
            "CapEff" => status.capabilities[2] = hex(value)?,
            "CapBnd" => status.capabilities[3] = hex(value)?,
            "CapAmb" => status.capabilities[4] = hex(value)?,
            "SigPnd" => status.signals[0] = hex(value)?,
            "ShdPnd" => status.signals[1] = hex(value)?,
            "SigBlk" => status.signals[2] = hex(value)?,
            "SigIgn" => status.signals[3] = hex(value)?,
            "SigCgt" => status.signals[4] = hex(value)?,
            "voluntary_ctxt_switches" => status.voluntary_switches = value.parse().ok()?,
            _ => continue,
        }
        seen += 1;
    }
    // All but Umask and Seccomp (not configured) are always there.
    (seen >= 19).then_some(status)
}

/// Children of all threads of a process, in the reader's pid namespace.
///
/// # Errors
/// As [`stat`].
pub fn children(pid: HostPid) -> io::Result<Vec<HostPid>> {
    let mut children = Vec::new();
    for thread in threads(pid)? {
        match text::string(format!("/proc/{pid}/task/{thread}/children")) {
            Ok(text) => children.extend(
                numbers::<i32>(&text)
                    .ok_or_else(|| unknown("children"))?
                    .into_iter()
                    .map(HostPid::new),
            ),
            // A thread that exits hands its children to another one: the caller looks again.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// The threads of a process, the leader first.
///
/// # Errors
/// As [`stat`].
pub fn threads(pid: HostPid) -> io::Result<Vec<HostPid>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| unknown("task"))?;
        threads.push(HostPid::new(id));
    }
    threads.sort_by_key(|thread| (*thread != pid, *thread));
    Ok(threads)
}

/// When a task last ran, in nanoseconds of the scheduler's clock of the CPU
/// that it ran on; `None` where the kernel does not say.
#[must_use]
pub fn last_ran_ns(pid: HostPid) -> Option<u64> {
    parse_exec_start(&text::string(format!("/proc/{pid}/sched")).ok()?)
}

/// The scheduler's clock now, of the CPU that the caller runs on. Each CPU has
/// its own: time that a hypervisor stole is not counted.
#[must_use]
pub fn scheduler_now_ns() -> Option<u64> {
    // Giving way brings the own entry up to date; otherwise it is as old as the last tick.
    std::thread::yield_now();
    parse_exec_start(&text::string("/proc/thread-self/sched").ok()?)
}

fn parse_exec_start(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("se.exec_start"))?;
    let (milliseconds, fraction) = line.split_once(':')?.1.trim().split_once('.')?;
    if fraction.len() != 6 {
        return None;
    }
    milliseconds
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(fraction.parse().ok()?)
}

/// A small decimal or text file of `/proc/PID`, without the final newline.
///
/// # Errors
/// As [`stat`].
pub fn small_file(pid: HostPid, name: &str) -> io::Result<String> {
    let text = String::from_utf8(read(pid, name)?).map_err(|_| unknown(name))?;
    Ok(text.trim_end().to_owned())
}

/// A hexadecimal file of `/proc/PID` (personality, coredump_filter).
///
/// # Errors
/// As [`stat`].
pub fn hex_file(pid: HostPid, name: &str) -> io::Result<u64> {
    hex(&small_file(pid, name)?).ok_or_else(|| unknown(name))
}

/// Name of a thread, at most 15 bytes.
///
/// # Errors
/// As [`stat`].
pub fn comm(pid: HostPid) -> io::Result<Vec<u8>> {
    let mut name = read(pid, "comm")?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(name)
}

/// Whether an error of reading `/proc` means that the task has ended.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn read(pid: HostPid, name: &str) -> io::Result<Vec<u8>> {
    text::piece(format!("/proc/{pid}/{name}"))
}

fn numbers<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split_ascii_whitespace()
        .map(|word| word.parse().ok())
        .collect()
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("unknown format of {name}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_state_of_this_process() {
        let own = HostPid::own();
        let stat = stat(own).unwrap();
        assert!(stat.state == b'R' || stat.state == b'S');
        assert!(stat.layout.start_code < stat.layout.end_code && stat.layout.start_brk > 0);
        let status = status(own).unwrap();
        assert_eq!(status.ns_pid[0], own.raw());
        assert_eq!(status.uids[0], nix::unistd::getuid().as_raw());
        assert_eq!(threads(own).unwrap()[0], own);
    }

    #[test]
    fn a_name_cannot_forge_the_fields() {
        let mut line = b"12 (a) Z 1 (b) S 7 ".to_vec();
        line.extend(
            (5..=52)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .join(" ")
                .into_bytes(),
        );
        let stat = parse_stat(&line).unwrap();
        assert_eq!(
            (stat.comm.as_slice(), stat.state, stat.ppid, stat.exit_code),
            (&b"a) Z 1 (b"[..], b'S', HostPid::new(7), 52)
        );
        assert_eq!((stat.layout.start_code, stat.layout.env_end), (26, 51));
    }

    #[test]
    fn a_truncated_file_is_no_process() {
        assert_eq!(parse_stat(b"12 (a) S 1 2 3"), None);
        assert_eq!(parse_status(b"Name:\tx\nNSpid:\t1\n"), None);
        assert_eq!(parse_status(b"Uid:\t0 0 0\n"), None);
    }

    #[test]
    fn the_clock_of_the_scheduler_moves() {
        assert_eq!(
            parse_exec_start("x\nse.exec_start     :      123.000456\n"),
            Some(123_000_456)
        );
        let (first, second) = (scheduler_now_ns(), scheduler_now_ns());
        assert!(first <= second);
    }
}
