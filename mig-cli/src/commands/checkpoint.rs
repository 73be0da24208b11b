//! `mig checkpoint`: a copy of a running job, in a file.
//!
//! The file is opened here, with the rights of the caller, and the daemon gets
//! a descriptor. It has no name until it is complete and on its disk: whatever
//! is killed before that leaves nothing, and the file of an earlier checkpoint
//! as it was.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use libmig::api::{Reply, Request, Target};
use rustix::fs::{AtFlags, CWD, OFlags, linkat, rename};

use super::{Daemon, unexpected};
use crate::{
    exit,
    ui::{self, human},
};

/// Nobody but its owner may see what was in memory.
const MODE: u32 = 0o600;

/// Write a copy of a running job into a file
///
/// The job runs on; it pauses for as long as its memory is copied to memory.
/// The file appears when it is complete and on its disk. `mig inspect` shows
/// what is in it.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// The job, by ID or name, or a process of it
    #[arg(value_name = "JOB|PID")]
    job: Target,
    /// The file, or a folder: then JOB.UUID.mig in it
    #[arg(value_name = "FILE|DIR")]
    file: PathBuf,
    /// The job goes on after the copy
    #[arg(long, required = true)]
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
    let request = Request::Checkpoint {
        target: args.job.clone(),
    };
    let report = match daemon.ask_with_fds(&request, &[file.as_fd()], |_| {})? {
        Reply::Saved(report) => report,
        other => return unexpected(&other),
    };
    let path = if args.file.is_dir() {
        args.file
            .join(format!("{}.{}.mig", report.job, report.uuid))
    } else {
        args.file.clone()
    };
    publish(&file, folder, &path, &report.uuid)
        .with_context(|| format!("the checkpoint cannot be kept as {}", path.display()))?;
    if args.json {
        ui::json(&report)?;
    } else {
        ui::line(&format!(
            "{}: {}, paused {}, took {}, {} of memory in {}",
            report.job,
            path.display(),
            human::micros(report.pause_us),
            human::micros(report.total_us),
            human::bytes(report.memory_bytes),
            human::bytes(report.bytes_written)
        ))?;
    }
    Ok(exit::OK)
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
