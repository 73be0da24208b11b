//! Capsules: waited for while they live, found again after a restart.
//!
//! One small thread per capsule of this node, also for the deputies of jobs
//! that are away: it does nothing but wait for what the init says.
//!
//! Invariant: an init keeps the exit status until the job table has it on
//! disk, so an exit is told at least once, whenever the daemon dies.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use libmig::api::{ExitStatus, JobId};
use migd::capsule::{Event, Handle, Place, Subscription};
use tracing::{debug, info, warn};

use super::registry::ended_now;
use crate::daemon::Daemon;
use crate::peer::carrier;

/// Enough for a thread that only waits.
const STACK: usize = 256 << 10;
/// How long to wait for an init that has ended to be gone.
const GONE: Duration = Duration::from_secs(5);

/// How a watch ended.
#[derive(Debug)]
enum Ended {
    /// The main program has.
    Job(ExitStatus),
    /// The init has, and said nothing.
    Init,
}

/// At start: watches every capsule that is there, and gives up the jobs whose
/// capsule is gone.
pub(crate) async fn find_again(daemon: &Daemon) {
    let folders = std::fs::read_dir(daemon.config.jobs_dir())
        .into_iter()
        .flatten()
        .flatten();
    for entry in folders {
        let job = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<JobId>().ok());
        let Some(job) = job else { continue };
        info!(%job, "found a capsule");
        start(daemon, &job);
    }
    for view in daemon.jobs.views().await {
        let job = view.record.id;
        if view.record.place == super::record::Place::Here
            && !view.committed
            && !folder(daemon, &job).exists()
        {
            warn!(%job, "its capsule is gone");
            lost(daemon, job).await;
        }
    }
}

async fn lost(daemon: &Daemon, job: JobId) {
    if let Err(failure) = daemon.jobs.exited(ended_now(job, ExitStatus::Lost)).await {
        warn!(%failure, "a lost job cannot be recorded");
    }
}

/// Folder of a job's capsule.
pub(crate) fn folder(daemon: &Daemon, job: &JobId) -> PathBuf {
    daemon.config.jobs_dir().join(job.to_string())
}

/// Watches the capsule of `job` from now on: after an exec, after an arrival
/// has been made, and at start. More than one watch of a job is harmless.
pub(crate) fn start(daemon: &Daemon, job: &JobId) {
    let (runtime, job) = (daemon.runtime.clone(), job.clone());
    let (daemon, mine) = (daemon.clone(), job.clone());
    let work = move || {
        if let Err(error) = watch(&daemon, &mine) {
            warn!(job = %mine, reason = %format!("{error:#}"), "a capsule cannot be watched");
        }
        daemon.meters.remove(&mine);
    };
    let thread = std::thread::Builder::new()
        .name(format!("job {job}"))
        .stack_size(STACK);
    // By a thread of the daemon: one that a mover makes is of the mover's process, which
    // could not end before the job.
    runtime.spawn(async move {
        if let Err(error) = thread.spawn(work) {
            warn!(%job, %error, "a capsule is not watched");
        }
    });
}

fn watch(daemon: &Daemon, job: &JobId) -> anyhow::Result<()> {
    let folder = folder(daemon, job);
    let Ok(mine) = std::fs::metadata(&folder).map(|folder| folder.ino()) else {
        // Another watch has cleaned up.
        return Ok(());
    };
    let ended = match Handle::connect(&folder) {
        Ok(mut handle) => match wait(daemon, job, &mut handle) {
            // It was killed while it was asked.
            Err(_) if Handle::connect(&folder).is_err() => Ended::Init,
            ended => ended?,
        },
        // It ended while no daemon ran.
        Err(_) => Ended::Init,
    };
    let status = match ended {
        Ended::Job(status) => Some(status),
        Ended::Init => left_behind(&folder).or_else(|| lost_here(daemon, job)),
    };
    if let Some(status) = status {
        let exit = ended_now(job.clone(), status);
        daemon.jobs.exited_blocking(&exit)?;
        info!(%job, ?status, "ended");
    }
    dismiss(&folder)?;
    clean(&folder, mine)
}

/// Lets the init go, and waits until it has: it may have more to tell to
/// `mig exec`, or processes that are left to mind.
fn dismiss(folder: &Path) -> anyhow::Result<()> {
    let Ok(mut handle) = Handle::connect(folder) else {
        return Ok(()); // gone already
    };
    let mut events = handle.subscribe()?;
    if let Err(error) = handle.collect() {
        // It may end before its answer is read.
        debug!(reason = %format!("{error:#}"), "dismissed an init");
    }
    while events.next_event()?.is_some() {}
    Ok(())
}

/// Until the main program or the init ends.
fn wait(daemon: &Daemon, job: &JobId, handle: &mut Handle) -> anyhow::Result<Ended> {
    // First subscribe, then look: nothing falls between.
    let mut events: Subscription = handle.subscribe()?;
    let report = handle.info()?;
    daemon.meters.add(job, handle.job_cgroup()?);
    if report.info.place == Place::Guest {
        carrier::host(daemon, job);
    }
    if let Some(word) = report.info.status {
        return Ok(Ended::Job(ExitStatus::of_word(word)));
    }
    loop {
        match events
            .next_event()
            .context("the capsule's init speaks nonsense")?
        {
            Some(Event::Exited(word)) => return Ok(Ended::Job(ExitStatus::of_word(word))),
            Some(event) => debug!(%job, ?event, "capsule"),
            None => return Ok(Ended::Init),
        }
    }
}

/// The init has ended without a word: lost, if the job was here. A guest's
/// init ends when the job has gone on, and that is no loss.
fn lost_here(daemon: &Daemon, job: &JobId) -> Option<ExitStatus> {
    let view = daemon.jobs.view_blocking(job)?;
    let arriving = daemon
        .jobs
        .arrival_blocking(job)
        .is_some_and(|a| a.epoch > view.record.epoch);
    (view.record.is_here() && !view.committed && !arriving).then_some(ExitStatus::Lost)
}

/// What the init wrote before it ended.
fn left_behind(folder: &Path) -> Option<ExitStatus> {
    let text = std::fs::read_to_string(folder.join("status")).ok()?;
    Some(ExitStatus::of_word(text.trim().parse().ok()?))
}

/// Removes what a capsule leaves, once its init is gone.
///
/// Only of the capsule that was watched: the job may have come back meanwhile, to
/// a folder of the same name.
fn clean(folder: &Path, mine: u64) -> anyhow::Result<()> {
    let deadline = std::time::Instant::now() + GONE;
    loop {
        if !std::fs::metadata(folder).is_ok_and(|folder| folder.ino() == mine) {
            return Ok(());
        }
        match Handle::remove_folder(folder) {
            Ok(()) => return Ok(()),
            Err(error) if std::time::Instant::now() > deadline => return Err(error),
            // EBUSY: its last process is on its way out.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
