//! What `mig` asks of its daemon, and the answers.
//!
//! A request is answered by any number of [`FromDaemon::Event`] and then one
//! [`FromDaemon::Done`] or [`FromDaemon::Failed`].

use serde::{Deserialize, Serialize};

use super::{
    CheckpointReport, Event, ExitRecord, Failure, JobId, JobInfo, MoveMode, MoveReport, NodeInfo,
    NodeName, RestoreReport, Target, WhereReport, WhyReport, exec::ExecRequest,
};

/// One request on the local socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a program; four descriptors come along (see [`super::exec`]).
    Exec(ExecRequest),
    /// Where is the attach socket of a job?
    Attach {
        /// The job.
        target: Target,
    },
    /// List jobs.
    Ps {
        /// Of every user, not only the caller's.
        all: bool,
    },
    /// List nodes.
    Nodes {},
    /// Move a job.
    Move(MoveRequest),
    /// Write a copy of a running job into a file, whose descriptor comes along, and behind it
    /// those of the checkpoints that it is to build on, oldest first.
    Checkpoint {
        /// The job.
        target: Target,
        /// It does not run on. A last descriptor comes along, of a stream socket: the daemon
        /// writes the report there when the file is on its disk ([`super::local::send`]), and ends
        /// the job when one byte comes back; without that byte it runs on.
        end: bool,
    },
    /// Make a job of what is in a file; descriptors come along: the file, then 0, 1 and 2, and
    /// then the files that it builds on, oldest first.
    Restore(RestoreRequest),
    /// Send a signal to every process of the jobs' main process groups.
    Kill {
        /// The job.
        target: Target,
        /// Signal number.
        signal: i32,
    },
    /// Wait until a job ends.
    Wait {
        /// The job.
        target: Target,
    },
    /// What stands in the way of a move?
    Why {
        /// The job.
        target: Target,
        /// The destination, if one is meant.
        to: Option<NodeName>,
    },
    /// Where is it?
    Where {
        /// The job.
        target: Target,
    },
}

/// `mig restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Where it is to run; without one, here.
    pub node: Option<NodeName>,
    /// It is to be a job of its own.
    pub new_job: bool,
    /// A name for it.
    pub name: Option<String>,
    /// Nobody will connect to its streams.
    pub detach: bool,
}

/// `mig move`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// The job or one of its processes.
    pub target: Target,
    /// The destination; without one the daemon chooses.
    pub to: Option<NodeName>,
    /// How the memory travels.
    #[serde(default)]
    pub mode: MoveMode,
}

/// The answer to `mig exec`: the job exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecReply {
    /// Its ID.
    pub job: JobId,
    /// Path of the socket on which the capsule's init speaks with `mig exec`
    /// and `mig attach`.
    pub attach: String,
}

/// The answer to a request that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Ps`].
    Jobs(Vec<JobInfo>),
    /// To [`Request::Nodes`].
    Nodes(Vec<NodeInfo>),
    /// To an exec request, and to an attach request.
    Exec(ExecReply),
    /// To [`Request::Move`].
    Moved(MoveReport),
    /// To [`Request::Checkpoint`]: the descriptor has all of it.
    Saved(CheckpointReport),
    /// To [`Request::Restore`]: the job runs.
    Restored(RestoreReport),
    /// To [`Request::Kill`]: the signal was delivered.
    Killed(JobId),
    /// To [`Request::Wait`].
    Exited(ExitRecord),
    /// To [`Request::Why`].
    Why(WhyReport),
    /// To [`Request::Where`].
    Where(WhereReport),
}

/// Everything that the daemon sends after its hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromDaemon {
    /// Progress.
    Event(Event),
    /// The request succeeded.
    Done(Reply),
    /// The request failed.
    Failed(Failure),
}
