//! What a batch brought back.

use std::{io, ops::Range};

use super::{
    HostPid, RemoteError,
    batch::{Batch, DataRef, Policy, Slot, Step},
};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this.
    Value(u64),
    /// It failed with this errno.
    Failed(i32),
    /// An earlier call failed.
    NotRun,
}

impl Outcome {
    /// From rax after a system call.
    pub(super) fn from_rax(rax: u64) -> Self {
        match rax.cast_signed() {
            error @ -4095..=-1 => {
                Self::Failed(i32::try_from(-error).expect("an errno is below 4096"))
            }
            _ => Self::Value(rax),
        }
    }

    /// What rax was; for a call that was not run, -ECANCELED.
    pub(super) fn rax(self) -> u64 {
        match self {
            Self::Value(value) => value,
            Self::Failed(errno) => (-i64::from(errno)).cast_unsigned(),
            Self::NotRun => (-i64::from(libc::ECANCELED)).cast_unsigned(),
        }
    }

    /// The value, if it succeeded.
    #[must_use]
    pub fn value(self) -> Option<u64> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }
}

/// Results and buffers of a batch that was run.
#[derive(Debug)]
pub struct Results {
    pub(super) thread: HostPid,
    numbers: Vec<i64>,
    required: Vec<bool>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) children: Vec<HostPid>,
}

impl Results {
    pub(super) fn new(thread: HostPid, batch: &Batch) -> Self {
        let number = |step: &Step| match step {
            Step::Call { number, .. } => *number,
            Step::Store { .. } => -1,
        };
        let required = |step: &Step| {
            matches!(
                step,
                Step::Call {
                    policy: Policy::Stop,
                    ..
                }
            )
        };
        Self {
            thread,
            numbers: batch.steps.iter().map(number).collect(),
            required: batch.steps.iter().map(required).collect(),
            outcomes: vec![Outcome::NotRun; batch.steps.len()],
            segments: batch
                .segments
                .iter()
                .map(|segment| segment.bytes.clone())
                .collect(),
            children: Vec::new(),
        }
    }

    /// How a call ended.
    #[must_use]
    pub fn outcome(&self, slot: Slot) -> Outcome {
        self.outcomes[slot.0]
    }

    /// What a call returned.
    ///
    /// # Errors
    /// [`RemoteError::Call`] with its errno; ECANCELED when it was not run.
    pub fn value(&self, slot: Slot) -> Result<u64, RemoteError> {
        match self.outcomes[slot.0] {
            Outcome::Value(value) => Ok(value),
            Outcome::Failed(errno) => Err(self.failure(slot.0, errno)),
            Outcome::NotRun => Err(self.failure(slot.0, libc::ECANCELED)),
        }
    }

    /// Whether the batch was run to its end.
    ///
    /// # Errors
    /// The failure of the call that stopped it.
    pub fn complete(&self) -> Result<(), RemoteError> {
        for (index, outcome) in self.outcomes.iter().enumerate() {
            match outcome {
                Outcome::Failed(errno) if self.required[index] => {
                    return Err(self.failure(index, *errno));
                }
                Outcome::NotRun => return Err(self.failure(index, libc::ECANCELED)),
                _ => {}
            }
        }
        Ok(())
    }

    /// A buffer from `data` to its end, as the calls left it.
    #[must_use]
    pub fn data(&self, data: DataRef) -> &[u8] {
        &self.segments[data.segment][data.offset..]
    }

    /// 8 bytes of a buffer.
    ///
    /// # Panics
    /// When the buffer ends before.
    #[must_use]
    pub fn word(&self, data: DataRef) -> u64 {
        u64::from_le_bytes(
            *self
                .data(data)
                .first_chunk()
                .expect("the buffer has 8 bytes"),
        )
    }

    /// 4 bytes of a buffer.
    ///
    /// # Panics
    /// When the buffer ends before.
    #[must_use]
    pub fn half(&self, data: DataRef) -> u32 {
        u32::from_le_bytes(
            *self
                .data(data)
                .first_chunk()
                .expect("the buffer has 4 bytes"),
        )
    }

    /// Tasks that calls of the batch created, as the daemon sees them. They are
    /// attached and in a stop of their own, right after their clone returned 0.
    #[must_use]
    pub fn children(&self) -> &[HostPid] {
        &self.children
    }

    /// Whether a call of `steps` failed that must not.
    pub(super) fn stopped_in(&self, steps: Range<usize>) -> bool {
        steps.into_iter().any(|index| match self.outcomes[index] {
            Outcome::Failed(_) => self.required[index],
            Outcome::NotRun => true,
            Outcome::Value(_) => false,
        })
    }

    fn failure(&self, index: usize, errno: i32) -> RemoteError {
        RemoteError::Call {
            thread: self.thread,
            number: self.numbers[index],
            source: io::Error::from_raw_os_error(errno),
        }
    }
}
