//! `mig restore`: a job from a checkpoint.
//!
//! The file is opened here, with the rights of the caller, and the daemon gets
//! descriptors: of the file, and of what the job is to have for standard
//! streams that were pipes. Afterwards this is what `mig exec` is for a job.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;
use libmig::api::{NodeName, Reply, Request, RestoreReport, RestoreRequest, terminal::Role};

use super::{
    Daemon,
    chain::Chain,
    exec::{let_go_of_pipes, takes_keyboard},
    unexpected,
};
use crate::{
    exit,
    terminal::{
        self, DetachKeys, Session, end,
        sockets::{self, Copy, Sockets},
        tty::Tty,
    },
    ui,
};

/// Make a job of what is in a checkpoint
///
/// It goes on where it was when the checkpoint was written, under its old ID, and this
/// command stands for it as its mig exec did: standard streams that were pipes are now those of this
/// command, and it exits as the job does. A job that was started with --detach
/// has none: without a terminal here, the command prints the ID and leaves. Restoring
/// twice, or beside a job that lives, is refused unless it is to be a new job.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file that mig checkpoint has written
    file: PathBuf,
    /// Let it run on this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Make another job of it, with an ID of its own, whatever has become of the one in the file
    #[arg(long)]
    new_job: bool,
    /// A name for the job; without this it has that of the job in the file, unless it is new
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print the job's ID and leave; its standard streams that were pipes lead nowhere
    #[arg(long, short)]
    detach: bool,
    /// Print JSON, before the job has ended
    #[arg(long)]
    json: bool,
    /// Keys that leave the job running: ctrl-X or single characters, by commas; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-],d")]
    detach_keys: DetachKeys,
    #[command(flatten)]
    daemon: Daemon,
}

/// Restores it, and follows it as `mig exec` does.
pub(crate) fn run(args: &RestoreArgs) -> Result<u8> {
    let chain = Chain::open(&args.file)?;
    let header = &chain.header;
    let tty = Tty::find().filter(|_| header.terminal);
    // One that is followed by nothing but a terminal needs one.
    let detach = args.detach || (tty.is_none() && !header.piped);
    let (streams, copies) = streams(detach)?;
    let report = ask(args, detach, &chain, &streams)?;
    drop(streams);
    for lock in &report.lost_locks {
        eprintln!("mig: somebody else has a lock of the job, which runs without it: {lock}");
    }
    if args.json {
        ui::json(&report)?;
    }
    match report.attach.as_deref().filter(|_| !detach) {
        Some(attach) => follow(args, Path::new(attach), tty, copies, &report),
        None => {
            if !args.json {
                ui::line(&report.job.to_string())?;
            }
            Ok(exit::OK)
        }
    }
}

/// 0, 1 and 2 for the job, and what is to be copied for it.
fn streams(detach: bool) -> Result<([OwnedFd; 3], Vec<Copy>)> {
    if detach {
        let null = || File::options().read(true).write(true).open("/dev/null");
        return Ok(([null()?.into(), null()?.into(), null()?.into()], Vec::new()));
    }
    let (stdin, copy_in) = sockets::for_restored(0, io::stdin().as_fd())?;
    let (stdout, copy_out) = sockets::for_restored(1, io::stdout().as_fd())?;
    let (stderr, copy_err) = sockets::for_restored(2, io::stderr().as_fd())?;
    let copies = [copy_in, copy_out, copy_err];
    Ok((
        [stdin, stdout, stderr],
        copies.into_iter().flatten().collect(),
    ))
}

fn ask(
    args: &RestoreArgs,
    detach: bool,
    chain: &Chain,
    streams: &[OwnedFd; 3],
) -> Result<RestoreReport> {
    let request = Request::Restore(RestoreRequest {
        node: args.node.clone(),
        new_job: args.new_job,
        name: args.name.clone(),
        detach,
    });
    let [stdin, stdout, stderr] = streams.each_ref().map(AsFd::as_fd);
    let bases = chain.bases.iter().map(AsFd::as_fd);
    let fds = [chain.head.as_fd(), stdin, stdout, stderr].into_iter();
    let fds: Vec<_> = fds.chain(bases).collect();
    let mut daemon = args.daemon.connect()?;
    match daemon.ask_with_fds(&request, &fds, |_| {})? {
        Reply::Restored(report) => Ok(report),
        other => unexpected(&other),
    }
}

/// Follows the job, and exits as it does.
fn follow(
    args: &RestoreArgs,
    attach: &Path,
    tty: Option<Tty>,
    copies: Vec<Copy>,
    report: &RestoreReport,
) -> Result<u8> {
    let signals = terminal::block_signals()?;
    let foreground = takes_keyboard(tty.as_ref());
    let keys = args.detach_keys.clone();
    let mut session = Session::connect(attach, Role::Exec, signals, tty, foreground, keys)?;
    session.tell_window();
    let sockets = Sockets::start(copies)?;
    let_go_of_pipes()?;
    let ending = session.run()?;
    sockets.finish();
    Ok(end::report(&ending, &report.job))
}
