//! POSIX timers whose clock or target a restored process would not have.

use super::subject::{Finding, Subject};
use crate::{
    image::Pid,
    inspect::timers::{self, TimerInfo},
};

/// CLOCK_REALTIME, MONOTONIC, BOOTTIME, TAI.
const CLOCKS: [i32; 4] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_TAI,
];
const ALARMS: [i32; 2] = [libc::CLOCK_REALTIME_ALARM, libc::CLOCK_BOOTTIME_ALARM];
const NOTIFICATIONS: [i32; 4] = [
    libc::SIGEV_SIGNAL,
    libc::SIGEV_NONE,
    libc::SIGEV_THREAD,
    libc::SIGEV_THREAD_ID,
];
/// Of a negative clock ID: whose it is (the PID, inverted), a thread's or a
/// process's, and which time; 3 is a descriptor's clock.
const PID_SHIFT: i32 = 3;
const PER_THREAD: i32 = 4;
const WHICH: i32 = 3;
const OF_DESCRIPTOR: i32 = 3;

const CHANGE_CLOCK: &str = "let the program use a timer on CLOCK_MONOTONIC";

pub(super) fn check(subject: &mut Subject) {
    let timers = timers::read(subject.host);
    let Some(timers) = subject.read("its POSIX timers", timers) else {
        return;
    };
    let tids: Vec<Pid> = subject.tasks.iter().map(|task| task.tid).collect();
    let mut found = Vec::new();
    for timer in &timers {
        let told = subject.tasks.iter().any(|task| task.host == timer.target);
        let finding = clock(timer.clock, subject.pid, &tids).or_else(|| notified(timer, told));
        found.extend(finding.map(|finding| (timer.id, finding)));
    }
    for (id, finding) in found {
        subject.refuse(format!("POSIX timer {id}"), finding);
    }
}

/// Whether a clock can be had again; `pid` and `tids` are those of the process.
fn clock(clock: i32, pid: Pid, tids: &[Pid]) -> Option<Finding> {
    if CLOCKS.contains(&clock) {
        return None;
    }
    if ALARMS.contains(&clock) {
        let reason = "it is to wake this node from its sleep (an alarm clock)";
        return Some(Finding::new(reason, CHANGE_CLOCK));
    }
    if clock >= 0 {
        let reason = format!("its clock {clock} is not known to this version of mig");
        return Some(Finding::new(reason, CHANGE_CLOCK));
    }
    if clock & WHICH == OF_DESCRIPTOR {
        let reason = "its clock is a device of this node";
        return Some(Finding::new(reason, CHANGE_CLOCK));
    }
    let owner = !(clock >> PID_SHIFT);
    let (own, whose) = if clock & PER_THREAD == 0 {
        (owner == 0 || owner == pid, "process")
    } else if owner == 0 {
        // The clock of the thread that made the timer, whichever that was.
        (tids.len() == 1, "thread")
    } else {
        (tids.contains(&owner), "thread")
    };
    (!own).then(|| {
        let reason = match owner {
            0 => "it runs on the CPU time of one of several threads, and nobody can tell which"
                .to_owned(),
            owner => format!("it runs on the CPU time of {whose} {owner}, not of its own process"),
        };
        Finding::new(reason, "let the program use CLOCK_PROCESS_CPUTIME_ID")
    })
}

/// Whether it tells somebody who is there.
fn notified(timer: &TimerInfo, told: bool) -> Option<Finding> {
    if !NOTIFICATIONS.contains(&timer.notify) {
        let reason = format!("it notifies in an unknown way ({})", timer.notify);
        return Some(Finding::new(reason, "report it, with this number"));
    }
    (timer.notify == libc::SIGEV_THREAD_ID && !told).then(|| {
        Finding::new(
            "the thread that it is to notify has ended",
            "let the program delete the timer (timer_delete)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel makes them: MAKE_PROCESS_CPUCLOCK and its like.
    fn cpu_clock(pid: i32, per_thread: bool, which: i32) -> i32 {
        (!pid << PID_SHIFT) | if per_thread { PER_THREAD } else { 0 } | which
    }

    #[test]
    fn ordinary_clocks_travel() {
        for id in CLOCKS {
            assert_eq!(clock(id, 7, &[7, 8]), None, "{id}");
        }
    }

    #[test]
    fn cpu_clocks_travel_when_they_are_the_process_own() {
        for own in [
            cpu_clock(0, false, 2),
            cpu_clock(7, false, 0),
            cpu_clock(8, true, 2),
        ] {
            assert_eq!(clock(own, 7, &[7, 8]), None, "{own}");
        }
        assert_eq!(clock(cpu_clock(0, true, 2), 7, &[7]), None);
        let other = clock(cpu_clock(9, false, 2), 7, &[7, 8]).unwrap();
        assert!(other.reason.contains("process 9"), "{other:?}");
        assert!(clock(cpu_clock(9, true, 2), 7, &[7, 8]).is_some());
        let somebody = clock(cpu_clock(0, true, 2), 7, &[7, 8]).unwrap();
        assert!(somebody.reason.contains("several threads"));
    }

    #[test]
    fn clocks_of_this_node_stay() {
        let device = (!5 << PID_SHIFT) | OF_DESCRIPTOR;
        assert!(clock(device, 7, &[7]).unwrap().reason.contains("device"));
        assert!(clock(9, 7, &[7]).unwrap().reason.contains("wake"));
        assert!(clock(16, 7, &[7]).unwrap().reason.contains("clock 16"));
    }

    #[test]
    fn a_timer_that_tells_nobody_is_named() {
        let mut timer = TimerInfo {
            id: 0,
            clock: 1,
            notify: libc::SIGEV_THREAD_ID,
            signal: 10,
            value: 0,
            target: crate::sys::HostPid::new(9),
        };
        assert_eq!(notified(&timer, true), None);
        assert!(notified(&timer, false).is_some());
        timer.notify = libc::SIGEV_SIGNAL;
        assert_eq!(notified(&timer, false), None);
        timer.notify = 5;
        assert!(notified(&timer, true).unwrap().reason.contains("(5)"));
    }
}
