//! What a destination has to say about a job that would come: judged before
//! anything of it is made here, and before it is frozen there.

use std::os::fd::OwnedFd;

use libmig::api::{Code, Failure, JobId, NodeName, Obstacle};
use libmig::image::NeededFile;
use libmig::inspect::cpu::CpuFeatures;
use libmig::inspect::{fd, manifest};
use libmig::sys::HostPid;

use super::local::Local;
use crate::daemon::Daemon;

/// What of a job matters to its destination.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) job: &'a JobId,
    pub(crate) uid: u32,
    /// The source's [`CpuFeatures`], in postcard.
    pub(crate) cpu: &'a [u8],
    pub(crate) files: &'a [NeededFile],
}

/// Everything that this node has against the job, in one go.
///
/// # Errors
/// When it cannot be judged.
pub(crate) fn obstacles(
    daemon: &Daemon,
    candidate: &Candidate<'_>,
) -> Result<Vec<Obstacle>, Failure> {
    let mut obstacles = Vec::new();
    if candidate.uid == 0 && !daemon.config.accept_root {
        obstacles.push(Obstacle {
            pid: None,
            object: format!("job {}", candidate.job),
            reason: format!("node {} accepts no jobs of root", daemon.node()),
            remedy: "set accept_root in its migd.toml, or run the job as another user".into(),
            transient: false,
        });
    }
    let root = root(daemon, candidate.job)?;
    obstacles.extend(below(&root, daemon.node(), candidate)?);
    Ok(obstacles)
}

/// The same, for a job whose home this node is and that is in a file: whoever may act on it
/// may have it here.
///
/// # Errors
/// As [`obstacles`].
pub(crate) fn at_home(
    daemon: &Daemon,
    candidate: &Candidate<'_>,
) -> Result<Vec<Obstacle>, Failure> {
    let root = root_of(HostPid::own(), candidate.job)?;
    below(&root, daemon.node(), candidate)
}

/// What this machine and the files below `root` have against it.
fn below(
    root: &OwnedFd,
    node: &NodeName,
    candidate: &Candidate<'_>,
) -> Result<Vec<Obstacle>, Failure> {
    let theirs: CpuFeatures = postcard::from_bytes(candidate.cpu).map_err(|error| {
        Failure::from_error(Code::Protocol, "the source's CPU is not understood", &error)
    })?;
    let missing = theirs.missing_at(&CpuFeatures::of_this_machine());
    let cpu = missing.iter().map(|mismatch| Obstacle {
        pid: None,
        object: format!("cpu of {node}"),
        reason: mismatch.to_string(),
        remedy: "move it to a node with the same kind of CPU".into(),
        transient: false,
    });
    Ok(cpu
        .chain(manifest::missing(root, candidate.files))
        .collect())
}

/// The root directory that the job would have: at home that of its capsule;
/// elsewhere a capsule to come, which sees what this daemon sees.
fn root(daemon: &Daemon, job: &JobId) -> Result<OwnedFd, Failure> {
    let process = if &job.home == daemon.node() {
        Local::find(daemon, job)?.init
    } else {
        HostPid::own()
    };
    root_of(process, job)
}

fn root_of(process: HostPid, job: &JobId) -> Result<OwnedFd, Failure> {
    fd::root(process).map_err(|error| {
        let message = format!("the root directory for job {job} cannot be opened");
        Failure::from_error(Code::Host, message, &error)
    })
}
