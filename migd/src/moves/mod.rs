//! Moves between this node and others: what the conductor of libmig drives.
//!
//! Everything here runs on a mover's own OS thread and blocks.

use libmig::api::{Code, Failure, JobId, MoveMode, MoveReport, NodeName, Obstacle};
use tracing::warn;

use crate::control::Events;
use crate::daemon::Daemon;
use crate::jobs::record::{Arrival, Committed};
use crate::peer::{BlockingTls, DialHello};

/// Moves `job` to `to` and waits for the end of it.
pub(crate) fn start(
    _daemon: &Daemon,
    job: &JobId,
    _to: &NodeName,
    _mode: MoveMode,
    _events: &Events,
) -> Result<MoveReport, Failure> {
    Err(refusal(job))
}

/// The destination's side of one attempt.
pub(crate) fn serve(_stream: BlockingTls, hello: &DialHello, _daemon: &Daemon) {
    warn!(peer = %hello.node, "a move was refused: this build has no mover");
}

/// Destination: the arrival is live in the journal; let it run. Repeatable.
pub(crate) fn release(_daemon: &Daemon, arrival: &Arrival) -> Result<(), Failure> {
    Err(refusal(&arrival.record.id))
}

/// Destination: destroys what was built. Repeatable.
pub(crate) fn discard(_daemon: &Daemon, arrival: &Arrival) -> Result<(), Failure> {
    Err(refusal(&arrival.record.id))
}

/// Source: the destination runs it; destroys the frozen copy. Repeatable.
pub(crate) fn reap(_daemon: &Daemon, committed: &Committed) -> Result<(), Failure> {
    Err(refusal(&committed.job))
}

/// Source: the job stays; lets whatever is frozen of it run. Repeatable, and
/// harmless on a job that runs.
pub(crate) fn resume(_daemon: &Daemon, job: &JobId) -> Result<(), Failure> {
    Err(refusal(job))
}

/// What stands in the way of a move of a job of this node.
pub(crate) fn obstacles(
    _daemon: &Daemon,
    job: &JobId,
    _to: Option<&NodeName>,
) -> Result<Vec<Obstacle>, Failure> {
    Err(refusal(job))
}

fn refusal(job: &JobId) -> Failure {
    Failure::new(
        Code::Refused,
        format!("job {job} cannot move: this build has no mover"),
    )
}
