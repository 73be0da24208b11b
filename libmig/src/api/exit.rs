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
    /// It was copied into a file, and ended so that it can go on from there.
    Checkpointed,
}

/// Stands for [`ExitStatus::Checkpointed`] where the status words of wait(2) travel, which never
/// have this bit.
pub const CHECKPOINTED: i32 = 1 << 24;

impl ExitStatus {
    /// What a wait status word says (wait(2), and [`CHECKPOINTED`]).
    #[must_use]
    pub const fn of_word(word: i32) -> Self {
        match word & 0x7f {
            _ if word == CHECKPOINTED => Self::Checkpointed,
            0 => Self::Code(word >> 8 & 0xff),
            signal => Self::Signal(signal),
        }
    }

    /// What a shell's `$?` would be: the code, 128 + signal, 125 when lost, or 124 when it is in
    /// a file.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code & 0xff,
            ExitStatus::Signal(signal) => 128 + (signal & 0x7f),
            ExitStatus::Lost => 125,
            ExitStatus::Checkpointed => 124,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words_are_those_of_waitpid() {
        assert_eq!(ExitStatus::of_word(42 << 8), ExitStatus::Code(42));
        assert_eq!(ExitStatus::of_word(9), ExitStatus::Signal(9));
        assert_eq!(ExitStatus::of_word(11 | 0x80), ExitStatus::Signal(11));
        assert_eq!(ExitStatus::of_word(CHECKPOINTED), ExitStatus::Checkpointed);
    }
}
