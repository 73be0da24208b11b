//! A copy of a job for the disk: the job pauses only for as long as its memory
//! is copied to memory; what comes after that happens while it runs. A job that is to end
//! stays frozen until its file is kept.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::{SourceJob, failpoint, job::MoveError, source::Proposed};
use crate::{
    api::Phase,
    capture::BulkSink,
    checkpoint::{Header, Writer},
    image::{BulkTarget, JobImage},
    transfer::{Connection, Message, Proposal, TransferError},
    wire::FrameError,
};

/// Runs of this size and above go into memory that is there before the freeze.
const PIECE: usize = 1 << 20;
/// Below this a run is not worth a whole piece.
const SMALL: usize = 64 << 10;

/// A job that runs, and a copy of what it was; or one that is frozen, and to end.
pub struct Copied<'a, J> {
    job: &'a mut J,
    proposal: Proposal,
    state: Vec<u8>,
    /// Nothing when the contents are still where they were.
    kept: Option<Kept>,
    pause: Duration,
    began: Instant,
}

/// A checkpoint that is complete, though perhaps not on its disk yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// First thread stopped to last thread running.
    pub pause: Duration,
    /// From the first look to here.
    pub total: Duration,
    /// Bytes of contents.
    pub contents: u64,
    /// Bytes in the file.
    pub written: u64,
}

impl<'a, J: SourceJob> Proposed<'a, J> {
    /// Copies the job. It runs afterwards, whatever the outcome.
    ///
    /// # Errors
    /// What cannot be captured.
    pub fn copy(self) -> Result<Copied<'a, J>, MoveError> {
        let began = Instant::now();
        // Memory that the kernel has to find and clear would be a part of the pause.
        let mut kept = Kept::with_room(self.proposal.offer.memory_bytes);
        let job = self.job;
        let stopped = Instant::now();
        let captured = stop(job).and_then(|state| {
            job.send_bulk(&mut kept)
                .map_err(MoveError::here("copying the memory"))?;
            Ok(state)
        });
        job.thaw();
        let pause = stopped.elapsed();
        job.entered(Phase::Final);
        Ok(Copied {
            state: captured?,
            job,
            proposal: self.proposal,
            kept: Some(kept),
            pause,
            began,
        })
    }

    /// Freezes the job, which is to end: it runs on only on an error, or when
    /// [`SourceJob::thaw`] says so.
    ///
    /// # Errors
    /// What cannot be captured.
    pub fn take(self) -> Result<Copied<'a, J>, MoveError> {
        let began = Instant::now();
        let job = self.job;
        let captured = stop(job);
        if captured.is_err() {
            job.thaw();
        }
        Ok(Copied {
            state: captured?,
            job,
            proposal: self.proposal,
            kept: None,
            pause: Duration::ZERO,
            began,
        })
    }
}

fn stop<J: SourceJob>(job: &mut J) -> Result<Vec<u8>, MoveError> {
    job.entered(Phase::Freeze);
    job.freeze()
        .map_err(MoveError::here("freezing the job"))
        .and_then(|()| {
            failpoint::hit("checkpoint.frozen")
                .and_then(|()| job.capture())
                .map_err(MoveError::here("capturing the job"))
        })
}

impl<J: SourceJob> Copied<'_, J> {
    /// What was captured.
    ///
    /// # Errors
    /// There is none.
    pub fn image(&self) -> Result<&JobImage, MoveError> {
        self.job
            .image()
            .map_err(MoveError::here("reading the image"))
    }

    /// Writes the copy, sealed by `seal` ([`Writer::finish`]).
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(
        self,
        out: impl Write,
        header: &Header,
        seal: impl FnOnce(&[u8; 32]) -> io::Result<Vec<u8>>,
    ) -> Result<Saved, MoveError> {
        let doing = "writing the checkpoint";
        let here = || MoveError::here(doing);
        let writer = Writer::new(out, header).map_err(|error| here()(error.into()))?;
        let mut stream = Connection::new(writer);
        let image = self.job.image().map_err(here())?;
        stream
            .propose(&self.proposal)
            .and_then(|()| stream.send_image(self.state, image))
            .map_err(|error| here()(plain(error).into()))?;
        match self.kept {
            Some(kept) => {
                for (target, bytes) in kept.runs {
                    BulkSink::bulk(&mut stream, target, &bytes)
                        .map_err(|error| here()(error.into()))?;
                }
            }
            None => self.job.send_bulk(&mut stream).map_err(here())?,
        }
        failpoint::hit("checkpoint.written").map_err(here())?;
        let contents = stream.bulk();
        let end = Message::End {
            bulk_bytes: contents,
        };
        stream
            .send(&end)
            .map_err(|error| here()(plain(error).into()))?;
        let finished = stream.into_stream().finish(seal);
        let written = finished.map_err(|error| here()(error.into()))?;
        Ok(Saved {
            pause: self.pause,
            total: self.began.elapsed(),
            contents,
            written,
        })
    }
}

/// There is no other node here: only what the file says is of interest.
fn plain(error: TransferError) -> io::Error {
    match error {
        TransferError::Frame(FrameError::Connection(error)) => error,
        other => io::Error::other(other),
    }
}

/// Contents in memory.
struct Kept {
    runs: Vec<(BulkTarget, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Kept {
    /// Touches as much memory as will be needed.
    fn with_room(bytes: u64) -> Self {
        let pieces = bytes.div_ceil(PIECE as u64);
        Self {
            runs: Vec::new(),
            // Zeros would be memory that is not there yet.
            spare: (0..pieces).map(|_| vec![1; PIECE]).collect(),
        }
    }
}

impl BulkSink for Kept {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        let spare = (bytes.len() >= SMALL).then(|| self.spare.pop()).flatten();
        let mut copy = spare.unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        self.runs.push((target, copy));
        Ok(())
    }
}
