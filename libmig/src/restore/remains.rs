//! Who is to be ended when a restore fails half-way: everybody that it made.

use std::time::{Duration, Instant};

use crate::sys::{HostPid, cgroup::JobGroup, ptrace};

/// How long a killed task may take to die.
const PATIENCE: Duration = Duration::from_secs(5);

/// Dropped, ends and reaps all tasks of the half-made tree, the zygote too.
#[derive(Debug)]
pub(super) struct Remains {
    group: JobGroup,
    /// Tracees in order of birth.
    traced: Vec<HostPid>,
    armed: bool,
}

impl Remains {
    pub(super) fn new(group: JobGroup, zygote: HostPid) -> Self {
        Self {
            group,
            traced: vec![zygote],
            armed: true,
        }
    }

    pub(super) fn add(&mut self, task: HostPid) {
        self.traced.push(task);
    }

    /// A task that is dead and waited for.
    pub(super) fn forget(&mut self, task: HostPid) {
        self.traced.retain(|known| *known != task);
    }

    /// The tree is complete: it is not ours to end any more.
    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Err(error) = self.group.kill() {
            tracing::warn!(%error, "cannot kill the cgroup of a failed restore");
        }
        let deadline = Instant::now() + PATIENCE;
        // Threads before their leaders: a leader's death is reported last.
        for task in self.traced.iter().rev() {
            // Stops that were on their way come first; an error means that it is gone.
            while let Ok(ptrace::Waited::Stopped(..)) = ptrace::wait_until(*task, deadline) {}
        }
        if let Err(error) = self.group.wait_empty() {
            tracing::warn!(%error, "processes of a failed restore are still there");
        }
    }
}
