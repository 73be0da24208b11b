//! A copy of a running job, written to a descriptor of whoever asked: never
//! to a path, which would be opened with the rights of the daemon.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libmig::api::{CheckpointReport, Code, Failure, JobId, MoveMode, Obstacle, local};
use libmig::checkpoint::{Header, Known};
use libmig::image::{FileObject, JobImage, OpenFile, ProcessKind};
use libmig::migration::{MoveError, Proposed, SourceJob, failpoint};
use libmig::sys::survivor;
use libmig::transfer::Offer;
use libmig::wire::version;
use tracing::{info, warn};

use super::local::Local;
use super::outgoing::Outgoing;
use super::{TRIES, pause};
use crate::control::{Caller, Events};
use crate::daemon::Daemon;
use crate::jobs::registry::unix_now;

/// PR_GET_DUMPABLE of a process that its user may look into.
const DUMPABLE: i32 = 1;

/// How long whoever keeps the file may take for that, at another node too.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the end of a job may take to be told to its home.
const END: Duration = Duration::from_secs(30);

/// Place of the permitted set among the capabilities of an image.
const PERMITTED: usize = 1;

/// Writes a checkpoint of `job` into `file`. The job runs on unless `asker` is there, the
/// socket on which whoever keeps the file says that it is kept: then it ends.
///
/// # Errors
/// Why there is none, or it runs on. What `file` holds then is of no use.
pub(crate) fn save(
    daemon: &Daemon,
    caller: Caller,
    job: &JobId,
    (file, known): (&File, Option<Known>),
    asker: Option<UnixStream>,
    events: &Events,
) -> Result<CheckpointReport, Failure> {
    let ends = asker.is_some();
    let mut asker = asker;
    let mut tries = 1;
    let saved = loop {
        match save_once(
            daemon,
            caller,
            (job, tries),
            (file, known.as_ref()),
            &mut asker,
            events,
        ) {
            // Nothing has been written, nor has the asker been told of anything.
            Err(failure) if tries < TRIES && passes(&failure) => pause(tries),
            saved => break saved,
        }
        tries += 1;
    };
    if ends && saved.is_ok() {
        wait_for_end(daemon, job);
    }
    saved
}

fn save_once(
    daemon: &Daemon,
    caller: Caller,
    (job, tries): (&JobId, u32),
    place: (&File, Option<&Known>),
    asker: &mut Option<UnixStream>,
    events: &Events,
) -> Result<CheckpointReport, Failure> {
    let (record, epoch) = daemon.jobs.leave(job, daemon.node())?;
    let saved = survivor::run(|| {
        let mode = if asker.is_some() {
            MoveMode::Stop
        } else {
            MoveMode::Precopy
        };
        let how = (daemon.node(), mode);
        Local::find(daemon, job)
            .and_then(|local| Outgoing::new(daemon, local, record, epoch, how, events))
            .and_then(|outgoing| {
                let mut outgoing = outgoing.after(tries);
                let report = write(daemon, caller, &mut outgoing, place, asker.is_some())?;
                if let Some(asker) = asker.take() {
                    end(outgoing, epoch, asker, &report)?;
                }
                Ok(report)
            })
    });
    daemon.jobs.aborted(job, epoch);
    saved.unwrap_or_else(|error| {
        let said = "there can be no process for the checkpoint";
        Err(Failure::from_error(Code::Host, said, &error))
    })
}

/// Whether all that stands in the way may be gone in a moment.
fn passes(failure: &Failure) -> bool {
    !failure.obstacles.is_empty() && failure.obstacles.iter().all(|obstacle| obstacle.transient)
}

/// Told by its init, like any end; until that is on record it cannot be restored.
pub(super) fn wait_for_end(daemon: &Daemon, job: &JobId) {
    let (jobs, id) = (daemon.jobs.clone(), job.clone());
    let ended = async move { tokio::time::timeout(END, jobs.wait(id)).await };
    daemon.runtime.block_on(ended).ok();
}

/// The file is written, the job frozen: ends it, once the file is kept.
fn end(
    mut outgoing: Outgoing<'_>,
    epoch: u64,
    asker: UnixStream,
    report: &CheckpointReport,
) -> Result<(), Failure> {
    let id = outgoing.id().clone();
    let stays = |error: &(dyn Error + 'static)| {
        let said = format!("job {id} has not ended, and runs on");
        Failure::from_error(Code::Failed, said, error)
    };
    kept(asker, report).map_err(|error| stays(&error))?;
    failpoint::hit("checkpoint.kept")
        .and_then(|()| outgoing.hold())
        .and_then(|()| failpoint::hit("checkpoint.held"))
        .and_then(|()| outgoing.commit(epoch))
        .map_err(|error| stays(error.error.as_ref()))?;
    // From here on it is the file's, whatever happens.
    let ended = failpoint::hit("checkpoint.committed")
        .map_err(|error| Failure::from_error(Code::Failed, "it is not ended", error.error.as_ref()))
        .and_then(|()| outgoing.end_in_file());
    if let Err(failure) = ended {
        warn!(job = %id, %failure, causes = ?failure.causes, "a job that is in a file has not ended yet");
        return Err(Failure {
            code: Code::Undecided,
            message: format!("job {id} is in the file, but its copy here is not gone yet"),
            ..failure
        });
    }
    info!(job = %report.job, uuid = %report.uuid, "ended in a checkpoint");
    Ok(())
}

/// Tells whoever asked that the file is complete and on its disk, and waits for its name to be.
pub(super) fn kept(mut asker: UnixStream, report: &CheckpointReport) -> io::Result<()> {
    asker.set_read_timeout(Some(PATIENCE))?;
    asker.set_write_timeout(Some(PATIENCE))?;
    local::send(&mut asker, report, local::REPLY_MAX).map_err(io::Error::other)?;
    asker.read_exact(&mut [0]).map_err(|error| {
        let said = format!("nobody has said that the file is kept: {error}");
        io::Error::new(error.kind(), said)
    })
}

fn write(
    daemon: &Daemon,
    caller: Caller,
    job: &mut Outgoing<'_>,
    (file, known): (&File, Option<&Known>),
    ends: bool,
) -> Result<CheckpointReport, Failure> {
    let id = job.id().clone();
    let failed = |error: MoveError| {
        let obstacles = error.obstacles().to_vec();
        let code = if obstacles.is_empty() {
            Code::Failed
        } else {
            Code::Refused
        };
        let said = format!("there is no checkpoint of job {id}, which runs on");
        Failure {
            obstacles,
            ..Failure::from_error(code, said, &error)
        }
    };
    let proposed = Proposed::new(job).map_err(&failed)?;
    let offer = proposed.proposal().offer.clone();
    if !ends {
        proposal_fits(offer.memory_bytes)?;
    }
    let copied = if ends {
        proposed.take()
    } else {
        proposed.copy()
    };
    let copied = copied.map_err(&failed)?;
    let secret = match caller.uid {
        0 => Vec::new(),
        uid => secrets(
            copied.image().map_err(&failed)?,
            uid,
            "ask root to write the checkpoint",
        ),
    };
    if !secret.is_empty() {
        let said = format!("there is no checkpoint of job {id}, which runs on");
        return Err(Failure::refused(said, secret));
    }
    let mut header = header(daemon, offer, copied.image().map_err(&failed)?)?;
    header.bases = known.map_or_else(Vec::new, |known| known.bases.clone());
    let saved = copied
        .write(BufWriter::new(file), (&header, known), |contents| {
            daemon.tls.seals.seal(contents)
        })
        .map_err(&failed)?;
    if ends {
        file.sync_all()
            .map_err(|error| failed(MoveError::of_disk(error)))?;
    }
    info!(job = %id, uuid = %header.uuid, pause = ?saved.pause, total = ?saved.total, bytes = saved.written, "wrote a checkpoint");
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Ok(CheckpointReport {
        job: id.clone(),
        node: daemon.node().clone(),
        uuid: header.uuid,
        pause_us: micros(saved.pause),
        total_us: micros(saved.total),
        memory_bytes: saved.contents,
        reused_bytes: saved.spared,
        bytes_written: saved.written,
        bases: header.bases.into_iter().map(|base| base.uuid).collect(),
    })
}

/// What the file says before anything else.
fn header(daemon: &Daemon, offer: Offer, image: &JobImage) -> Result<Header, Failure> {
    let is_stream = |file: &OpenFile| matches!(file.object, FileObject::Stdio(_));
    Ok(Header {
        uuid: uuid()?,
        protocol: version::NEWEST,
        node: daemon.node().to_string(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        cpu: offer.cpu,
        job: offer.job,
        name: offer.name,
        epoch: offer.epoch,
        uid: offer.uid,
        terminal: offer.console.is_some(),
        piped: image.files.iter().any(is_stream),
        captured_unix: unix_now(),
        memory_bytes: offer.memory_bytes,
        bases: Vec::new(),
    })
}

/// The copy is in memory before it is in the file.
fn proposal_fits(bytes: u64) -> Result<(), Failure> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let available = kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024));
    if bytes <= available / 2 {
        return Ok(());
    }
    let said = format!(
        "a copy of {bytes} bytes is more than half of the {available} bytes of memory that are available here"
    );
    Err(Failure::new(Code::Refused, said).hint("move the job to a node with more memory first"))
}

/// Processes into whose memory `uid` may not look: a file of theirs shows it all.
pub(super) fn secrets(image: &JobImage, uid: u32, remedy: &str) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    for process in &image.processes {
        let ProcessKind::Live(live) = &process.kind else {
            continue;
        };
        let foreign = live.threads.iter().any(|thread| {
            let of = &thread.credentials;
            let own = of.uids.iter().all(|one| *one == uid);
            !own || of.capabilities[PERMITTED] != 0
        });
        if foreign || live.dumpable != DUMPABLE {
            obstacles.push(Obstacle {
                pid: Some(process.pid),
                object: format!("process {}", process.pid),
                reason: "its memory is not for its user to see".into(),
                remedy: remedy.into(),
                transient: false,
            });
        }
    }
    obstacles
}

fn uuid() -> Result<String, Failure> {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let text = read.map_err(|error| {
        Failure::from_error(Code::Host, "the kernel gives no random number", &error)
    })?;
    Ok(text.trim().to_owned())
}
