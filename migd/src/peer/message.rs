//! What nodes ask each other on a control connection.
//!
//! The dialling node asks, the accepting node answers; two nodes have one
//! such connection in each direction. Postcard: append to enums only.

use libmig::api::{ExitRecord, Failure, JobId, JobInfo, Obstacle, Reply, Request, WhereReport};
use libmig::migration::Verdict;
use serde::{Deserialize, Serialize};

use crate::moves::admission::Candidate;
use libmig::balance::{Load, Refusal, Reservation};

/// One question, numbered by the asker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Comes back with the answer.
    pub(crate) id: u64,
    /// The question.
    pub(crate) question: Question,
}

/// One answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Return {
    /// The number of its question.
    pub(crate) id: u64,
    /// The answer.
    pub(crate) answer: Answer,
}

/// What a node may ask its peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Question {
    /// My load is this; what is yours? Asked each second: also the heartbeat.
    Load(Load),
    /// Which jobs do you know?
    Ps,
    /// Do this for a user of mine, whom I have authenticated.
    Forward {
        /// The user.
        uid: u32,
        /// How often it has been forwarded; bounds loops.
        hops: u8,
        /// What the user asked, its target as a job ID.
        request: Request,
    },
    /// Which job has this name for this user?
    Resolve {
        /// The user.
        uid: u32,
        /// The name.
        name: String,
    },
    /// Your job lives here now (the higher epoch wins).
    Located {
        /// The job, of which the answering node is home.
        job: JobId,
        /// With this epoch.
        epoch: u64,
    },
    /// Your job ended here.
    Exited {
        /// How.
        exit: ExitRecord,
        /// The epoch that it had.
        epoch: u64,
    },
    /// May this job come, if my balancer sends it?
    Reserve(Reservation),
    /// You offered me this job: did you commit?
    CommitState {
        /// The job.
        job: JobId,
        /// The epoch of the attempt.
        epoch: u64,
    },
    /// I committed this job to you: release it, if you have not yet.
    Commit {
        /// The job.
        job: JobId,
        /// The epoch of the attempt.
        epoch: u64,
    },
    /// What would stand in the way at your side if this job came?
    Admit(Box<Candidate>),
}

/// What the peer answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To [`Question::Load`].
    Load(Load),
    /// To [`Question::Ps`].
    Jobs(Vec<JobInfo>),
    /// To [`Question::Forward`].
    Reply(Reply),
    /// To [`Question::Resolve`].
    Resolved(Option<WhereReport>),
    /// To [`Question::Located`] and [`Question::Exited`]: it is on disk.
    Noted,
    /// To [`Question::Reserve`].
    Reserved(Result<(), Refusal>),
    /// To [`Question::CommitState`] and [`Question::Commit`].
    Verdict(Verdict),
    /// To anything that failed.
    Failed(Failure),
    /// To [`Question::Admit`].
    Obstacles(Vec<Obstacle>),
}
