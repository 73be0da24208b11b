//! Lines of `mig ps` and `mig nodes`.

use serde::{Deserialize, Serialize};

use super::{CpuLevel, JobId, NodeName};

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its processes run or sleep.
    Running,
    /// Its main program was stopped by a signal.
    Stopped,
    /// It is on its way to another node.
    Moving,
    /// The node where it lives does not answer.
    Unreachable,
    /// It ended; its status is kept for `mig wait`.
    Exited,
}

/// One job, as `mig ps --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its ID.
    pub job: JobId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its owner's name at home, or the number where there is none.
    pub user: String,
    /// Its owner.
    pub uid: u32,
    /// The node where it runs.
    pub node: NodeName,
    /// The node where it was started.
    pub home: NodeName,
    /// What it is doing.
    pub state: JobState,
    /// `--pin`: stays where it is.
    pub pinned: bool,
    /// `--cpu`: the level of CPUs that it keeps to.
    pub cpu_level: Option<CpuLevel>,
    /// Counts its moves and attempts; the highest owns the job.
    pub epoch: u64,
    /// Processor use over the last seconds: 1.0 is one core.
    pub cpu: Option<f64>,
    /// Resident bytes.
    pub memory_bytes: Option<u64>,
    /// Seconds since 1970 when it was started.
    pub started_unix: u64,
    /// Process ID of its main program as the node where it runs sees it.
    pub pid: Option<i32>,
    /// Its command line, blanks between the words.
    pub command: String,
}

/// Whether a node can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// The node that answers.
    Local,
    /// Connected.
    Up,
    /// Not connected.
    Down,
}

/// One node, as `mig nodes --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub node: NodeName,
    /// Its peer address.
    pub address: String,
    /// Whether it answers.
    pub state: NodeState,
    /// Why it is down, if known.
    pub reason: Option<String>,
    /// Runnable work per core; absent while unknown.
    pub load: Option<f64>,
    /// Its cores.
    pub cores: Option<u32>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of it that are available.
    pub memory_available_bytes: Option<u64>,
    /// Jobs that live there.
    pub jobs: Option<u32>,
}
