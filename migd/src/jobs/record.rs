//! What is kept on disk about jobs.
//!
//! Every value is in [`super::versions`], so that a newer daemon reads what an
//! older one wrote.

use libmig::api::{CpuLevel, ExitRecord, JobId, NodeName};
use libmig::image::FileLock;
use serde::{Deserialize, Serialize};

/// Where a job lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// On this node.
    Here,
    /// On another; only home keeps such a record.
    Away {
        /// That node.
        node: NodeName,
    },
}

/// One job that this node hosts or is home of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    /// Its ID; names home too.
    pub(crate) id: JobId,
    /// Its owner's name for it.
    pub(crate) name: Option<String>,
    /// Its owner.
    pub(crate) uid: u32,
    /// Its owner's name at home.
    pub(crate) user: String,
    /// Its command line, for people.
    pub(crate) command: String,
    /// Where it lives.
    pub(crate) place: Place,
    /// Epoch of the owner: 0 at start, then that of the move that brought it
    /// where it is.
    pub(crate) epoch: u64,
    /// Highest epoch that any attempt to move it from here has used. Attempts
    /// never share one, so that an answer about one is never taken for another.
    pub(crate) last_attempt: u64,
    /// `--pin`.
    pub(crate) pinned: bool,
    /// Seconds since 1970.
    pub(crate) started_unix: u64,
    /// When it arrived here, or started; seconds since 1970.
    pub(crate) arrived_unix: u64,
    /// Milliseconds of CPU time that it used before it came here: part of its
    /// age, and no kernel of this node knows of it.
    pub(crate) cpu_ms_elsewhere: u64,
    /// `--cpu`: the level of CPUs that it keeps to.
    pub(crate) cpu_level: Option<CpuLevel>,
}

/// What a job begins with.
#[derive(Debug, Default)]
pub(crate) struct NewJob {
    /// Its owner.
    pub(crate) uid: u32,
    /// Its owner's name.
    pub(crate) user: String,
    /// Its owner's name for it.
    pub(crate) name: Option<String>,
    /// Its command line, for people.
    pub(crate) command: String,
    /// `--pin`.
    pub(crate) pinned: bool,
    /// `--cpu`.
    pub(crate) cpu_level: Option<CpuLevel>,
}

impl JobRecord {
    /// What a look at a process says of it that is part of no job: no job has this number.
    pub(crate) fn of_no_job(node: &NodeName, uid: u32) -> Self {
        Self {
            id: JobId {
                home: node.clone(),
                number: u64::MAX,
            },
            name: None,
            uid,
            user: String::new(),
            command: String::new(),
            place: Place::Here,
            epoch: 0,
            last_attempt: 0,
            pinned: false,
            started_unix: 0,
            arrived_unix: 0,
            cpu_ms_elsewhere: 0,
            cpu_level: None,
        }
    }

    /// Whether it lives on this node.
    pub(crate) fn is_here(&self) -> bool {
        self.place == Place::Here
    }
}

/// Source journal: ownership was given up, the destination has not yet said
/// that the job runs there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    /// The job.
    pub(crate) job: JobId,
    /// The new owner's epoch.
    pub(crate) epoch: u64,
    /// The new owner; this node itself when the job is in a file.
    pub(crate) destination: NodeName,
}

/// Destination journal: how far an arrival has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Room is kept for it.
    Reserved,
    /// Complete and frozen; whose it is only the source can say.
    Built,
    /// It is ours. Kept afterwards for a source that asks again.
    Live,
}

/// Destination journal: one arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// The record that becomes ours with [`Stage::Live`].
    pub(crate) record: JobRecord,
    /// The epoch of this attempt.
    pub(crate) epoch: u64,
    /// Where it comes from.
    pub(crate) source: NodeName,
    /// How far it has come.
    pub(crate) stage: Stage,
}

/// Destination journal: what an arrival waits for before it may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// The job.
    pub(crate) job: JobId,
    /// The epoch of the attempt.
    pub(crate) epoch: u64,
    /// Locks that the copy at the source holds.
    pub(crate) locks: Vec<FileLock>,
}

/// A checkpoint that a job has come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// The checkpoint's own name.
    pub(crate) uuid: String,
    /// The job.
    pub(crate) job: JobId,
    /// When, in seconds since 1970.
    pub(crate) unix: u64,
}

/// Something that home must be told, kept until it has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The job lives here, with this epoch.
    Located {
        /// That epoch.
        epoch: u64,
    },
    /// The job ended here; what an older daemon has left to be told.
    Exited(ExitRecord),
    /// The job ended here, with this epoch: it may live again, from a checkpoint.
    Ended {
        /// How.
        exit: ExitRecord,
        /// That epoch.
        epoch: u64,
    },
}

/// One change on disk; a list of them is one transaction.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Insert or replace a record.
    Record(JobRecord),
    /// Forget it.
    NoRecord(JobId),
    /// Insert an entry of the source journal.
    Committed(Committed),
    /// It is settled.
    NoCommitted(JobId),
    /// Insert or replace an entry of the destination journal.
    Arrival(Arrival),
    /// It is settled.
    NoArrival(JobId),
    /// Insert or replace what an arrival waits for.
    Waiting(Waiting),
    /// It waits no longer.
    NoWaiting(JobId),
    /// Remember that a checkpoint has been restored.
    Restored(Restored),
    /// Forget it.
    NotRestored(String),
    /// Remember how a job ended.
    Exit(ExitRecord),
    /// Forget it.
    NoExit(JobId),
    /// Tell home.
    Report(JobId, Report),
    /// Home knows.
    NoReport(JobId),
    /// The highest number given to a job of this home.
    LastNumber(u64),
    /// How often this daemon has started.
    Generation(u64),
}
