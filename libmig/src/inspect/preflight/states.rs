//! Threads that cannot be stopped at this instant, and a leader that has ended
//! before its threads. A thread is in such a state for a moment all the time:
//! only what lasts is an obstacle.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::subject::{Finding, Subject};
use crate::{
    image::Pid,
    inspect::process,
    sys::{
        HostPid,
        sched::{self, Shared},
    },
};

/// How long a state has to last.
const LASTING: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(1);

pub(super) fn check(subject: &mut Subject, tree: &[(HostPid, Pid)]) {
    let deadline = Instant::now() + LASTING;
    let mut troubled = troubles(subject);
    while !troubled.is_empty() && Instant::now() < deadline {
        thread::sleep(STEP);
        let again = troubles(subject);
        troubled.retain(|trouble| again.contains(trouble));
    }
    for (tid, trouble) in troubled {
        match trouble {
            Trouble::Leaderless => subject.refuse_process(Finding::new(
                "its main thread has ended while others live",
                "let the main thread wait for the others (pthread_join)",
            )),
            Trouble::Waiting(host) => {
                let finding = waiting(subject.host, host, tree);
                subject.refuse_thread(tid, finding);
            }
            Trouble::HalfStopped => subject.refuse_thread(
                tid,
                Finding::passing(
                    "it is stopped while other threads of its process are not yet",
                    "try again when all are, or continue it: kill -CONT PID",
                ),
            ),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The leader is a zombie, others are not.
    Leaderless,
    /// D: it does not react to anything.
    Waiting(HostPid),
    /// T, and not all are.
    HalfStopped,
}

/// Troubles at this instant, each with its thread.
fn troubles(subject: &Subject) -> Vec<(Pid, Trouble)> {
    let state = |host| process::stat(host).map_or(b'X', |stat| stat.state);
    let states: Vec<(Pid, HostPid, u8)> = subject
        .tasks
        .iter()
        .map(|task| (task.tid, task.host, state(task.host)))
        .filter(|(.., state)| !matches!(state, b'Z' | b'X'))
        .collect();
    let mut found = Vec::new();
    if state(subject.host) == b'Z' && !states.is_empty() {
        found.push((subject.pid, Trouble::Leaderless));
    }
    let all_stopped = states.iter().all(|(.., state)| *state == b'T');
    for (tid, host, state) in states {
        match state {
            b'D' => found.push((tid, Trouble::Waiting(host))),
            b'T' if !all_stopped => found.push((tid, Trouble::HalfStopped)),
            _ => {}
        }
    }
    found
}

/// vfork(2) waits uninterruptibly until the child lets go of the address space
/// that they share; else it is a device.
fn waiting(process: HostPid, thread: HostPid, tree: &[(HostPid, Pid)]) -> Finding {
    if in_vfork(process, thread, tree) {
        return vfork();
    }
    // The symbol is 0 for whoever may not see kernel addresses.
    let place = process::small_file(thread, "wchan").unwrap_or_default();
    let place = match place.as_str() {
        "" | "0" => String::new(),
        symbol => format!(", in {symbol}"),
    };
    Finding::passing(
        format!("it is in an uninterruptible sleep, as for a disk or a network file system{place}"),
        "try again when the device answers",
    )
}

/// Whether a thread waits in vfork(2).
fn in_vfork(process: HostPid, thread: HostPid, tree: &[(HostPid, Pid)]) -> bool {
    process::stat(thread).is_ok_and(|stat| stat.state == b'D')
        && tree.iter().any(|(child, _)| {
            process::stat(*child).is_ok_and(|stat| stat.ppid == process)
                && sched::share(process, *child, Shared::Memory).unwrap_or(false)
        })
}

/// Whether any thread of `parent` waits in vfork(2) for `child`, with which it
/// shares memory.
pub(super) fn waits_for(parent: HostPid, child: HostPid) -> bool {
    let threads = process::threads(parent).unwrap_or_default();
    threads
        .into_iter()
        .any(|thread| in_vfork(parent, thread, &[(child, 0)]))
}

pub(super) fn vfork() -> Finding {
    Finding::passing(
        "it waits in vfork for its child to call exec",
        "it passes within milliseconds; try again",
    )
}
