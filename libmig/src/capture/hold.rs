//! A freeze that outlives the daemon: the cgroup v2 freezer. A task in a ptrace
//! stop counts as frozen, stays so when its tracer goes, and never
//! returns to user mode; thawed, the kernel restarts its system call.

use super::{CaptureError, Frozen, hindrance};
use crate::sys::cgroup::JobGroup;

impl Frozen {
    /// Freezes the cgroup of the job, in which every process of the tree must be.
    ///
    /// # Errors
    /// A process that is elsewhere, or a cgroup that cannot be frozen; it is then
    /// left thawed.
    pub fn hold(&self, group: &JobGroup) -> Result<(), CaptureError> {
        let failed = |source| CaptureError::Cgroup {
            path: group.path().to_owned(),
            source,
        };
        let members = group.members().map_err(failed)?;
        let live = self.processes.iter().filter(|p| !p.threads.is_empty());
        let escaped = live.filter(|process| !members.contains(&process.host));
        let obstacles: Vec<_> = escaped
            .map(|process| hindrance::escaped(process.pid))
            .collect();
        if !obstacles.is_empty() {
            return Err(CaptureError::Obstacles(obstacles));
        }
        group.freeze().map_err(|error| {
            // What is not frozen yet runs on with the rest.
            drop(group.thaw());
            failed(error)
        })
    }
}
