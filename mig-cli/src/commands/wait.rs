//! `mig wait`: until a job has ended.

use anyhow::Result;
use clap::Args;
use libmig::api::{Reply, Request, Target};

use super::{Daemon, unexpected};
use crate::ui;

/// Wait until a job ends, and exit as it did
///
/// With its exit code, or 128 + the signal that killed it. The codes of the
/// last 1000 jobs of a day are remembered.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The job, by ID or name
    job: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Waits.
pub(crate) fn run(args: &WaitArgs) -> Result<u8> {
    let request = Request::Wait {
        target: args.job.clone(),
    };
    let exit = match args.daemon.connect()?.ask(&request, |_| {})? {
        Reply::Exited(exit) => exit,
        other => return unexpected(&other),
    };
    if args.json {
        ui::json(&exit)?;
    }
    Ok(u8::try_from(exit.status.shell_code()).unwrap_or(crate::exit::FAILED))
}
