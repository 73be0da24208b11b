//! What can stand in the way of a freeze, by name.

use super::CaptureError;
use crate::{
    api::Obstacle,
    image::Pid,
    inspect::{
        process,
        sharing::{self, Link},
    },
    sys::HostPid,
};

pub(super) fn obstacle(obstacle: Obstacle) -> CaptureError {
    CaptureError::Obstacles(vec![obstacle])
}

/// What two processes have in common that a copy of each would not. It lasts:
/// nobody is in vfork when all have stopped.
pub(super) fn sharing(pid: Pid, other: Pid, link: &Link) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: link.reason(other),
        remedy: sharing::REMEDY.to_owned(),
        transient: false,
    }
}

fn own_id(thread: HostPid) -> Pid {
    process::status(thread)
        .ok()
        .and_then(|status| status.own_id())
        .unwrap_or(thread.raw())
}

pub(super) fn vfork(thread: HostPid) -> Obstacle {
    let pid = own_id(thread);
    Obstacle {
        pid: Some(pid),
        object: format!("thread {pid}"),
        reason: "it waits in vfork for its child to call exec".to_owned(),
        remedy: "it passes within milliseconds; try again".to_owned(),
        transient: true,
    }
}

pub(super) fn stuck(thread: HostPid) -> Obstacle {
    let pid = own_id(thread);
    Obstacle {
        pid: Some(pid),
        object: format!("thread {pid}"),
        reason: "it is in an uninterruptible sleep, usually for a disk or a network file system"
            .to_owned(),
        remedy: "try again when the device answers".to_owned(),
        transient: true,
    }
}

pub(super) fn traced(pid: HostPid, tracer: i32) -> Obstacle {
    let own = own_id(pid);
    Obstacle {
        pid: Some(own),
        object: format!("process {own}"),
        reason: format!("it is traced by process {tracer} (a debugger, or strace)"),
        remedy: "end the tracer, then move".to_owned(),
        transient: false,
    }
}

pub(super) fn not_64_bit(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason: "it runs in a code segment of its own (32-bit code, or modify_ldt)".to_owned(),
        remedy: "use a 64-bit build of the program".to_owned(),
        transient: false,
    }
}

/// Calls that are made for us would go to its handler, too; and to switch that off while they are made
/// would leave it off, should nobody be left to switch it on again.
pub(super) fn dispatched(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason: "its program handles its system calls itself (PR_SET_SYSCALL_USER_DISPATCH)"
            .to_owned(),
        remedy: "start it without that, or keep the job where it is with --pin".to_owned(),
        transient: false,
    }
}

pub(super) fn sandboxed(pid: Pid, tid: Pid, reason: String, remedy: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason,
        remedy: remedy.to_owned(),
        transient: false,
    }
}

pub(super) fn changing(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "its threads come and go faster than they can be stopped".to_owned(),
        remedy: "try again".to_owned(),
        transient: true,
    }
}

pub(super) fn dead_leader(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "its main thread has ended while others live".to_owned(),
        remedy: "let the main thread wait for the others (pthread_join)".to_owned(),
        transient: false,
    }
}

pub(super) fn escaped(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "it is not in the control group of its job, and would not be frozen with it"
            .to_owned(),
        remedy: "let nobody move the job's processes between control groups".to_owned(),
        transient: false,
    }
}
