//! Results of moves and of questions about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CpuLevel, JobId, NodeName, Obstacle, Phase};

/// How the memory of a job travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveMode {
    /// The mover chooses.
    #[default]
    Auto,
    /// All of it after the freeze.
    Stop,
    /// Rounds of copies while the job runs.
    Precopy,
}

/// What `mig move` prints, and with `--json` exactly in these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// The job.
    pub job: JobId,
    /// The source.
    pub from: NodeName,
    /// The destination.
    pub to: NodeName,
    /// How the memory travelled; never [`MoveMode::Auto`].
    pub mode: MoveMode,
    /// Wall-clock microseconds from the first thread stopped at the source to
    /// the last one running at the destination.
    pub pause_us: u64,
    /// Wall-clock microseconds of the whole move.
    pub total_us: u64,
    /// Bytes that the source sent.
    pub bytes_sent: u64,
    /// Microseconds spent in each phase.
    pub phases: BTreeMap<Phase, u64>,
    /// File locks that somebody else took during the move, by name: the job
    /// runs without them.
    pub lost_locks: Vec<String>,
}

/// What `mig checkpoint` prints, and with `--json` exactly in these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// The job.
    pub job: JobId,
    /// The node where it runs, which wrote the file.
    pub node: NodeName,
    /// The checkpoint's own name.
    pub uuid: String,
    /// Wall-clock microseconds from the first thread stopped to the last one running, of the
    /// longest stop.
    pub pause_us: u64,
    /// Wall-clock microseconds until all was written.
    pub total_us: u64,
    /// Bytes of the job's contents.
    pub memory_bytes: u64,
    /// Those of them that are in the files on which this one builds.
    pub reused_bytes: u64,
    /// Bytes in the file.
    pub bytes_written: u64,
    /// The checkpoints on which it builds, oldest first.
    pub bases: Vec<String>,
}

/// What `mig restore` prints, and with `--json` exactly in these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The job.
    pub job: JobId,
    /// The job that was copied into the file: another one with `--new-job`.
    pub was: JobId,
    /// The node where it runs.
    pub node: NodeName,
    /// The checkpoint's own name.
    pub uuid: String,
    /// Wall-clock microseconds until it ran.
    pub total_us: u64,
    /// File locks that somebody else has, by name: the job runs without them.
    pub lost_locks: Vec<String>,
    /// Path of the socket on which its capsule's init speaks with `mig`, on its home.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attach: Option<String>,
}

/// The answer to `mig why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReport {
    /// The job, unless a process was asked about that belongs to none.
    pub job: Option<JobId>,
    /// The node where it runs.
    pub from: NodeName,
    /// The node that was asked about, if one was.
    pub to: Option<NodeName>,
    /// `--cpu`: the level of CPUs that the job keeps to.
    pub cpu_level: Option<CpuLevel>,
    /// Whether it can move now: there are no obstacles.
    pub movable: bool,
    /// Everything that stands in the way.
    pub obstacles: Vec<Obstacle>,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhereReport {
    /// The job.
    pub job: JobId,
    /// The node where it runs.
    pub node: NodeName,
    /// Counts its moves; the higher epoch owns it.
    pub epoch: u64,
}
