//! How a job ended, and for how long that is remembered.

use serde::{Deserialize, Serialize};

use super::JobId;

/// How the main program of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called exit with this code, 0..=255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// The capsule is gone and nobody saw how (the machine went down, or
    /// somebody killed the capsule's init).
    Lost,
}

impl ExitStatus {
    /// What a shell's `$?` would be: the code, 128 + signal, or 125 when lost.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code & 0xff,
            ExitStatus::Signal(signal) => 128 + (signal & 0x7f),
            ExitStatus::Lost => 125,
        }
    }
}

/// One line of a node's memory of ended jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The job.
    pub job: JobId,
    /// The user that it belonged to.
    pub uid: u32,
    /// How it ended.
    pub status: ExitStatus,
    /// When, in seconds since 1970.
    pub ended_unix: u64,
}
