//! Why something cannot move: object, reason, remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that stands in the way of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The process concerned, as its capsule sees it, if it is about one.
    pub pid: Option<i32>,
    /// The object: `fd 7 (io_uring)`, `mapping 0x7f00..-0x7f01..`, `thread 12`.
    pub object: String,
    /// What is the matter with it, a lower-case fragment.
    pub reason: String,
    /// What the user can do about it.
    pub remedy: String,
    /// It passes by itself within milliseconds (a vfork in progress, say): try again.
    pub transient: bool,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pid) = self.pid {
            write!(f, "pid {pid}: ")?;
        }
        write!(f, "{}: {}", self.object, self.reason)
    }
}
