//! `/proc/PID/timers`: POSIX timers, all but the time that is left.

use std::io;

use crate::sys::HostPid;

/// A timer_create(2) timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerInfo {
    /// Kernel timer ID.
    pub id: i32,
    /// CLOCK_*.
    pub clock: i32,
    /// sigev_notify.
    pub notify: i32,
    /// sigev_signo.
    pub signal: i32,
    /// sigev_value.
    pub value: u64,
    /// The thread or process that is told, in the reader's pid namespace.
    pub target: HostPid,
}

/// The timers of a process by rising ID.
///
/// # Errors
/// When the process is gone; InvalidData for an unknown format.
pub fn read(pid: HostPid) -> io::Result<Vec<TimerInfo>> {
    let text = super::text::string(format!("/proc/{pid}/timers"))?;
    let mut timers = parse(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown format of timers"))?;
    timers.sort_by_key(|timer| timer.id);
    Ok(timers)
}

/// Parses `/proc/PID/timers`.
#[must_use]
pub fn parse(text: &str) -> Option<Vec<TimerInfo>> {
    let mut timers: Vec<TimerInfo> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key == "ID" {
            let id = value.parse().ok()?;
            timers.push(TimerInfo {
                id,
                clock: 0,
                notify: 0,
                signal: 0,
                value: 0,
                target: HostPid::new(0),
            });
            continue;
        }
        let timer = timers.last_mut()?;
        match key {
            "signal" => {
                let (signal, pointer) = value.split_once('/')?;
                timer.signal = signal.parse().ok()?;
                timer.value = u64::from_str_radix(pointer.trim_start_matches("0x"), 16).ok()?;
            }
            "notify" => (timer.notify, timer.target) = notification(value)?,
            "ClockID" => timer.clock = value.parse().ok()?,
            _ => {}
        }
    }
    Some(timers)
}

/// `signal/pid.12`, `none/pid.12`, `signal/tid.13`.
fn notification(value: &str) -> Option<(i32, HostPid)> {
    let (how, whom) = value.split_once('/')?;
    let (kind, id) = whom.split_once('.')?;
    let base = match how {
        "signal" => libc::SIGEV_SIGNAL,
        "none" => libc::SIGEV_NONE,
        "thread" => libc::SIGEV_THREAD,
        _ => return None,
    };
    let thread = match kind {
        "pid" => 0,
        "tid" => libc::SIGEV_THREAD_ID,
        _ => return None,
    };
    Some((base | thread, HostPid::new(id.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_notification() {
        let text = "ID: 0\nsignal: 10/00007ffd12345678\nnotify: signal/pid.77\nClockID: 1\n\
            ID: 3\nsignal: 32/(null)\nnotify: signal/tid.78\nClockID: 0\n";
        assert_eq!(parse(text), None);
        let timers = parse(&text.replace("(null)", "0000000000000000")).unwrap();
        assert_eq!(
            (timers[0].signal, timers[0].value, timers[0].clock),
            (10, 0x7ffd_1234_5678, 1)
        );
        assert_eq!(
            (timers[1].id, timers[1].notify, timers[1].target),
            (3, libc::SIGEV_THREAD_ID, HostPid::new(78))
        );
    }
}
