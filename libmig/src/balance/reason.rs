//! What the balancer decided and the numbers it decided by, so that
//! `mig explain` can tell them afterwards.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Reservation;
use crate::api::{JobId, NodeName};

/// One job that is to move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Which job.
    pub job: JobId,
    /// Where it should go.
    pub to: NodeName,
    /// To be asked of `to` before anything is frozen. It may refuse; that is
    /// then told to [`super::Balancer::refused`].
    pub reservation: Reservation,
    /// Why.
    pub reason: Reason,
}

/// The numbers that a decision was made from. Times are in seconds; slowdowns
/// are how many times longer work takes than on a free core of speed 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// CPU seconds that the job has consumed, and is expected to consume still.
    pub age: f64,
    /// Slowdown at the source now.
    pub source_slowdown: f64,
    /// Slowdown at the destination with the job there, hysteresis included.
    pub destination_slowdown: f64,
    /// Seconds that the job is expected to save for each second of its age.
    pub gain: f64,
    /// Seconds that the move is expected to cost.
    pub cost: f64,
    /// Bytes that the cost was computed from.
    pub memory: u64,
    /// Tasks that the job keeps runnable.
    pub runnable: f64,
    /// Runnable tasks at the source, its local view.
    pub source_runnable: f64,
    /// Runnable tasks at the destination before the move, with those on their way.
    pub destination_runnable: f64,
    /// How old the destination's numbers were.
    pub peer_age: f64,
    /// The other candidate that was drawn, if there was one.
    pub instead_of: Option<NodeName>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s of CPU time x gain {:.2} (slowdown {:.2} here, {:.2} there) > cost {:.3} s",
            self.age, self.gain, self.source_slowdown, self.destination_slowdown, self.cost
        )
    }
}

/// Why the balancer decided nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Idle {
    /// It has not been asked yet.
    NotAsked,
    /// `balance = false`.
    Disabled,
    /// This node has no more runnable tasks than it can serve.
    NotOverloaded {
        /// Runnable tasks, the local view.
        runnable: f64,
        /// From here on it would be overloaded.
        threshold: f64,
    },
    /// As many moves as allowed are going on.
    Busy,
    /// A move ended a moment ago, and the load does not show it yet.
    Settling,
    /// No job may move: pinned, unmovable, just arrived, being moved, or idle.
    NoJob,
    /// No peer has been heard of lately that accepts jobs.
    NoPeer,
    /// For no job and peer would the move be worth its cost.
    NotWorthIt,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("not asked yet"),
            Self::Disabled => f.write_str("balancing is switched off"),
            Self::NotOverloaded {
                runnable,
                threshold,
            } => {
                write!(
                    f,
                    "not overloaded: {runnable:.2} runnable tasks, below {threshold:.2}"
                )
            }
            Self::Busy => f.write_str("a move is going on"),
            Self::Settling => f.write_str("waiting until the load shows the last move"),
            Self::NoJob => f.write_str("no job may move"),
            Self::NoPeer => f.write_str("no peer accepts jobs"),
            Self::NotWorthIt => f.write_str("no move would be worth its cost"),
        }
    }
}
