//! Moves between this node and others: what the conductor of libmig drives.
//!
//! Everything here runs on a mover's own OS thread and blocks.
//!
//! | file | what it holds |
//! |---|---|
//! | `outgoing` | the source's end: a running job, frozen, given up, destroyed |
//! | `incoming` | the destination's end: a capsule, husks, a running job |
//! | `disk` | a copy of a running job, written to a file |
//! | `fetch` | a copy of a job of another node, written to a file here |
//! | `revive` | a job from a file |
//! | `look` | what stands in the way of a move, asked while the job runs |
//! | `admission` | what a destination has against a job, asked before it is frozen |
//! | `lend` | file locks of a copy that has been given up, shared with the destination |
//! | `locks` | file locks that the copy at the source holds, for the destination |
//! | `names` | names of its sockets, which they get or lose when the job has moved |
//! | `foreign` | moves of processes that `mig exec` did not start: whose they are, what is in the way |
//! | `adopted` | such a process and those below it, as a job that is about to leave |
//! | `ties` | its standard streams and its terminal |
//! | `silence` | the end of TCP connections of a copy that never runs again |
//! | `local` | a job's capsule and cgroup on this node, for all of them |

pub(crate) mod admission;
mod adopted;
pub(crate) mod disk;
pub(crate) mod fetch;
pub(crate) mod foreign;
mod incoming;
mod lend;
mod local;
mod locks;
mod look;
mod names;
mod outgoing;
pub(crate) mod revive;
mod silence;
mod ties;

use std::time::Duration;

use libmig::api::{Code, ExitStatus, Failure, JobId, MoveMode, MoveReport, NodeName};
use libmig::migration::{Arrival as Arrived, Departure, MoveError, Moved, Proposed, receive};
use libmig::sys::survivor;
use tracing::{info, warn};

use crate::control::Events;
use crate::daemon::Daemon;
use crate::jobs::record::{Arrival, Committed};
use crate::jobs::registry::ended_now;
use crate::jobs::{settle, watch};
use crate::peer::{BlockingTls, DialHello, Purpose, dial_move};
use adopted::Adopted;
use incoming::Incoming;
use local::Local;
pub(crate) use look::Look;
use outgoing::Outgoing;

/// How often a move that met only transient obstacles is tried again.
const TRIES: u32 = 40;

/// How long a source that was refused may take to notice.
const LINGER: Duration = Duration::from_secs(1);

/// Moves `job` to `to` and waits for the end of it.
///
/// # Errors
/// Why it stayed, with every obstacle; or that nobody knows yet where it is.
pub(crate) fn start(
    daemon: &Daemon,
    job: &JobId,
    to: &NodeName,
    mode: MoveMode,
    events: &Events,
) -> Result<MoveReport, Failure> {
    let mut tries = 1;
    loop {
        match attempt(daemon, job, (to, mode), tries, events) {
            Attempt::Moved(moved) => return Ok(report(daemon, job, to, &moved)),
            Attempt::Failed(failure) => return Err(failure),
            Attempt::Again(_) if tries < TRIES => {
                pause(tries);
                tries += 1;
            }
            Attempt::Again(failure) => return Err(failure),
        }
    }
}

/// Before the next try: a vfork or an exec in progress is over within milliseconds.
fn pause(tries: u32) {
    std::thread::sleep(Duration::from_millis(u64::from(tries.min(20))));
}

enum Attempt {
    Moved(Moved),
    Again(Failure),
    Failed(Failure),
}

/// In a process of its own, which a killed daemon does not take along in the middle of what
/// a job might not survive.
fn attempt(
    daemon: &Daemon,
    job: &JobId,
    how: (&NodeName, MoveMode),
    tries: u32,
    events: &Events,
) -> Attempt {
    survivor::run(|| try_once(daemon, job, how, tries, events)).unwrap_or_else(|error| {
        let said = "there can be no process for the move";
        Attempt::Failed(Failure::from_error(Code::Host, said, &error))
    })
}

/// Says what has become of a move whose mover panics: what is frozen runs again when it is
/// dropped, and the job must not be called moving for ever.
struct Unwound<'a> {
    daemon: &'a Daemon,
    job: &'a JobId,
    epoch: u64,
    to: &'a NodeName,
}

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let (job, epoch) = (self.job.clone(), self.epoch);
        if self.daemon.jobs.is_committed(&job, epoch) {
            let destination = self.to.clone();
            let entry = Committed {
                job,
                epoch,
                destination,
            };
            settle::committed(self.daemon, entry);
        } else {
            self.daemon.jobs.aborted(&job, epoch);
        }
    }
}

fn try_once(
    daemon: &Daemon,
    job: &JobId,
    (to, mode): (&NodeName, MoveMode),
    tries: u32,
    events: &Events,
) -> Attempt {
    let (record, epoch) = match daemon.jobs.leave(job, to) {
        Ok(left) => left,
        Err(failure) => return Attempt::Failed(failure),
    };
    let _unwound = Unwound {
        daemon,
        job,
        epoch,
        to,
    };
    let departure = Local::find(daemon, job)
        .and_then(|local| Outgoing::new(daemon, local, record, epoch, (to, mode), events))
        .and_then(|outgoing| depart(daemon, &mut outgoing.after(tries), job, epoch, to));
    match departure {
        Ok(Departure::Moved(moved)) => Attempt::Moved(moved),
        Ok(Departure::Stayed(error)) => {
            daemon.jobs.aborted(job, epoch);
            let failure = stayed(job, to, &error);
            if error.is_transient() {
                Attempt::Again(failure)
            } else {
                Attempt::Failed(failure)
            }
        }
        Ok(Departure::Unknown { epoch, error }) => {
            warn!(%job, %to, epoch, "the answer to a commit was lost; asking");
            let entry = Committed {
                job: job.clone(),
                epoch,
                destination: to.clone(),
            };
            settle::committed(daemon, entry);
            Attempt::Failed(
                Failure::from_error(
                    Code::Undecided,
                    format!("job {job} has been handed to {to}, but its answer was lost"),
                    &error,
                )
                .hint("it is being asked; `mig ps` shows where the job is"),
            )
        }
        Err(failure) => {
            daemon.jobs.aborted(job, epoch);
            Attempt::Failed(failure)
        }
    }
}

/// The destination hears of the job only when nothing stands in the way here.
fn depart(
    daemon: &Daemon,
    outgoing: &mut Outgoing<'_>,
    job: &JobId,
    epoch: u64,
    to: &NodeName,
) -> Result<Departure, Failure> {
    let proposed = match Proposed::new(outgoing) {
        Ok(proposed) => proposed,
        Err(error) => return Ok(Departure::Stayed(error)),
    };
    let purpose = Purpose::Move {
        job: job.clone(),
        epoch,
    };
    let (stream, _) = dial_move(daemon, to, purpose).map_err(|error| error.failure(to))?;
    Ok(proposed.to(stream).run())
}

fn stayed(job: &JobId, to: &NodeName, error: &MoveError) -> Failure {
    let obstacles = error.obstacles().to_vec();
    let message = format!("job {job} did not move to {to}");
    if obstacles.is_empty() {
        let hint = "it runs on where it was";
        Failure::from_error(Code::Failed, message, error).hint(hint)
    } else {
        Failure {
            obstacles,
            ..Failure::from_error(Code::Refused, message, error)
        }
    }
}

fn report(daemon: &Daemon, job: &JobId, to: &NodeName, moved: &Moved) -> MoveReport {
    info!(%job, %to, pause = ?moved.pause, total = ?moved.total, bytes = moved.bytes_sent, "moved");
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    MoveReport {
        job: job.clone(),
        from: daemon.node().clone(),
        to: to.clone(),
        mode: match moved.rounds {
            0 => MoveMode::Stop,
            _ => MoveMode::Precopy,
        },
        pause_us: micros(moved.pause),
        total_us: micros(moved.total),
        bytes_sent: moved.bytes_sent,
        lost_locks: moved.lost_locks.clone(),
        phases: moved.phases.iter().fold(
            Default::default(),
            |mut sums: std::collections::BTreeMap<_, u64>, (phase, time)| {
                *sums.entry(*phase).or_default() += micros(*time);
                sums
            },
        ),
    }
}

/// The destination's side of one attempt.
pub(crate) fn serve(mut stream: BlockingTls, hello: &DialHello, daemon: &Daemon) {
    let Purpose::Move { job, epoch } = &hello.purpose else {
        warn!(peer = %hello.node, "a connection that is for no move came to the movers");
        return;
    };
    let mut incoming = Incoming::new(daemon, job, *epoch, &hello.node);
    match receive(&mut incoming, &mut stream) {
        Arrived::Live { epoch } => info!(%job, epoch, from = %hello.node, "arrived"),
        Arrived::Discarded(error) => {
            let why = error.refusal();
            info!(%job, from = %hello.node, %why, "a job did not come");
            stream.linger(LINGER);
        }
        Arrived::Undecided { epoch, error } => {
            let why = error.refusal();
            warn!(%job, epoch, from = %hello.node, %why, "asking whether a job was committed");
            if let Some(arrival) = daemon.jobs.arrival_blocking(job) {
                settle::built(daemon, arrival);
            }
        }
    }
}

/// Destination: the arrival is live in the journal; let it run. Repeatable.
pub(crate) fn release(daemon: &Daemon, arrival: &Arrival) -> Result<(), Failure> {
    let local = Local::find(daemon, &arrival.record.id)?;
    local.release(daemon, arrival.epoch, None).map(drop)
}

/// Destination: destroys what was built. Repeatable.
pub(crate) fn discard(daemon: &Daemon, arrival: &Arrival) -> Result<(), Failure> {
    match Local::find(daemon, &arrival.record.id) {
        Ok(local) if &arrival.source == daemon.node() => local.discard_restored(daemon),
        Ok(local) => local.discard(daemon),
        // Its capsule never came to be, or has been removed already.
        Err(_) => Ok(()),
    }
}

/// Source: the destination runs it; destroys the frozen copy. Repeatable.
pub(crate) fn reap(daemon: &Daemon, committed: &Committed) -> Result<(), Failure> {
    match Local::find(daemon, &committed.job) {
        Ok(local) => local.reap(daemon, committed.epoch),
        Err(_) => match Adopted::read(&watch::folder(daemon, &committed.job)) {
            Some(adopted) => adopted.leave_place(daemon),
            None => Ok(()),
        },
    }
}

/// Source: the job is in a file, for good; ends its copy, whose end is told. Repeatable.
pub(crate) fn end(daemon: &Daemon, job: &JobId) -> Result<(), Failure> {
    match Local::find(daemon, job) {
        Ok(local) => local.end_in_file(),
        Err(_) => daemon
            .jobs
            .exited_blocking(&ended_now(job.clone(), ExitStatus::Checkpointed)),
    }
}

/// Source: the job stays; lets whatever is frozen of it run. Repeatable, and
/// harmless on a job that runs.
pub(crate) fn resume(daemon: &Daemon, job: &JobId) -> Result<(), Failure> {
    match Adopted::read(&watch::folder(daemon, job)) {
        Some(adopted) => adopted::undo(daemon, &adopted),
        None => Local::find(daemon, job)?.resume(),
    }
}

/// What stands in the way of a move of a job of this node, and what it needs elsewhere.
pub(crate) fn look(daemon: &Daemon, job: &JobId) -> Result<Look, Failure> {
    let mut local = Local::find(daemon, job)?;
    look::at(&mut local)
}
