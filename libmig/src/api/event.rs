//! What happens while a request is being worked on.

use serde::{Deserialize, Serialize};

use super::{JobId, NodeName, Phase};

/// Progress. The truth that bars, logs and `--json` render.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A move entered a phase.
    Phase {
        /// The job.
        job: JobId,
        /// The destination.
        to: NodeName,
        /// The phase that begins.
        phase: Phase,
    },
    /// Bytes have travelled.
    Progress {
        /// The job.
        job: JobId,
        /// Bytes sent so far.
        bytes_sent: u64,
        /// Bytes to send in all, as far as known.
        bytes_total: u64,
    },
}
