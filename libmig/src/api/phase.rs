//! The phases of a move. One enum names spans, progress, metrics and errors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a move is. Up to [`Phase::Built`] the source owns the job and runs it
/// again after any failure; from [`Phase::Commit`] on the destination owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Versions, CPU features, limits; the destination reserves.
    Negotiate,
    /// Preflight at both ends, capsule and husks.
    Prepare,
    /// Memory travels while the job runs.
    Precopy,
    /// Every thread of the source is being stopped.
    Freeze,
    /// Last pages and all state.
    Final,
    /// The destination is complete, stopped and verified.
    Built,
    /// The source durably gives up ownership.
    Commit,
    /// The destination runs.
    Release,
    /// The source destroys its frozen copy.
    Reap,
}

impl Phase {
    /// All phases in their order.
    pub const ALL: [Phase; 9] = [
        Phase::Negotiate,
        Phase::Prepare,
        Phase::Precopy,
        Phase::Freeze,
        Phase::Final,
        Phase::Built,
        Phase::Commit,
        Phase::Release,
        Phase::Reap,
    ];

    /// Its name in JSON, logs and failpoints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Negotiate => "negotiate",
            Phase::Prepare => "prepare",
            Phase::Precopy => "precopy",
            Phase::Freeze => "freeze",
            Phase::Final => "final",
            Phase::Built => "built",
            Phase::Commit => "commit",
            Phase::Release => "release",
            Phase::Reap => "reap",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
