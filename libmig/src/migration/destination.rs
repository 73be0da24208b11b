//! The destination's side of a move, phase by phase.

use std::time::Instant;

use super::{DestinationJob, failpoint, job::MoveError};
use crate::{
    image::{Draft, JobImage},
    transfer::{Connection, Incoming, Link, Message, TransferError},
};

/// How an arrival ended.
#[derive(Debug)]
pub enum Arrival {
    /// The job runs here.
    Live {
        /// The epoch that owns it.
        epoch: u64,
    },
    /// Nothing of it is here; it runs at the source.
    Discarded(MoveError),
    /// A complete copy waits here, frozen; only the source knows whether it
    /// has been given up. To be asked; nothing is destroyed meanwhile.
    Undecided {
        /// The epoch to ask about.
        epoch: u64,
        /// What became of the connection.
        error: MoveError,
    },
}

/// Takes a job in. The first frame that is read is the offer.
#[must_use = "an undecided copy must be resolved by asking the source"]
pub fn receive<J: DestinationJob>(job: &mut J, stream: impl Link) -> Arrival {
    let mut connection = Connection::new(stream);
    let built = reserve(job, &mut connection)
        .and_then(Reserved::fill)
        .and_then(Filled::finish);
    match built {
        Ok(built) => built.release(),
        Err(error) => {
            job.discard();
            connection.refuse(error.refusal());
            Arrival::Discarded(error)
        }
    }
}

fn reserve<'a, J: DestinationJob, S: Link>(
    job: &'a mut J,
    connection: &'a mut Connection<S>,
) -> Result<Reserved<'a, J, S>, MoveError> {
    const DOING: &str = "taking the offer";
    let proposal = connection.proposal().map_err(MoveError::there(DOING))?;
    failpoint::hit("destination.offer")
        .and_then(|()| job.reserve(&proposal))
        .and_then(|()| failpoint::hit("destination.reserved"))
        .map_err(MoveError::here("preparing for the job"))?;
    connection
        .send(&Message::Accepted)
        .and_then(|()| {
            connection.expect("a ping", |message| match message {
                Message::Ping => Ok(()),
                other => Err(other),
            })
        })
        .and_then(|()| connection.send(&Message::Pong))
        .map_err(MoveError::there(DOING))?;
    Ok(Reserved {
        job,
        connection,
        epoch: proposal.offer.epoch,
    })
}

/// How a restore from a checkpoint ended.
#[derive(Debug)]
pub enum Restored {
    /// The job runs here.
    Live {
        /// Names of the file locks that somebody else has, and that it runs without.
        lost_locks: Vec<String>,
    },
    /// Nothing of it is here.
    Discarded(MoveError),
    /// It is ours, on record, but does not run yet: the next daemon will let it.
    Stuck(MoveError),
}

/// Builds a job from a checkpoint and lets it run. There is no source: what is on
/// record as owned is ours, and what is not is nobody's.
#[must_use = "a copy that is stuck must be told of"]
pub fn restore<J: DestinationJob>(job: &mut J, file: impl Link, epoch: u64) -> Restored {
    let mut connection = Connection::new(file);
    let built = prepare(job, &mut connection, epoch)
        .and_then(Reserved::fill)
        .and_then(Filled::finish);
    let owned = built.and_then(|built| {
        failpoint::hit("restore.built")
            .and_then(|()| built.job.own(epoch))
            .map_err(MoveError::here("recording that the job lives here"))
    });
    if let Err(error) = owned {
        job.discard();
        return Restored::Discarded(error);
    }
    let released = failpoint::hit("restore.owned").and_then(|()| job.release(epoch));
    match released.map_err(MoveError::here("letting the job run")) {
        Ok(lost_locks) => Restored::Live { lost_locks },
        Err(error) => Restored::Stuck(error),
    }
}

fn prepare<'a, J: DestinationJob, S: Link>(
    job: &'a mut J,
    connection: &'a mut Connection<S>,
    epoch: u64,
) -> Result<Reserved<'a, J, S>, MoveError> {
    let proposal = connection
        .proposal()
        .map_err(MoveError::there("reading the checkpoint"))?;
    job.reserve(&proposal)
        .and_then(|()| failpoint::hit("restore.reserved"))
        .map_err(MoveError::here("preparing for the job"))?;
    Ok(Reserved {
        job,
        connection,
        epoch,
    })
}

/// Capsule and husks exist.
///
/// Afterwards: the source owns the job, and runs it on an error.
struct Reserved<'a, J, S> {
    job: &'a mut J,
    connection: &'a mut Connection<S>,
    epoch: u64,
}

impl<'a, J: DestinationJob, S: Link> Reserved<'a, J, S> {
    fn fill(mut self) -> Result<Filled<'a, J, S>, MoveError> {
        let (state, image) = self.receive_image()?;
        self.job
            .build(&state, image)
            .and_then(|()| failpoint::hit("destination.image"))
            .map_err(MoveError::here("laying the job out"))?;
        loop {
            match self.connection.receive() {
                Ok(Incoming::Bulk(target)) => {
                    self.job
                        .bulk(target, self.connection.bulk_bytes())
                        .map_err(MoveError::here("filling the job's memory"))?
                }
                Ok(Incoming::Message(Message::Absent { pid, start, end })) => self
                    .job
                    .absent(pid, start..end)
                    .map_err(MoveError::here("emptying the job's memory"))?,
                Ok(Incoming::Message(Message::End { bulk_bytes })) => {
                    return self.complete(bulk_bytes);
                }
                Ok(other) => {
                    let error = other.instead_of("bulk or its end");
                    return Err(MoveError::there("receiving the memory")(error));
                }
                Err(error) => return Err(MoveError::there("receiving the memory")(error)),
            }
        }
    }

    /// Takes what comes while the job runs, and the image that says that it does not.
    fn receive_image(&mut self) -> Result<(Vec<u8>, JobImage), MoveError> {
        const DOING: &str = "receiving the image";
        let there = || MoveError::there(DOING);
        let here = || MoveError::here("making the job's processes ahead");
        let mut drafted = false;
        loop {
            match self.connection.receive().map_err(there())? {
                Incoming::Message(Message::State(state)) => {
                    let image = receive_image(self.connection).map_err(there())?;
                    return Ok((state, image));
                }
                Incoming::Message(Message::Draft { console }) if !drafted => {
                    let image = receive_image(self.connection).map_err(there())?;
                    let draft = self.job.draft(Draft { image, console });
                    drafted = draft.map_err(here())?;
                    failpoint::hit("destination.drafted").map_err(here())?;
                    let drafted = Message::Drafted { ready: drafted };
                    self.connection.send(&drafted).map_err(there())?;
                }
                Incoming::Message(Message::Round) if drafted => {
                    let in_place = self.connection.send(&Message::InPlace);
                    in_place.map_err(there())?;
                }
                Incoming::Message(Message::Afresh) if drafted => {
                    drafted = false;
                    self.job.afresh().map_err(here())?;
                }
                Incoming::Bulk(target) if drafted => self
                    .job
                    .bulk(target, self.connection.bulk_bytes())
                    .map_err(MoveError::here("filling the job's memory"))?,
                other => return Err(there()(other.instead_of("the capsule's state"))),
            }
        }
    }

    fn complete(self, sent: u64) -> Result<Filled<'a, J, S>, MoveError> {
        let got = self.connection.bulk();
        if got != sent {
            let error = TransferError::Incomplete { sent, got };
            return Err(MoveError::there("receiving the memory")(error));
        }
        Ok(Filled {
            job: self.job,
            connection: self.connection,
            epoch: self.epoch,
        })
    }
}

fn receive_image<S: Link>(connection: &mut Connection<S>) -> Result<JobImage, TransferError> {
    match connection.receive()? {
        Incoming::Image(image) => Ok(*image),
        other => Err(other.instead_of("an image")),
    }
}

/// Everything has arrived.
///
/// Afterwards: as [`Reserved`].
struct Filled<'a, J, S> {
    job: &'a mut J,
    connection: &'a mut Connection<S>,
    epoch: u64,
}

impl<'a, J: DestinationJob, S: Link> Filled<'a, J, S> {
    fn finish(self) -> Result<Built<'a, J, S>, MoveError> {
        let began = Instant::now();
        let waits = failpoint::hit("destination.bulk")
            .and_then(|()| self.job.finish(self.epoch))
            .map_err(MoveError::here("completing the job"))?;
        Ok(Built {
            job: self.job,
            connection: self.connection,
            epoch: self.epoch,
            waits,
            build_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

/// A complete copy, frozen, on record. Who owns the job is the source's to say.
///
/// Afterwards: it runs here, is gone, or waits for the source's answer.
struct Built<'a, J, S> {
    job: &'a mut J,
    connection: &'a mut Connection<S>,
    epoch: u64,
    /// For locks that the source's copy holds.
    waits: bool,
    build_ns: u64,
}

impl<J: DestinationJob, S: Link> Built<'_, J, S> {
    fn release(self) -> Arrival {
        let epoch = self.epoch;
        let built = Message::Built {
            build_ns: self.build_ns,
            waits: self.waits,
        };
        let told = failpoint::hit("destination.built")
            .map_err(MoveError::here("waiting for the commit"))
            .and_then(|()| {
                self.connection
                    .send(&built)
                    .and_then(|()| self.connection.expect("a commit", commit))
                    .map_err(MoveError::there("waiting for the commit"))
            });
        match told {
            Ok(committed) if committed == epoch => self.live(),
            Ok(_) => Arrival::Undecided {
                epoch,
                error: MoveError::there("waiting for the commit")(TransferError::OutOfPhase {
                    expected: "a commit of this epoch",
                    got: "one of another",
                }),
            },
            Err(
                error @ MoveError::There {
                    source: TransferError::Refused(_),
                    ..
                },
            ) => {
                self.job.discard();
                Arrival::Discarded(error)
            }
            Err(error) => Arrival::Undecided { epoch, error },
        }
    }

    fn live(mut self) -> Arrival {
        let epoch = self.epoch;
        let released = failpoint::hit("destination.committed")
            .and_then(|()| self.job.own(epoch))
            .and_then(|()| {
                if self.waits {
                    failpoint::hit("destination.owned")?;
                    self.take_over();
                }
                self.job.release(epoch)
            })
            .map_err(MoveError::here("letting the job run"));
        match released {
            Ok(lost_locks) => {
                // A lost acknowledgment is the source's to ask about.
                if let Err(error) = failpoint::hit("destination.released")
                    .map_err(MoveError::here("acknowledging"))
                    .and_then(|()| {
                        self.connection
                            .send(&Message::Released { lost_locks })
                            .map_err(MoveError::there("acknowledging"))
                    })
                {
                    tracing::warn!(%error, "could not tell the source that the job runs here");
                }
                Arrival::Live { epoch }
            }
            Err(error) => Arrival::Undecided { epoch, error },
        }
    }

    /// What the source holds is shared before it ends there. A source that does
    /// not hear all of it asks, and ends its copy then; what the job waits for
    /// is to be had all the same, if somebody else does not come first.
    fn take_over(&mut self) {
        if let Err(error) = self.try_take_over() {
            tracing::warn!(%error, "the source does not hand over what it holds");
        }
    }

    fn try_take_over(&mut self) -> Result<(), TransferError> {
        self.connection.send(&Message::Owned)?;
        self.connection.expect("'lent'", |message| match message {
            Message::Lent => Ok(()),
            other => Err(other),
        })?;
        self.job.share();
        self.connection.send(&Message::Taken)?;
        self.connection.expect("'gone'", |message| match message {
            Message::Gone => Ok(()),
            other => Err(other),
        })
    }
}

fn commit(message: Message) -> Result<u64, Message> {
    match message {
        Message::Commit { epoch } => Ok(epoch),
        other => Err(other),
    }
}
