//! Moves that a crash or a cut left undecided: nobody guesses.
//!
//! | journal | question | answer and what follows |
//! |---|---|---|
//! | source `Committed` | "I committed it to you" to the destination | Live: reap · Absent: resume · else ask again |
//! | source `Committed`, to a file | none | end it |
//! | destination `Built` | "did you commit?" to the source | Committed: release · Aborted: discard · else ask again |
//! | destination `Live`, with locks to wait for | none | take them, release |
//! | destination `Reserved` | none | discard |
//! | destination `Built`, from a checkpoint | none | discard: the file is still there |
//! | neither | none | resume whatever is frozen |
//!
//! Invariant: each entry has at most one task that settles it; what the tasks
//! do can be repeated, since a crash may come between the act and the journal.

use std::time::Duration;

use libmig::api::{Failure, JobId, NodeName};
use libmig::migration::Verdict;
use tracing::{debug, info, warn};

use super::record::{Arrival, Committed, Stage};
use crate::daemon::Daemon;
use crate::moves;
use crate::peer::message::{Answer, Question};

/// How long to wait before the same question again.
const AGAIN: Duration = Duration::from_millis(500);

/// At start, before any socket is served: takes up what the last daemon left.
pub(crate) async fn reconcile(daemon: &Daemon) {
    for entry in daemon.jobs.committed().await {
        if &entry.destination == daemon.node() {
            end(daemon, entry).await;
        } else {
            committed(daemon, entry);
        }
    }
    for arrival in daemon.jobs.arrivals().await {
        match arrival.stage {
            // From a file, whose restore died with the last daemon: it can be done again.
            Stage::Built if &arrival.source == daemon.node() => discard(daemon, arrival).await,
            Stage::Built => built(daemon, arrival),
            Stage::Reserved => discard(daemon, arrival).await,
            // The crash may have come between the journal and the thaw.
            Stage::Live => release(daemon, arrival).await,
        }
    }
    for view in daemon.jobs.views().await {
        let epoch = view.record.epoch;
        // An arrival that waits for its locks is frozen for that.
        let waits = daemon.jobs.waits(view.record.id.clone(), epoch).await;
        if view.record.is_here() && !view.committed && !waits {
            let (job, mine) = (view.record.id.clone(), view.record.id);
            report(
                &job,
                "resume",
                blocking(daemon, move |d| moves::resume(d, &mine)).await,
            );
        }
    }
}

/// Settles a commit whose answer is missing, in the background. For movers
/// too, when the connection breaks between `Commit` and `Released`.
pub(crate) fn committed(daemon: &Daemon, entry: Committed) {
    let daemon = daemon.clone();
    daemon.runtime.clone().spawn(async move {
        loop {
            let question = Question::Commit {
                job: entry.job.clone(),
                epoch: entry.epoch,
            };
            match ask(&daemon, &entry.destination, question).await {
                Some(Verdict::Live) => return reap(&daemon, entry).await,
                Some(Verdict::Absent) => return take_back(&daemon, entry).await,
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    });
}

/// Settles an arrival that waits for its commit, in the background. For
/// movers too, when the connection breaks after `Built`.
pub(crate) fn built(daemon: &Daemon, arrival: Arrival) {
    let daemon = daemon.clone();
    daemon.runtime.clone().spawn(async move {
        let job = arrival.record.id.clone();
        if arrival.stage == Stage::Live {
            // Ours already when something went wrong.
            return release(&daemon, arrival).await;
        }
        loop {
            // The source may have told us in the meantime.
            let stage = daemon.jobs.arrival(job.clone()).await;
            if stage.is_none_or(|a| a.epoch != arrival.epoch || a.stage != Stage::Built) {
                return;
            }
            let question = Question::CommitState {
                job: job.clone(),
                epoch: arrival.epoch,
            };
            match ask(&daemon, &arrival.source, question).await {
                Some(Verdict::Committed) => return accept(&daemon, arrival).await,
                Some(Verdict::Aborted) => return discard(&daemon, arrival).await,
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    });
}

/// A source repeats its commit: does what it says, and tells how it stands.
pub(crate) async fn told_committed(
    daemon: &Daemon,
    source: &NodeName,
    job: &JobId,
    epoch: u64,
) -> Verdict {
    let verdict = daemon
        .jobs
        .commit_answer(source.clone(), job.clone(), epoch)
        .await;
    if verdict != Verdict::Built {
        return verdict;
    }
    match daemon.jobs.arrival(job.clone()).await {
        Some(arrival) if arrival.stage == Stage::Built && arrival.epoch == epoch => {
            accept(daemon, arrival).await;
            daemon
                .jobs
                .commit_answer(source.clone(), job.clone(), epoch)
                .await
        }
        _ => verdict,
    }
}

async fn ask(daemon: &Daemon, node: &NodeName, question: Question) -> Option<Verdict> {
    match daemon
        .peers
        .ask(node, question, daemon.config.peer_timeout())
        .await
    {
        Ok(Answer::Verdict(verdict)) => Some(verdict),
        Ok(_) => {
            warn!(peer = %node, "a question about a move was answered with something else");
            None
        }
        Err(error) => {
            debug!(peer = %node, %error, "nobody to ask about a move yet");
            None
        }
    }
}

/// The source has committed: ours in the journal first, then it runs.
async fn accept(daemon: &Daemon, arrival: Arrival) {
    let (job, epoch) = (arrival.record.id.clone(), arrival.epoch);
    let live = blocking(daemon, move |d| d.jobs.journal_live(&job, epoch, None)).await;
    match live {
        Ok(_) => release(daemon, arrival).await,
        Err(failure) => warn!(%failure, "an arrival cannot be journalled"),
    }
}

async fn release(daemon: &Daemon, arrival: Arrival) {
    let job = arrival.record.id.clone();
    // An old entry of a job that has left again or has ended is history.
    let here = daemon.jobs.view(job.clone()).await;
    if !here.is_some_and(|v| v.record.is_here() && v.record.epoch == arrival.epoch && !v.committed)
    {
        return;
    }
    let waits = daemon.jobs.waits(job.clone(), arrival.epoch).await;
    let mine = daemon.clone();
    let work = async move {
        let released = blocking(&mine, move |d| moves::release(d, &arrival)).await;
        report(&job, "release", released);
    };
    if waits {
        // For locks that the source lets go of only when it has its answer.
        daemon.runtime.spawn(work);
    } else {
        work.await;
    }
}

async fn discard(daemon: &Daemon, arrival: Arrival) {
    let job = arrival.record.id.clone();
    let done = blocking(daemon, move |d| {
        moves::discard(d, &arrival)?;
        d.jobs.arrival_gone(&arrival.record.id, arrival.epoch)
    });
    report(&job, "discard", done.await);
}

async fn reap(daemon: &Daemon, entry: Committed) {
    let job = entry.job.clone();
    let done = blocking(daemon, move |d| {
        // Settled in the meantime, the job may be back: in the same control group.
        if d.jobs.is_committed(&entry.job, entry.epoch) {
            moves::reap(d, &entry)?;
            d.jobs.journal_gone(&entry.job, entry.epoch)?;
        }
        Ok(())
    });
    report(&job, "reap", done.await);
}

/// The job is in a file: its copy here ends.
async fn end(daemon: &Daemon, entry: Committed) {
    let job = entry.job.clone();
    report(
        &job,
        "end",
        blocking(daemon, move |d| moves::end(d, &entry.job)).await,
    );
}

async fn take_back(daemon: &Daemon, entry: Committed) {
    let job = entry.job.clone();
    let done = blocking(daemon, move |d| {
        if d.jobs.journal_disowned(&entry.job, entry.epoch)? {
            moves::resume(d, &entry.job)?;
        }
        Ok(())
    });
    report(&job, "resume", done.await);
}

/// Movers' work blocks, and may use ptrace: never on the runtime's threads.
async fn blocking<T: Send + 'static>(
    daemon: &Daemon,
    work: impl FnOnce(&Daemon) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let daemon = daemon.clone();
    let done = tokio::task::spawn_blocking(move || work(&daemon)).await;
    done.unwrap_or_else(|error| {
        Err(Failure::from_error(
            libmig::api::Code::Failed,
            "a mover panicked",
            &error,
        ))
    })
}

fn report(job: &JobId, what: &str, result: Result<(), Failure>) {
    match result {
        Ok(()) => info!(%job, what, "settled a move"),
        Err(failure) => {
            warn!(%job, what, %failure, causes = ?failure.causes, "a move is not settled");
        }
    }
}
