//! A copy of a job for the disk. Its memory is copied to memory while the job runs, round by
//! round as in a move; it pauses for what it has written to since the last round, for what
//! several processes share, and for all that cannot be followed. What comes after that
//! happens while it runs. A job that is to end stays frozen until its file is kept.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::{
    SourceJob, failpoint, job::MoveError, kept::Kept, precopy::Convergence, source::Proposed,
};
use crate::{
    api::Phase,
    capture::{BulkSink, own_memory},
    checkpoint::{Header, Known, Page, Writer},
    image::{BulkTarget, JobImage},
    transfer::{Connection, Link, Message, Proposal, TransferError},
    wire::FrameError,
};

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
    /// The longest of its stops: first thread stopped to last thread running.
    pub pause: Duration,
    /// From the first look to here.
    pub total: Duration,
    /// Bytes of contents.
    pub contents: u64,
    /// Those of them that are in earlier files.
    pub spared: u64,
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
        let mut kept = Kept::default();
        let job = self.job;
        let (sent, first_stop) = ahead(job, &mut kept);
        kept.make_room(self.proposal.offer.memory_bytes.saturating_sub(sent));
        let stopped = Instant::now();
        let captured = stop(job).and_then(|state| {
            if job.outgrew_draft() {
                kept.clear();
            }
            job.send_bulk(&mut kept)
                .map_err(MoveError::here("copying the memory"))?;
            Ok(state)
        });
        job.thaw();
        let pause = stopped.elapsed().max(first_stop);
        job.forget_draft();
        job.entered(Phase::Final);
        let state = captured?;
        let image = job.image().map_err(MoveError::here("reading the image"))?;
        let places = image.processes.iter();
        kept.keep_only(&places.map(|one| (one.pid, own_memory(one))).collect());
        Ok(Copied {
            state,
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

/// Copies memory while the job runs, where it can be followed. Returns the bytes, and how long
/// the job stood still for that. What goes wrong is no reason against a copy after the freeze.
fn ahead<J: SourceJob>(job: &mut J, kept: &mut Kept) -> (u64, Duration) {
    let began = Instant::now();
    let draft = failpoint::hit("checkpoint.draft").and_then(|()| job.draft());
    let stopped = began.elapsed();
    match draft {
        Ok(Some(_)) => {}
        Ok(None) => return (0, Duration::ZERO),
        Err(error) => {
            tracing::debug!(error = %error.error, "memory is not copied ahead");
            return (0, stopped);
        }
    }
    job.entered(Phase::Precopy);
    let mut convergence = Convergence::default();
    let mut sent = 0_u64;
    loop {
        let began = Instant::now();
        let round = failpoint::hit("checkpoint.round").and_then(|()| job.round(kept));
        match round {
            Ok(bytes) => {
                sent += bytes;
                if !convergence.goes_on(bytes, began.elapsed()) {
                    return (sent, stopped);
                }
            }
            Err(error) => {
                tracing::debug!(error = %error.error, "memory is no longer copied ahead");
                job.forget_draft();
                kept.clear();
                return (0, stopped);
            }
        }
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

    /// Writes the copy, sealed by `seal` ([`Writer::finish`]), without what is `known`: in the files
    /// that the header names.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(
        self,
        out: impl Write,
        (header, known): (&Header, Option<&Known>),
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
        let mut sink = Sparing {
            stream: &mut stream,
            known,
            spared: 0,
        };
        match self.kept {
            Some(kept) => kept.send(&mut sink).map_err(|error| here()(error.into()))?,
            None => self.job.send_bulk(&mut sink).map_err(here())?,
        }
        let spared = sink.spared;
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
            spared,
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

/// Leaves out what is in earlier files.
struct Sparing<'a, S> {
    stream: &'a mut Connection<S>,
    known: Option<&'a Known>,
    /// Bytes that were left out.
    spared: u64,
}

impl<S: Link> BulkSink for Sparing<'_, S> {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        let Some(known) = self.known else {
            return self.stream.bulk(target, bytes);
        };
        let mut done = 0;
        for (page, run) in known.pieces(bytes) {
            let (target, length) = (target.after(done), run.len() as u64);
            match page {
                Page::New => self.stream.bulk(target, run)?,
                Page::Old(place) => {
                    let short = u32::try_from(length).map_err(io::Error::other)?;
                    self.stream.refer(target, place, short)?;
                    self.spared += length;
                }
            }
            done += length;
        }
        Ok(())
    }
}
