//! The source's side of a move, phase by phase.

use std::time::{Duration, Instant};

use super::{
    SourceJob,
    answers::{accepted, built, drafted, in_place, owned, pong, released, taken},
    clock::Clock,
    failpoint,
    handover::Commit,
    job::MoveError,
    precopy::Convergence,
};
use crate::{
    api::Phase,
    transfer::{Connection, Link, Message, Proposal},
};

/// How a departure ended.
#[derive(Debug)]
pub enum Departure {
    /// The destination runs the job; the copy here is gone.
    Moved(Moved),
    /// The job runs here, as before.
    Stayed(MoveError),
    /// Given up here, durably, but the destination's answer was lost. The copy
    /// here stays frozen until the destination has been asked.
    Unknown {
        /// The epoch to ask about.
        epoch: u64,
        /// What became of the connection.
        error: MoveError,
    },
}

/// A move that happened, and what it cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// First thread stopped here to last thread running there.
    pub pause: Duration,
    /// From the offer to the answer.
    pub total: Duration,
    /// Bytes that left this node.
    pub bytes_sent: u64,
    /// Time spent in each phase, in order.
    pub phases: Vec<(Phase, Duration)>,
    /// Locks that somebody else took, by name: the job runs without them.
    pub lost_locks: Vec<String>,
    /// How often memory was sent while the job ran.
    pub rounds: u32,
}

/// Nothing here stands in the way of a move; no other node knows of it yet.
///
/// Afterwards: the job runs here.
pub struct Proposed<'a, J> {
    pub(super) job: &'a mut J,
    pub(super) proposal: Proposal,
    clock: Clock,
}

impl<'a, J: SourceJob> Proposed<'a, J> {
    /// Begins a move: what cannot move from here is refused before anybody is dialled.
    ///
    /// # Errors
    /// Why it cannot move.
    pub fn new(job: &'a mut J) -> Result<Self, MoveError> {
        let clock = Clock::start();
        let proposal = job.propose().map_err(MoveError::here("offering the job"))?;
        Ok(Self {
            job,
            proposal,
            clock,
        })
    }

    /// What a destination would be told.
    #[must_use]
    pub const fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// With a connection to the destination, on which nothing of the move has been said.
    pub fn to<S: Link>(self, stream: S) -> Offered<'a, J, S> {
        Offered {
            job: self.job,
            connection: Connection::new(stream),
            proposal: self.proposal,
            clock: self.clock,
        }
    }
}

/// The destination has been found; nothing has been said.
///
/// Afterwards: `Ok`, the job runs here and the destination is ready for it;
/// `Err`, the job runs here and the destination has nothing.
pub struct Offered<'a, J, S> {
    job: &'a mut J,
    connection: Connection<S>,
    proposal: Proposal,
    clock: Clock,
}

impl<'a, J: SourceJob, S: Link> Offered<'a, J, S> {
    /// Goes through all phases.
    #[must_use = "an unknown outcome must be resolved by asking"]
    pub fn run(self) -> Departure {
        let built = self
            .offer()
            .and_then(Prepared::precopy)
            .and_then(Prepared::freeze)
            .and_then(Frozen::send)
            .and_then(Built::commit);
        match built {
            Ok(committed) => committed.release(),
            Err(error) => Departure::Stayed(error),
        }
    }

    fn offer(mut self) -> Result<Prepared<'a, J, S>, MoveError> {
        match self.negotiate() {
            Ok(latency) => Ok(Prepared {
                at: self,
                latency,
                rounds: 0,
            }),
            Err(error) => {
                let mut error = self.explained(error);
                if !error.obstacles().is_empty() {
                    error.excuse(&self.job.gone(&self.proposal.files));
                }
                Err(self.abort(error))
            }
        }
    }

    fn negotiate(&mut self) -> Result<Duration, MoveError> {
        self.enter(Phase::Prepare);
        failpoint::hit("source.offer").map_err(MoveError::here("offering the job"))?;
        self.connection
            .propose(&self.proposal)
            .and_then(|()| self.connection.expect("an acceptance", accepted))
            .map_err(MoveError::there("offering the job"))?;
        let sent = Instant::now();
        self.connection
            .send(&Message::Ping)
            .and_then(|()| self.connection.expect("a pong", pong))
            .map_err(MoveError::there("offering the job"))?;
        Ok(sent.elapsed() / 2)
    }

    fn epoch(&self) -> u64 {
        self.proposal.offer.epoch
    }

    fn enter(&mut self, phase: Phase) {
        self.clock.enter(phase);
        self.job.entered(phase);
    }

    /// A destination that gives up closes the connection: what it said before
    /// tells more than the broken pipe.
    fn explained(&mut self, error: MoveError) -> MoveError {
        match self.connection.last_words() {
            Some(words) => MoveError::there(error.doing())(words),
            None => error,
        }
    }

    fn abort(mut self, error: MoveError) -> MoveError {
        self.connection.refuse(error.refusal());
        error
    }
}

/// The destination is ready.
///
/// Afterwards: `Ok`, the job is frozen here and captured; `Err`, it runs here.
struct Prepared<'a, J, S> {
    at: Offered<'a, J, S>,
    latency: Duration,
    /// How often memory was sent ahead.
    rounds: u32,
}

impl<'a, J: SourceJob, S: Link> Prepared<'a, J, S> {
    /// Sends memory while the job runs, where that makes the pause shorter.
    fn precopy(mut self) -> Result<Self, MoveError> {
        match self.rounds() {
            Ok(()) => Ok(self),
            Err(error) => {
                self.at.job.thaw();
                let error = self.at.explained(error);
                Err(self.at.abort(error))
            }
        }
    }

    fn rounds(&mut self) -> Result<(), MoveError> {
        const DOING: &str = "sending memory ahead";
        let here = || MoveError::here(DOING);
        let there = || MoveError::there(DOING);
        let Some(draft) = self.at.job.draft().map_err(here())? else {
            return Ok(());
        };
        self.at.enter(Phase::Precopy);
        failpoint::hit("source.draft").map_err(here())?;
        let Offered {
            job, connection, ..
        } = &mut self.at;
        connection.send_draft(&draft).map_err(there())?;
        if !connection.expect("'drafted'", drafted).map_err(there())? {
            job.forget_draft();
            return Ok(());
        }
        let mut convergence = Convergence::default();
        loop {
            let began = Instant::now();
            let bytes = self.round()?;
            if !convergence.goes_on(bytes, began.elapsed()) {
                return Ok(());
            }
        }
    }

    fn round(&mut self) -> Result<u64, MoveError> {
        const DOING: &str = "sending memory ahead";
        let here = || MoveError::here(DOING);
        self.rounds += 1;
        let Offered {
            job, connection, ..
        } = &mut self.at;
        let bytes = job.round(connection).map_err(here())?;
        failpoint::hit("source.round").map_err(here())?;
        connection
            .send(&Message::Round)
            .and_then(|()| connection.expect("'in place'", in_place))
            .map_err(MoveError::there(DOING))?;
        Ok(bytes)
    }

    fn freeze(mut self) -> Result<Frozen<'a, J, S>, MoveError> {
        for attempt in 1.. {
            let began = Instant::now();
            let error = match self.stop() {
                Ok(state) => {
                    return Ok(Frozen {
                        at: self.at,
                        latency: self.latency,
                        rounds: self.rounds,
                        began,
                        state,
                    });
                }
                Err(error) => error,
            };
            self.at.job.thaw();
            // What has been sent ahead is not to be sent once more for a vfork that passes.
            if self.rounds == 0 || attempt == ATTEMPTS || !error.is_transient() {
                return Err(self.at.abort(error));
            }
            self.at.enter(Phase::Precopy);
            if let Err(error) = self.round() {
                let error = self.at.explained(error);
                return Err(self.at.abort(error));
            }
        }
        unreachable!("the last attempt returns")
    }

    fn stop(&mut self) -> Result<Vec<u8>, MoveError> {
        self.at.enter(Phase::Freeze);
        failpoint::hit("source.prepared")
            .and_then(|()| self.at.job.freeze())
            .map_err(MoveError::here("freezing the job"))?;
        self.at.enter(Phase::Final);
        failpoint::hit("source.frozen")
            .and_then(|()| self.at.job.capture())
            .map_err(MoveError::here("capturing the job"))
    }
}

/// How often a job whose memory has been sent ahead is stopped when something that passes
/// stands in the way.
const ATTEMPTS: u32 = 20;

/// Every thread is stopped, the image is taken.
///
/// Afterwards: `Ok`, a complete copy waits at the destination and the one here
/// is held by the freezer; `Err`, the job runs here.
struct Frozen<'a, J, S> {
    at: Offered<'a, J, S>,
    latency: Duration,
    rounds: u32,
    began: Instant,
    state: Vec<u8>,
}

impl<'a, J: SourceJob, S: Link> Frozen<'a, J, S> {
    fn send(mut self) -> Result<Built<'a, J, S>, MoveError> {
        match self.deliver() {
            Ok(waits) => Ok(Built {
                at: self.at,
                latency: self.latency,
                rounds: self.rounds,
                began: self.began,
                waits,
            }),
            Err(error) => {
                self.at.job.thaw();
                let error = self.at.explained(error);
                Err(self.at.abort(error))
            }
        }
    }

    fn deliver(&mut self) -> Result<bool, MoveError> {
        let Offered {
            job, connection, ..
        } = &mut self.at;
        let state = std::mem::take(&mut self.state);
        let image = job.image().map_err(MoveError::here("sending the image"))?;
        if job.outgrew_draft() {
            connection
                .send(&Message::Afresh)
                .map_err(MoveError::there("sending the image"))?;
        }
        connection
            .send_image(state, image)
            .map_err(MoveError::there("sending the image"))?;
        failpoint::hit("source.image").map_err(MoveError::here("sending the image"))?;
        job.send_bulk(connection)
            .map_err(MoveError::here("sending the memory"))?;
        failpoint::hit("source.bulk").map_err(MoveError::here("sending the memory"))?;
        let bulk_bytes = connection.bulk();
        connection
            .send(&Message::End { bulk_bytes })
            .map_err(MoveError::there("sending the memory"))?;
        self.at.enter(Phase::Built);
        let waits = self
            .at
            .connection
            .expect("'built'", built)
            .map_err(MoveError::there("building the job at the destination"))?;
        self.at.enter(Phase::Commit);
        failpoint::hit("source.built")
            .and_then(|()| self.at.job.hold())
            .and_then(|()| failpoint::hit("source.held"))
            .map_err(MoveError::here("holding the job"))?;
        Ok(waits)
    }
}

/// Two complete copies, neither of which runs. The source still owns the job.
///
/// Afterwards: `Ok`, the destination owns it; `Err`, the job runs here.
struct Built<'a, J, S> {
    at: Offered<'a, J, S>,
    latency: Duration,
    rounds: u32,
    began: Instant,
    /// The destination waits for what the copy here holds.
    waits: bool,
}

impl<'a, J: SourceJob, S: Link> Built<'a, J, S> {
    fn commit(self) -> Result<Committed<'a, J, S>, MoveError> {
        let epoch = self.at.epoch();
        match self.at.job.commit(epoch) {
            Ok(()) => Ok(Committed {
                commit: Commit::recorded(epoch),
                at: self.at,
                latency: self.latency,
                rounds: self.rounds,
                began: self.began,
                waits: self.waits,
            }),
            Err(error) => {
                self.at.job.thaw();
                let error = MoveError::here("recording that the job is given up")(error);
                Err(self.at.abort(error))
            }
        }
    }
}

/// The job has been given up here, durably; the destination may not know yet.
///
/// Afterwards: it runs there, or that is unknown. It never runs here again
/// unless the destination says that it has no copy.
struct Committed<'a, J, S> {
    at: Offered<'a, J, S>,
    commit: Commit,
    latency: Duration,
    rounds: u32,
    began: Instant,
    /// As in [`Built`].
    waits: bool,
}

impl<J: SourceJob, S: Link> Committed<'_, J, S> {
    fn release(mut self) -> Departure {
        let epoch = self.commit.epoch();
        self.at.enter(Phase::Release);
        match self.hand_over(epoch) {
            Ok(lost_locks) => self.reap(epoch, lost_locks),
            Err(error) => Departure::Unknown { epoch, error },
        }
    }

    fn hand_over(&mut self, epoch: u64) -> Result<Vec<String>, MoveError> {
        const DOING: &str = "handing the job over";
        let here = || MoveError::here(DOING);
        let there = || MoveError::there(DOING);
        failpoint::hit("source.committed").map_err(here())?;
        let Offered {
            job, connection, ..
        } = &mut self.at;
        let told = Instant::now();
        connection
            .send(&Message::Commit { epoch })
            .map_err(there())?;
        failpoint::hit("source.told").map_err(here())?;
        if self.waits {
            connection.expect("'owned'", owned).map_err(there())?;
            failpoint::hit("source.owned").map_err(here())?;
            job.lend();
            connection.send(&Message::Lent).map_err(there())?;
            failpoint::hit("source.lent").map_err(here())?;
            connection.expect("'taken'", taken).map_err(there())?;
            job.surrender(epoch).map_err(here())?;
            connection.send(&Message::Gone).map_err(there())?;
        }
        let lost_locks = connection.expect("'released'", released).map_err(there())?;
        // It was on its way for half of this at most, however slow the first exchange was.
        self.latency = self.latency.min(told.elapsed() / 2);
        Ok(lost_locks)
    }

    fn reap(mut self, epoch: u64, lost_locks: Vec<String>) -> Departure {
        let pause = self.began.elapsed().saturating_sub(self.latency);
        self.at.enter(Phase::Reap);
        self.at.job.reap(epoch);
        self.at.enter(Phase::Reap);
        Departure::Moved(Moved {
            pause,
            total: self.at.clock.began.elapsed(),
            bytes_sent: self.at.connection.sent(),
            phases: self.at.clock.laps,
            lost_locks,
            rounds: self.rounds,
        })
    }
}
