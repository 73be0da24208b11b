//! The commit point: the only place that says "committed".
//!
//! A `Commit` whose answer is lost leaves the source with a frozen copy that
//! it has given up, and a destination that may or may not have heard of it.
//! Nobody guesses: the source repeats the question until the destination says
//! that it runs the job, or that it has no such copy, and only the latter
//! gives the job back. Each question carries the epoch, so that an answer
//! about an older move is never taken for one about this.

use serde::{Deserialize, Serialize};

/// What a node knows about one epoch of a job, when its peer asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Asked of a source: it has given up the job for this epoch.
    Committed,
    /// Asked of a source: it has not, and never will: the job stayed with it.
    Aborted,
    /// Asked of a source: the move is still under way.
    Undecided,
    /// Asked of a destination: the copy is complete and waits for the commit.
    Built,
    /// Asked of a destination: it runs the job, or did.
    Live,
    /// Asked of a destination: there is no such copy.
    Absent,
}

/// Proof that the source has durably given up the job.
#[derive(Debug)]
#[must_use = "the destination has not been told yet"]
pub struct Commit {
    epoch: u64,
}

impl Commit {
    /// Only [`super::source`] makes one, right after [`super::SourceJob::commit`] returned.
    pub(super) const fn recorded(epoch: u64) -> Self {
        Self { epoch }
    }

    /// The epoch that owns the job from now on.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
}
