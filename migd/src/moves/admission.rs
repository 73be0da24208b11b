//! What a destination has to say about a job that would come: judged before
//! anything of it is made here, and before it is frozen there.

use std::os::fd::OwnedFd;

use libmig::api::{Code, CpuLevel, Failure, JobId, Obstacle};
use libmig::image::{NeededAddress, NeededFile};
use libmig::inspect::cpu::CpuFeatures;
use libmig::inspect::demand::{Demand, Room};
use libmig::inspect::{addresses, fd, manifest};
use libmig::sys::HostPid;
use libmig::transfer::Proposal;
use migd::capsule;
use serde::{Deserialize, Serialize};

use super::local::Local;
use super::look::Look;
use crate::cpu;
use crate::daemon::Daemon;
use crate::jobs::record::JobRecord;

/// What of a job matters to its destination.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// The job.
    pub(crate) job: JobId,
    /// Its owner.
    pub(crate) uid: u32,
    /// The source's [`CpuFeatures`], in postcard.
    #[serde(with = "serde_bytes")]
    pub(crate) cpu: Vec<u8>,
    /// `--cpu`.
    pub(crate) cpu_level: Option<CpuLevel>,
    /// The files that it uses by name.
    pub(crate) files: Vec<NeededFile>,
    /// Network addresses that its sockets have.
    pub(crate) addresses: Vec<NeededAddress>,
    /// What it takes up.
    pub(crate) demand: Demand,
}

impl Candidate {
    /// The job of an offer, which is `job` here.
    pub(super) fn offered(job: JobId, Proposal { offer, files }: Proposal) -> Self {
        Self {
            job,
            uid: offer.uid,
            cpu: offer.cpu,
            cpu_level: offer.cpu_level,
            files,
            addresses: offer.addresses,
            demand: Demand {
                processes: offer.processes,
                highest_tid: offer.highest_tid,
                memory_bytes: offer.memory_bytes,
                limits: offer.limits,
            },
        }
    }

    /// A job of this node.
    ///
    /// # Errors
    /// When this node's CPU cannot be described.
    pub(crate) fn from_here(
        daemon: &Daemon,
        record: &JobRecord,
        look: Look,
    ) -> Result<Self, Failure> {
        Ok(Self {
            job: record.id.clone(),
            uid: record.uid,
            cpu: postcard::to_stdvec(&daemon.cpu).map_err(|error| {
                Failure::from_error(Code::Failed, "this node's CPU cannot be described", &error)
            })?,
            cpu_level: record.cpu_level,
            files: look.files,
            addresses: look.addresses,
            demand: look.demand,
        })
    }
}

/// Everything that this node has against the job, in one go.
///
/// # Errors
/// When it cannot be judged.
pub(crate) fn obstacles(daemon: &Daemon, candidate: &Candidate) -> Result<Vec<Obstacle>, Failure> {
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
    let root = root(daemon, &candidate.job)?;
    obstacles.extend(below(daemon, &root, candidate)?);
    Ok(obstacles)
}

/// The same, for a job whose home this node is and that is in a file: whoever may act on it
/// may have it here.
///
/// # Errors
/// As [`obstacles`].
pub(crate) fn at_home(daemon: &Daemon, candidate: &Candidate) -> Result<Vec<Obstacle>, Failure> {
    let root = root_of(HostPid::own(), &candidate.job)?;
    below(daemon, &root, candidate)
}

/// What this machine and the files below `root` have against it.
fn below(daemon: &Daemon, root: &OwnedFd, candidate: &Candidate) -> Result<Vec<Obstacle>, Failure> {
    let theirs = source_cpu(&candidate.cpu)?;
    let mut obstacles = cpu::obstacles(daemon, candidate.cpu_level, &theirs);
    let group = capsule::all_jobs().map_err(|error| {
        Failure::from_error(
            Code::Host,
            "the control group of jobs is not known",
            error.as_ref(),
        )
    })?;
    let room = Room::of_this_machine(daemon.node().to_string(), &group).map_err(|error| {
        Failure::from_error(
            Code::Host,
            "it is not known what this node has room for",
            &error,
        )
    })?;
    obstacles.extend(candidate.demand.obstacles(&room));
    obstacles.extend(manifest::missing(root, &candidate.files));
    obstacles.extend(addresses::taken(&candidate.addresses));
    Ok(obstacles)
}

/// The CPU that an offer describes.
///
/// # Errors
/// When it is no description.
pub(super) fn source_cpu(description: &[u8]) -> Result<CpuFeatures, Failure> {
    postcard::from_bytes(description).map_err(|error| {
        Failure::from_error(Code::Protocol, "the source's CPU is not understood", &error)
    })
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
