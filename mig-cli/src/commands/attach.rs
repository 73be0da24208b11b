//! `mig attach`: the terminal of a job that runs without one.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use libmig::api::{Reply, Request, Target, terminal::Role};

use super::{Daemon, unexpected};
use crate::terminal::{self, DetachKeys, Session, end, tty::Tty};

/// Connect this terminal to a job that was started with --detach or left
///
/// Shows what the job wrote last, then what it writes; exits as the job does. With the detach
/// keys (ctrl-] and then d) or without this terminal the job runs on.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The job, by ID, name or process
    job: Target,
    /// Keys that leave the job running: ctrl-X or single characters, by commas; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-],d")]
    detach_keys: DetachKeys,
    #[command(flatten)]
    daemon: Daemon,
}

/// Attaches.
pub(crate) fn run(args: &AttachArgs) -> Result<u8> {
    let Some(tty) = Tty::find() else {
        bail!("mig attach needs a terminal");
    };
    let request = Request::Attach {
        target: args.job.clone(),
    };
    let reply = match args.daemon.connect()?.ask(&request, |_| {})? {
        Reply::Exec(reply) => reply,
        other => return unexpected(&other),
    };
    let session = Session::connect(
        Path::new(&reply.attach),
        Role::Attach,
        terminal::block_signals()?,
        Some(tty),
        true,
        args.detach_keys.clone(),
    )?;
    Ok(end::report(&session.run()?, &reply.job))
}
