//! The hold: from traced to frozen, and from there to life or death.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd};

use super::{
    error::{RestoreError, host, trace},
    finish::Threads,
    names::{self, StagedName},
    remains::Remains,
    task::Task,
};
use crate::{
    image::{FileLock, Pid},
    sys::{
        HostPid,
        cgroup::JobGroup,
        ptrace::{self, Options, Waited},
    },
};

/// A complete tree, frozen by its cgroup and traced by nobody.
///
/// **Afterwards**: dropped (or when the daemon dies), it stays frozen.
#[derive(Debug)]
pub struct Complete {
    group: JobGroup,
    processes: Vec<(Pid, HostPid)>,
    waiting: Vec<FileLock>,
    root: OwnedFd,
    names: Vec<StagedName>,
}

impl Complete {
    /// The live processes: their IDs in the capsule and for the daemon.
    #[must_use]
    pub fn processes(&self) -> &[(Pid, HostPid)] {
        &self.processes
    }

    /// Locks of the job that somebody else has: as a rule its copy at the source.
    #[must_use]
    pub fn waiting(&self) -> &[FileLock] {
        &self.waiting
    }

    /// Gives the sockets their names, and lets the job run.
    ///
    /// # Errors
    /// When its cgroup is gone.
    pub fn release(self) -> Result<(), RestoreError> {
        names::publish(&self.root, &self.names);
        self.group
            .thaw()
            .map_err(host("thaw the cgroup of the job"))
    }

    /// Ends the job's processes and waits until they are gone.
    ///
    /// # Errors
    /// When its cgroup is gone, or one of them does not die.
    pub fn destroy(self) -> Result<(), RestoreError> {
        self.group
            .kill()
            .map_err(host("kill the cgroup of the job"))?;
        self.group
            .wait_empty()
            .map_err(host("end the processes of the job"))?;
        names::withdraw(&self.root, &self.names);
        Ok(())
    }
}

/// Ends the zygote, freezes the tree and lets go of it.
pub(super) fn hold(
    mut remains: Remains,
    group: &JobGroup,
    zygote: &Task,
    tree: BTreeMap<Pid, Threads>,
    waiting: Vec<FileLock>,
    (root, names): (OwnedFd, Vec<StagedName>),
) -> Result<Complete, RestoreError> {
    dismiss(zygote)?;
    remains.forget(zygote.host());
    group
        .freeze()
        .map_err(host("freeze the cgroup of the job"))?;
    let processes: Vec<(Pid, HostPid)> = tree
        .iter()
        .map(|(pid, threads)| (*pid, threads[0].host()))
        .collect();
    for task in tree.into_values().flatten() {
        let Task { id, mut stopped } = task;
        stopped
            .set_options(Options::empty())
            .map_err(trace(id, "released"))?;
        stopped.detach().map_err(trace(id, "released"))?;
    }
    remains.disarm();
    Ok(Complete {
        group: group.clone(),
        processes,
        waiting,
        root,
        names,
    })
}

fn dismiss(zygote: &Task) -> Result<(), RestoreError> {
    nix::sys::signal::kill(zygote.host().into(), nix::sys::signal::Signal::SIGKILL)
        .map_err(host("end the zygote"))?;
    while let Waited::Stopped(..) =
        ptrace::wait(zygote.host()).map_err(trace(zygote.id, "ended"))?
    {}
    Ok(())
}

/// Writes `/proc/PID/FILE`, unless it says so already.
pub(super) fn write_proc(pid: Pid, process: HostPid, file: &str, value: &str) {
    if let Err(error) = fs::write(format!("/proc/{process}/{file}"), value) {
        tracing::warn!(pid, file, value, %error, "not set");
    }
}
