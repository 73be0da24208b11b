//! `mig checkpoint`: a job, in a file.
//!
//! The file is opened here, with the rights of the caller, and the daemon gets
//! a descriptor. It has no name until it is complete and on its disk: whatever
//! is killed before that leaves nothing, and the file of an earlier checkpoint
//! as it was.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use libmig::api::{CheckpointReport, Client, Reply, Request, Target, local};
use rustix::fs::{AtFlags, CWD, OFlags, linkat, rename};

use super::{Daemon, unexpected};
use crate::{
    exit,
    ui::{self, human},
};

/// Nobody but its owner may see what was in memory.
const MODE: u32 = 0o600;

/// Write a job into a file, to go on with mig restore
///
/// The file appears when it is complete and on its disk; then the job ends, and its mig exec
/// with code 124. With --leave-running the file is a copy: the job pauses for
/// as long as its memory is copied to memory, and runs on. mig inspect shows
/// what is in the file.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// The job, by ID or name, or a process of it
    #[arg(value_name = "JOB|PID")]
    job: Target,
    /// The file, or a folder: then JOB.UUID.mig in it
    #[arg(value_name = "FILE|DIR")]
    file: PathBuf,
    /// The job goes on after the copy
    #[arg(long)]
    leave_running: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Writes it.
pub(crate) fn run(args: &CheckpointArgs) -> Result<u8> {
    let mut daemon = args.daemon.connect()?;
    let folder = folder(&args.file);
    let file = OpenOptions::new()
        .write(true)
        .mode(MODE)
        .custom_flags(flags(OFlags::TMPFILE))
        .open(folder)
        .with_context(|| format!("no file can be made in {}", folder.display()))?;
    let keep = |report: &CheckpointReport| {
        let path = path(&args.file, report);
        publish(&file, folder, &path, &report.uuid)
            .with_context(|| format!("the checkpoint cannot be kept as {}", path.display()))
    };
    let report = if args.leave_running {
        let report = ask(args, &mut daemon, &[file.as_fd()])?;
        keep(&report)?;
        report
    } else {
        end(args, &mut daemon, &file, keep)?
    };
    let path = path(&args.file, &report);
    if args.json {
        ui::json(&report)?;
    } else {
        let how = if args.leave_running {
            format!("paused {}", human::micros(report.pause_us))
        } else {
            "ended".to_owned()
        };
        ui::line(&format!(
            "{}: {}, {how}, took {}, {} of memory in {}",
            report.job,
            path.display(),
            human::micros(report.total_us),
            human::bytes(report.memory_bytes),
            human::bytes(report.bytes_written)
        ))?;
    }
    Ok(exit::OK)
}

fn ask(
    args: &CheckpointArgs,
    daemon: &mut Client,
    fds: &[BorrowedFd<'_>],
) -> Result<CheckpointReport> {
    let request = Request::Checkpoint {
        target: args.job.clone(),
        end: !args.leave_running,
    };
    match daemon.ask_with_fds(&request, fds, |_| {})? {
        Reply::Saved(report) => Ok(report),
        other => unexpected(&other),
    }
}

/// The job ends when the daemon hears that the file is kept; if that fails, it runs on.
fn end(
    args: &CheckpointArgs,
    daemon: &mut Client,
    file: &File,
    keep: impl Fn(&CheckpointReport) -> Result<()> + Sync,
) -> Result<CheckpointReport> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let keeper = || -> Result<()> {
        // A daemon that has nothing to tell closes its end.
        let Ok(report) = local::receive(&mut ours, local::REPLY_MAX) else {
            return Ok(());
        };
        keep(&report)?;
        Ok(ours.write_all(&[1])?)
    };
    thread::scope(|scope| {
        let keeper = scope.spawn(keeper);
        let answer = ask(args, daemon, &[file.as_fd(), theirs.as_fd()]);
        drop(theirs);
        match keeper.join() {
            Ok(kept) => kept.and(answer),
            Err(_) => bail!("the checkpoint could not be kept"),
        }
    })
}

/// The name of the file.
fn path(file: &Path, report: &CheckpointReport) -> PathBuf {
    if file.is_dir() {
        file.join(format!("{}.{}.mig", report.job, report.uuid))
    } else {
        file.to_owned()
    }
}

/// Where the file will be.
fn folder(file: &Path) -> &Path {
    if file.is_dir() {
        return file;
    }
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Gives the file its name, once all of it is on the disk; the name is there before this returns.
fn publish(file: &File, folder: &Path, path: &Path, uuid: &str) -> io::Result<()> {
    file.sync_all()?;
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    let fresh = folder.join(format!(".{uuid}.mig"));
    // A link does not replace what is there, a rename does.
    linkat(CWD, nameless, CWD, &fresh, AtFlags::SYMLINK_FOLLOW)?;
    if let Err(error) = rename(&fresh, path) {
        std::fs::remove_file(&fresh)?;
        return Err(error.into());
    }
    File::open(folder)?.sync_all()
}
