//! A job from a file: read through a descriptor of whoever asked, and built as one that
//! comes from another node is.
//!
//! Invariant: a file is believed only when a node of this cluster has signed it, and makes
//! a job only for its owner or root. What is on record as live is kept by the next daemon,
//! anything else is discarded, and the file can be restored again.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::time::Instant;

use libmig::api::{Code, Failure, JobId, RestoreReport};
use libmig::checkpoint::{Base, DamageError, Header, Known, Reader};
use libmig::migration::{MoveError, Restored, restore};
use libmig::transfer::Connection;
use tracing::info;

use super::admission::Candidate;
use super::incoming::{FromFile, Incoming};
use crate::control::Caller;
use crate::daemon::Daemon;
use crate::jobs::revival::Revival;
use crate::jobs::{settle, watch};

const ROOT: u32 = 0;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// It is to be a job of its own.
    pub(crate) new_job: bool,
    /// A name for it; without one that of the file, unless the job is new.
    pub(crate) name: Option<String>,
    /// 0, 1 and 2 for those of its standard streams that were pipes.
    pub(crate) streams: [OwnedFd; 3],
    /// Who is about to connect as its `mig exec`.
    pub(crate) follower: Option<OwnedFd>,
}

/// A file that says the truth about itself, and that the caller may restore.
#[derive(Debug)]
pub(crate) struct Believed {
    reader: Reader<BufReader<File>>,
    /// The job that it was.
    pub(crate) was: JobId,
}

impl Believed {
    /// Reads header and index, and checks who has written them.
    ///
    /// # Errors
    /// When it is damaged, or no node of this cluster has written it, or it is not the caller's.
    pub(crate) fn read(
        daemon: &Daemon,
        caller: Caller,
        file: File,
        bases: Vec<File>,
    ) -> Result<Self, Failure> {
        let reader = signed(daemon, file)?;
        let header = reader.header();
        let was: JobId = header.job.parse().map_err(|error| {
            Failure::from_error(Code::Protocol, "the job in the file has no ID", &error)
        })?;
        if !caller.may(header.uid) {
            let said = format!("job {was} in the file is not your job");
            return Err(Failure::new(Code::NotYours, said));
        }
        if caller.uid != ROOT {
            // Files are opened by their names, with all our rights.
            let said = format!("job {was} in the file can be restored by root alone");
            return Err(Failure::new(Code::Refused, said).hint("ask root to restore it"));
        }
        let reader = chain(daemon, reader, bases)?;
        Ok(Self { reader, was })
    }

    /// What it says.
    pub(crate) fn header(&self) -> &Header {
        self.reader.header()
    }

    /// What matters to a node where the job is to live.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(crate) fn candidate(&mut self) -> Result<Candidate, Failure> {
        let proposal = Connection::new(&mut self.reader)
            .proposal()
            .map_err(|error| failed(&MoveError::of_file(error)))?;
        self.reader.rewind();
        Ok(Candidate::offered(self.was.clone(), proposal))
    }
}

/// A file that a node of this cluster has written.
fn signed(daemon: &Daemon, file: File) -> Result<Reader<BufReader<File>>, Failure> {
    let reader = Reader::open(BufReader::new(file)).map_err(|error| damaged(&error))?;
    let (header, seal) = (reader.header(), reader.seal());
    let checked = daemon.tls.seals.check(
        &seal.bytes,
        &seal.contents,
        &header.node,
        header.captured_unix,
    );
    checked.map_err(|error| {
        Failure::from_error(Code::Refused, "the file cannot be trusted", &error)
            .hint("a checkpoint can be restored in the cluster where it was written")
    })?;
    Ok(reader)
}

/// The same, with the files that it builds on.
fn chain(
    daemon: &Daemon,
    head: Reader<BufReader<File>>,
    bases: Vec<File>,
) -> Result<Reader<BufReader<File>>, Failure> {
    let bases: Result<Vec<_>, _> = bases.into_iter().map(|file| signed(daemon, file)).collect();
    head.on(bases?).map_err(|error| {
        Failure::from_error(Code::Refused, "a file of the chain is not there", &error)
            .hint("the checkpoints that one builds on are looked for in its folder")
    })
}

/// What of `job` is in files already, oldest first; nothing without files.
///
/// # Errors
/// When they are damaged or no chain, or not of this job.
pub(crate) fn known(
    daemon: &Daemon,
    caller: Caller,
    job: &JobId,
    mut files: Vec<File>,
) -> Result<Option<Known>, Failure> {
    let Some(head) = files.pop() else {
        return Ok(None);
    };
    let head = signed(daemon, head)?;
    let header = head.header();
    if header.job != job.to_string() || !caller.may(header.uid) {
        let said = format!("checkpoint {} is not one of job {job}", header.uuid);
        return Err(Failure::new(Code::Refused, said));
    }
    if header.bases.len() >= Base::MOST {
        let said = format!("checkpoint {} builds on {} others", header.uuid, Base::MOST);
        return Err(Failure::new(Code::Refused, said).hint("write a full one"));
    }
    let head = chain(daemon, head, files)?;
    let known = Known::of(head).map_err(|error| failed(&MoveError::of_file(error)))?;
    Ok(Some(known))
}

/// Restores the job; it runs when this returns.
///
/// # Errors
/// Why there is none.
pub(crate) fn run(
    daemon: &Daemon,
    caller: Caller,
    believed: Believed,
    wanted: Wanted,
) -> Result<RestoreReport, Failure> {
    let began = Instant::now();
    let header = believed.header().clone();
    let old_name = header.name.filter(|_| !wanted.new_job);
    let revival = Revival {
        was: believed.was.clone(),
        uuid: header.uuid.clone(),
        epoch: header.epoch,
        uid: header.uid,
        name: wanted.name.or(old_name),
        new_job: wanted.new_job,
    };
    let (job, epoch) = daemon.jobs.revive(&revival)?;
    let from = FromFile {
        was: header.job,
        uuid: header.uuid.clone(),
        name: revival.name,
        caller: Some(caller.uid).filter(|uid| *uid != ROOT),
        streams: Some(wanted.streams),
        follower: wanted.follower,
    };
    let done = build(daemon, &job, epoch, from, believed.reader);
    daemon.jobs.revived(&job);
    if done.is_ok() || daemon.jobs.view_blocking(&job).is_some() {
        watch::start(daemon, &job);
    }
    let lost_locks = done?;
    let total = began.elapsed();
    info!(%job, epoch, was = %revival.was, uuid = %header.uuid, ?total, "restored");
    let attach = watch::folder(daemon, &job).join("attach");
    Ok(RestoreReport {
        attach: Some(attach.display().to_string()),
        job,
        was: revival.was,
        uuid: header.uuid,
        node: daemon.node().clone(),
        total_us: u64::try_from(total.as_micros()).unwrap_or(u64::MAX),
        lost_locks,
    })
}

fn build(
    daemon: &Daemon,
    job: &JobId,
    epoch: u64,
    from: FromFile,
    reader: Reader<BufReader<File>>,
) -> Result<Vec<String>, Failure> {
    let mut incoming = Incoming::from_file(daemon, job, epoch, from);
    match restore(&mut incoming, reader, epoch) {
        Restored::Live { lost_locks } => Ok(lost_locks),
        Restored::Discarded(error) => Err(failed(&error)),
        Restored::Stuck(error) => {
            if let Some(arrival) = daemon.jobs.arrival_blocking(job) {
                settle::built(daemon, arrival);
            }
            let said = format!("job {job} has been restored, but does not run yet");
            let hint = "this is tried again; `mig ps` lists it";
            Err(Failure::from_error(Code::Undecided, said, &error).hint(hint))
        }
    }
}

fn failed(error: &MoveError) -> Failure {
    if let Some(damage) = DamageError::behind(error) {
        return damaged(damage);
    }
    let obstacles = error.obstacles().to_vec();
    let code = if obstacles.is_empty() {
        Code::Failed
    } else {
        Code::Refused
    };
    Failure {
        obstacles,
        ..Failure::from_error(code, "the job cannot be restored", error)
    }
}

fn damaged(error: &DamageError) -> Failure {
    Failure::from_error(
        Code::Failed,
        "the file cannot be read as a checkpoint",
        error,
    )
}
