//! A copy of a running job, written to a descriptor of whoever asked: never
//! to a path, which would be opened with the rights of the daemon.

use std::fs::File;
use std::io::BufWriter;
use std::time::Duration;

use libmig::api::{CheckpointReport, Code, Failure, JobId, Obstacle};
use libmig::checkpoint::Header;
use libmig::image::{FileObject, JobImage, OpenFile, ProcessKind};
use libmig::migration::{MoveError, Proposed};
use libmig::sys::survivor;
use libmig::transfer::Offer;
use libmig::wire::version;
use tracing::info;

use super::local::Local;
use super::outgoing::Outgoing;
use crate::control::{Caller, Events};
use crate::daemon::Daemon;
use crate::jobs::registry::unix_now;

/// PR_GET_DUMPABLE of a process that its user may look into.
const DUMPABLE: i32 = 1;

/// Place of the permitted set among the capabilities of an image.
const PERMITTED: usize = 1;

/// Writes a checkpoint of `job` into `file`; the job runs on.
///
/// # Errors
/// Why there is none. What `file` holds then is of no use.
pub(crate) fn save(
    daemon: &Daemon,
    caller: Caller,
    job: &JobId,
    file: &File,
    events: &Events,
) -> Result<CheckpointReport, Failure> {
    let (record, epoch) = daemon.jobs.leave(job, daemon.node())?;
    let saved = survivor::run(|| {
        Local::find(daemon, job)
            .and_then(|local| Outgoing::new(daemon, local, record, epoch, daemon.node(), events))
            .and_then(|mut job| write(daemon, caller, &mut job, file))
    });
    daemon.jobs.aborted(job, epoch);
    saved.unwrap_or_else(|error| {
        let said = "there can be no process for the checkpoint";
        Err(Failure::from_error(Code::Host, said, &error))
    })
}

fn write(
    daemon: &Daemon,
    caller: Caller,
    job: &mut Outgoing<'_>,
    file: &File,
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
    let offer = proposal_fits(proposed.proposal().offer.memory_bytes)
        .map(|()| proposed.proposal().offer.clone())?;
    let copied = proposed.copy().map_err(&failed)?;
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
    let header = header(daemon, offer, copied.image().map_err(&failed)?)?;
    let saved = copied
        .write(BufWriter::new(file), &header, |contents| {
            daemon.tls.seals.seal(contents)
        })
        .map_err(&failed)?;
    info!(job = %id, uuid = %header.uuid, pause = ?saved.pause, total = ?saved.total, bytes = saved.written, "wrote a checkpoint");
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Ok(CheckpointReport {
        job: id.clone(),
        node: daemon.node().clone(),
        uuid: header.uuid,
        pause_us: micros(saved.pause),
        total_us: micros(saved.total),
        memory_bytes: saved.contents,
        bytes_written: saved.written,
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
