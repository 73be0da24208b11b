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
use libmig::{
    api::{CheckpointReport, Client, Reply, Request, Target, local},
    checkpoint::Base,
};
use rustix::fs::{AtFlags, CWD, OFlags, linkat, rename};

use super::{
    Daemon,
    chain::{self, Chain},
    unexpected,
};
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
/// as long as it takes to copy what could not be copied while it ran, and runs on. With
/// --incremental the file has only what no earlier one in its folder has: it needs those, and
/// mig restore and mig inspect find them there. mig inspect shows what is in the file.
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
    /// Leave out what is in the newest checkpoint of the job in DIR, or in what that builds on;
    /// without one, or behind a chain of 64, the file is a full one
    #[arg(long)]
    incremental: bool,
    /// Leave out what is in this checkpoint of the job, or in what it builds on; FILE must be in
    /// its folder, and new
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
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
    let base = base(args, &mut daemon, folder)?;
    let file = OpenOptions::new()
        .write(true)
        .mode(MODE)
        .custom_flags(flags(OFlags::TMPFILE))
        .open(folder)
        .with_context(|| format!("no file can be made in {}", folder.display()))?;
    let keep = |report: &CheckpointReport| {
        let path = path(&args.file, report);
        publish(&file, folder, &path, (&report.uuid, base.is_some()))
            .with_context(|| format!("the checkpoint cannot be kept as {}", path.display()))
    };
    let report = if args.leave_running {
        let fds = [file.as_fd()].into_iter().chain(files(base.as_ref()));
        let report = ask(args, &mut daemon, &fds.collect::<Vec<_>>())?;
        keep(&report)?;
        report
    } else {
        end(args, &mut daemon, (&file, base.as_ref()), keep)?
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
        let reused = if report.bases.is_empty() {
            String::new()
        } else {
            let bytes = human::bytes(report.reused_bytes);
            format!(", {bytes} of it in earlier files")
        };
        ui::line(&format!(
            "{}: {}, {how}, took {}, {} of memory in {}{reused}",
            report.job,
            path.display(),
            human::micros(report.total_us),
            human::bytes(report.memory_bytes),
            human::bytes(report.bytes_written)
        ))?;
    }
    Ok(exit::OK)
}

/// What the file is to build on.
fn base(args: &CheckpointArgs, daemon: &mut Client, folder: &Path) -> Result<Option<Chain>> {
    if let Some(base) = &args.base {
        let there = chain::folder(base);
        if there.canonicalize()? != folder.canonicalize()? {
            bail!(
                "{} is not in {}: what builds on it is to lie beside it",
                base.display(),
                folder.display()
            );
        }
        return Chain::open(base).map(Some);
    }
    if !args.incremental {
        return Ok(None);
    }
    if !args.file.is_dir() {
        bail!(
            "{} is no folder: say with --base which checkpoint it is to build on",
            args.file.display()
        );
    }
    let request = Request::Where {
        target: args.job.clone(),
    };
    let job = match daemon.ask(&request, |_| {})? {
        Reply::Where(report) => report.job,
        other => return unexpected(&other),
    };
    let newest = Chain::newest(folder, &job.to_string())?;
    Ok(newest.filter(|chain| chain.header.bases.len() < Base::MOST))
}

fn files(base: Option<&Chain>) -> impl Iterator<Item = BorrowedFd<'_>> {
    base.into_iter().flat_map(Chain::files)
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
    (file, base): (&File, Option<&Chain>),
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
        let fds = [file.as_fd()].into_iter().chain(files(base));
        let fds: Vec<_> = fds.chain([theirs.as_fd()]).collect();
        let answer = ask(args, daemon, &fds);
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
        file.join(chain::name(&report.job.to_string(), &report.uuid))
    } else {
        file.to_owned()
    }
}

/// Where the file will be.
fn folder(file: &Path) -> &Path {
    if file.is_dir() {
        return file;
    }
    chain::folder(file)
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Gives the file its name, once all of it is on the disk; the name is there before this returns.
/// One that builds on others replaces none: it may be one of these.
fn publish(
    file: &File,
    folder: &Path,
    path: &Path,
    (uuid, is_new): (&str, bool),
) -> io::Result<()> {
    file.sync_all()?;
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    if is_new {
        linkat(CWD, nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        return File::open(folder)?.sync_all();
    }
    let fresh = folder.join(format!(".{uuid}.mig"));
    // A link does not replace what is there, a rename does.
    linkat(CWD, nameless, CWD, &fresh, AtFlags::SYMLINK_FOLLOW)?;
    if let Err(error) = rename(&fresh, path) {
        std::fs::remove_file(&fresh)?;
        return Err(error.into());
    }
    File::open(folder)?.sync_all()
}
