//! What the conductor asks of the two ends.

use std::{error::Error, ops::Range};

use thiserror::Error as ThisError;

use crate::{
    api::{Obstacle, Phase},
    capture::BulkSink,
    image::{BulkTarget, Draft, JobImage, NeededFile, Pid},
    transfer::{Proposal, Refusal, TransferError},
};

/// An error of a job's end, with the obstacles that it names, if any.
#[derive(Debug)]
pub struct JobError {
    /// What happened.
    pub error: Box<dyn Error + Send + Sync>,
    /// Obstacles, when that is the reason.
    pub obstacles: Vec<Obstacle>,
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            obstacles: Vec::new(),
        }
    }
}

/// Why a move did not happen. The job is where it was.
#[derive(Debug, ThisError)]
pub enum MoveError {
    /// This node's end failed.
    #[error("{doing}")]
    Here {
        /// What was being done, a lower-case fragment.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
        /// Obstacles, when that is the reason.
        obstacles: Vec<Obstacle>,
    },
    /// The other end, or the way to it.
    #[error("{doing}")]
    There {
        /// What was being done, a lower-case fragment.
        doing: &'static str,
        /// The cause.
        #[source]
        source: TransferError,
    },
}

impl MoveError {
    pub(super) fn here(doing: &'static str) -> impl FnOnce(JobError) -> Self {
        move |JobError { error, obstacles }| Self::Here {
            doing,
            source: error,
            obstacles,
        }
    }

    pub(super) fn there(doing: &'static str) -> impl FnOnce(TransferError) -> Self {
        move |source| Self::There { doing, source }
    }

    /// The file cannot be read.
    #[must_use]
    pub fn of_file(error: TransferError) -> Self {
        Self::there("reading the checkpoint")(error)
    }

    /// The file does not get to its disk.
    #[must_use]
    pub fn of_disk(error: std::io::Error) -> Self {
        Self::here("writing the checkpoint")(error.into())
    }

    /// What was being done.
    pub(super) const fn doing(&self) -> &'static str {
        match self {
            Self::Here { doing, .. } | Self::There { doing, .. } => doing,
        }
    }

    /// What the other end is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let mut refusal = Refusal::from_error(self);
        refusal.obstacles = self.obstacles().to_vec();
        refusal
    }

    /// Obstacles that either end has named.
    #[must_use]
    pub fn obstacles(&self) -> &[Obstacle] {
        match self {
            Self::Here { obstacles, .. } => obstacles,
            Self::There {
                source: TransferError::Refused(refusal),
                ..
            } => &refusal.obstacles,
            Self::There { .. } => &[],
        }
    }

    /// What the other end lacks but this one has not either, by now, passes by itself.
    pub(super) fn excuse(&mut self, gone: &[Obstacle]) {
        if let Self::There {
            source: TransferError::Refused(refusal),
            ..
        } = self
        {
            let lacks = |named: &&mut Obstacle| {
                let same =
                    |other: &Obstacle| (other.pid, &other.object) == (named.pid, &named.object);
                gone.iter().any(same)
            };
            let obstacles = refusal.obstacles.iter_mut();
            obstacles
                .filter(lacks)
                .for_each(|named| named.transient = true);
        }
    }

    /// Whether the same move may work when it is tried again at once.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let obstacles = self.obstacles();
        !obstacles.is_empty() && obstacles.iter().all(|obstacle| obstacle.transient)
    }
}

/// The source's end of a job that is to move.
pub trait SourceJob {
    /// A phase begins. Time spent here is part of the pause from `Freeze` on.
    fn entered(&mut self, phase: Phase);

    /// Says what the destination must know. The job runs, and no other node has
    /// been spoken to.
    ///
    /// # Errors
    /// Obstacles: what cannot move is refused before anything is frozen.
    fn propose(&mut self) -> Result<Proposal, JobError>;

    /// What is not here any more of the files that were told of. The job runs.
    fn gone(&mut self, files: &[NeededFile]) -> Vec<Obstacle>;

    /// Begins to follow what the job writes, if its memory is worth to be sent while it
    /// runs, and says what it looks like. It runs again afterwards.
    ///
    /// # Errors
    /// As [`SourceJob::freeze`] and [`SourceJob::capture`].
    fn draft(&mut self) -> Result<Option<Draft>, JobError>;

    /// The destination cannot make the processes of the draft before the job stands still.
    fn forget_draft(&mut self);

    /// Sends the memory that has not been sent yet, or has been written to since. The job
    /// runs. Returns the bytes.
    ///
    /// # Errors
    /// What cannot be read or sent.
    fn round(&mut self, sink: &mut dyn BulkSink) -> Result<u64, JobError>;

    /// Whether there is a draft that does not fit the image any more: nothing of
    /// what was sent is of use then.
    fn outgrew_draft(&self) -> bool;

    /// Stops every thread. On an error the job must run on.
    ///
    /// # Errors
    /// Obstacles, often transient.
    fn freeze(&mut self) -> Result<(), JobError>;

    /// Captures the frozen job, and returns the state of its capsule's init.
    ///
    /// # Errors
    /// What cannot be read; the job is still frozen.
    fn capture(&mut self) -> Result<Vec<u8>, JobError>;

    /// The image that [`SourceJob::capture`] took.
    ///
    /// # Errors
    /// There is none.
    fn image(&self) -> Result<&JobImage, JobError>;

    /// Sends the contents of memory and of files without a name.
    ///
    /// # Errors
    /// As [`SourceJob::capture`].
    fn send_bulk(&mut self, sink: &mut dyn BulkSink) -> Result<(), JobError>;

    /// Makes the freeze outlive this daemon.
    ///
    /// # Errors
    /// The job can still be thawed.
    fn hold(&mut self) -> Result<(), JobError>;

    /// Undoes `freeze`, `capture` and `hold`: the job runs on as if nothing had been.
    fn thaw(&mut self);

    /// Gives up the job, durably, before it returns. The commit point.
    ///
    /// # Errors
    /// The job has *not* been given up.
    fn commit(&mut self, epoch: u64) -> Result<(), JobError>;

    /// The destination owns the job, and waits for what the frozen copy holds:
    /// shares it with the destination, as far as that can be done.
    fn lend(&mut self);

    /// The destination has taken what it could: destroys the frozen copy. Called only where the destination says that it waits.
    ///
    /// # Errors
    /// It is still there: the destination is to be asked, and it reaped then.
    fn surrender(&mut self, epoch: u64) -> Result<(), JobError>;

    /// The destination runs the job: destroys the frozen copy, if it is there.
    fn reap(&mut self, epoch: u64);
}

/// The destination's end.
pub trait DestinationJob {
    /// Judges the proposal, then makes a capsule and everything else that can
    /// exist before the job is frozen.
    ///
    /// # Errors
    /// Why the job may not come: every obstacle in one go.
    fn reserve(&mut self, proposal: &Proposal) -> Result<(), JobError>;

    /// Creates the processes of a job that still runs, and lays out their memory for
    /// [`DestinationJob::bulk`]. False when that cannot be done, for reasons of its own.
    ///
    /// # Errors
    /// What ends the move.
    fn draft(&mut self, draft: Draft) -> Result<bool, JobError>;

    /// The draft is of no use any more: everything is as after [`DestinationJob::reserve`].
    ///
    /// # Errors
    /// What ends the move.
    fn afresh(&mut self) -> Result<(), JobError>;

    /// Of what came before the image, this range of a process' memory is nothing any more.
    ///
    /// # Errors
    /// A range that belongs nowhere.
    fn absent(&mut self, pid: Pid, range: Range<u64>) -> Result<(), JobError>;

    /// Creates the processes and lays out their memory, or changes those of the draft.
    ///
    /// # Errors
    /// What of the image cannot be built here.
    fn build(&mut self, state: &[u8], image: JobImage) -> Result<(), JobError>;

    /// Takes contents.
    ///
    /// # Errors
    /// Bytes that belong nowhere, or memory that is full.
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> Result<(), JobError>;

    /// Everything has arrived: completes the copy. It does not run, needs no
    /// tracer, and is on record as built before this returns. True when it
    /// waits for something that the copy at the source holds: file locks.
    ///
    /// # Errors
    /// What of the image cannot be built here.
    fn finish(&mut self, epoch: u64) -> Result<bool, JobError>;

    /// The source has given the job up: records, durably, that it lives here.
    ///
    /// # Errors
    /// The copy is kept, and may be owned later.
    fn own(&mut self, epoch: u64) -> Result<(), JobError>;

    /// The source shares what the copy here waits for: takes a share too, so
    /// that nobody else comes between the end of that copy and [`Self::release`].
    fn share(&mut self);

    /// Takes what it has waited for, and lets the job run. Returns the names of
    /// the locks that somebody else has, and that it runs without.
    ///
    /// # Errors
    /// The copy is kept, and may be released later.
    fn release(&mut self, epoch: u64) -> Result<Vec<String>, JobError>;

    /// The move has ended: destroys whatever has been made.
    fn discard(&mut self);
}
