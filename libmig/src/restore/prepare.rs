//! The zygote: from a husk that sleeps in the capsule to one that can be told
//! what to do. Done before the source is frozen.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};

use super::{
    error::{RestoreError, host, trace},
    husk,
    own_vdso::OwnVdso,
    pin::Pin,
    remains::Remains,
    task::Task,
};
use crate::{
    api::Obstacle,
    image::Pid,
    sys::{
        HostPid,
        cgroup::JobGroup,
        ptrace::{self, Options, PtraceError, Waited},
    },
};

/// A capsule that was made for a job to come.
#[derive(Debug, Clone)]
pub struct CapsuleRef {
    /// Its init.
    pub init: HostPid,
    /// A child of the init that runs [`super::husk::exec`], in the init's
    /// session, at a pid that no process of the job has. Its exit signal is SIGCHLD.
    pub zygote: HostPid,
    /// The cgroup (v2) for the processes of the job.
    pub cgroup_job: PathBuf,
}

/// An empty tree: the zygote is traced and stopped.
///
/// **Afterwards**: dropped (or when the daemon dies), the zygote is gone and
/// the capsule is as it was before its zygote.
#[derive(Debug)]
pub struct Prepared {
    pub(super) remains: Remains,
    pub(super) zygote: Task,
    pub(super) pin: Pin,
    /// Process group of the zygote, in the capsule.
    pub(super) zygote_group: Pid,
    /// The job's root directory.
    pub(super) root: OwnedFd,
    /// The capsule's.
    pub(super) init: HostPid,
    pub(super) group: JobGroup,
    /// What the husks will have for a vDSO.
    pub(super) vdso: OwnVdso,
}

/// How long the zygote may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Options of every tracee: dies with the daemon, brings its children along.
pub(super) fn options() -> Options {
    Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
}

/// Takes the zygote. All later calls belong on the same OS thread.
///
/// # Errors
/// When it is not there, is traced already, or the cgroup does not take it; the
/// zygote is dead then.
pub fn prepare(capsule: &CapsuleRef) -> Result<Prepared, RestoreError> {
    let vdso = OwnVdso::read()?;
    let group = JobGroup::new(capsule.cgroup_job.clone());
    let ids = Ids::read(capsule.zygote)?;
    let root = format!("/proc/{}/root", capsule.init);
    let root = rustix::fs::open(
        &root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(host(format!("open {root}")))?;
    group
        .adopt(capsule.zygote)
        .map_err(host("move the zygote into the cgroup of its job"))?;
    husk::wait_for_exec(capsule.zygote, PATIENCE).map_err(host("wait for the zygote"))?;
    ptrace::seize(capsule.zygote, options()).map_err(trace(ids.pid, "prepared"))?;
    let remains = Remains::new(group.clone(), capsule.zygote);
    ptrace::interrupt(capsule.zygote).map_err(trace(ids.pid, "prepared"))?;
    let waited = ptrace::wait_until(capsule.zygote, Instant::now() + PATIENCE);
    let mut stopped = match waited.map_err(trace(ids.pid, "prepared"))? {
        Waited::Stopped(stopped, _) => stopped,
        Waited::Exited(_) => {
            return Err(trace(ids.pid, "prepared")(PtraceError::Gone {
                thread: capsule.zygote,
            }));
        }
    };
    // Children inherit it: nothing may come between before its time.
    stopped
        .set_sigmask(u64::MAX)
        .map_err(trace(ids.pid, "prepared"))?;
    let zygote = Task {
        id: ids.pid,
        stopped,
    };
    let pin = Pin::both(capsule.zygote);
    Ok(Prepared {
        pin,
        remains,
        zygote,
        zygote_group: ids.group,
        root,
        init: capsule.init,
        group,
        vdso,
    })
}

/// IDs as the capsule sees them.
struct Ids {
    pid: Pid,
    group: Pid,
}

impl Ids {
    fn read(zygote: HostPid) -> Result<Self, RestoreError> {
        let path = format!("/proc/{zygote}/status");
        let text = crate::inspect::text::string(&path).map_err(host(format!("read {path}")))?;
        let innermost = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next_back()?.parse::<Pid>().ok()
        };
        match (
            innermost("NSpid:"),
            innermost("NSpgid:"),
            innermost("NSsid:"),
        ) {
            (Some(pid), Some(group), Some(crate::image::INIT)) if pid > crate::image::INIT => {
                Ok(Self { pid, group })
            }
            _ => Err(Obstacle {
                pid: None,
                object: format!("zygote {zygote}"),
                reason: "is not in the session of a capsule's init".into(),
                remedy: "report it: the capsule was not made properly".into(),
                transient: false,
            }
            .into()),
        }
    }
}
