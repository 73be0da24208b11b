//! One CPU for the daemon's thread and the husks, for as long as they talk:
//! each stop wakes the other side, and to wake a sleeping CPU costs four times
//! as much as to switch on one.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    image::{self, Thread},
    sys::HostPid,
};

/// The calling thread and a husk on one CPU. Dropped, the thread has its CPUs
/// back; husks get theirs by [`Pin::unpin`].
#[derive(Debug)]
pub(super) struct Pin {
    thread: Option<CpuSet>,
    husk: Option<CpuSet>,
}

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

impl Pin {
    /// Pins both. Where that is not possible, the restore is just slower.
    pub(super) fn both(husk: HostPid) -> Self {
        let pinned = Self {
            thread: sched_getaffinity(SELF).ok(),
            husk: sched_getaffinity(husk.into()).ok(),
        };
        let cpu = rustix::thread::sched_getcpu();
        let mut one = CpuSet::new();
        let allowed = pinned
            .husk
            .as_ref()
            .is_some_and(|set| set.is_set(cpu) == Ok(true));
        if allowed && one.set(cpu).is_ok() {
            let result =
                sched_setaffinity(SELF, &one).and_then(|()| sched_setaffinity(husk.into(), &one));
            if let Err(error) = result {
                tracing::debug!(%error, "not pinned to one CPU");
            }
        }
        pinned
    }

    /// Gives a finished thread the CPUs that it had been bound to: those of them
    /// that this node has. When it has none of them, or the thread was not bound,
    /// all that the node offers to the job.
    pub(super) fn unpin(&self, task: HostPid, thread: &Thread) {
        let Some(offered) = &self.husk else { return };
        let bound = thread
            .affinity
            .as_ref()
            .is_some_and(|cpus| bind(task, thread.tid, cpus));
        if !bound && let Err(error) = sched_setaffinity(task.into(), offered) {
            tracing::warn!(tid = thread.tid, %error, "thread stays on one CPU");
        }
    }
}

/// Whether the node has any of these CPUs: the kernel leaves out the others.
fn bind(task: HostPid, tid: image::Pid, cpus: &[u32]) -> bool {
    let mut wanted = CpuSet::new();
    for cpu in cpus {
        let known = usize::try_from(*cpu).is_ok_and(|cpu| wanted.set(cpu).is_ok());
        tracing::trace!(cpu, known, "affinity");
    }
    let bound = sched_setaffinity(task.into(), &wanted).is_ok();
    if !bound {
        tracing::warn!(
            tid,
            ?cpus,
            "this node has no CPU of a thread's mask: it may use all"
        );
    } else if sched_getaffinity(task.into()).is_ok_and(|set| set != wanted) {
        tracing::warn!(tid, ?cpus, "this node has not all CPUs of a thread's mask");
    }
    bound
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(set) = &self.thread
            && let Err(error) = sched_setaffinity(SELF, set)
        {
            tracing::warn!(%error, "the daemon's thread stays on one CPU");
        }
    }
}
