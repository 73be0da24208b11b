//! What the first process of a job becomes that was moved without `mig exec`: the
//! same as `mig exec`, in a process that has been another program.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use libmig::api::{place::forget_the_past, terminal::Role};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::exec::{let_go_of_pipes, takes_keyboard};
use crate::{
    exit,
    terminal::{self, Session, end, tty::Tty},
    ui,
};

/// Stands in the place of a process that has moved
#[derive(Debug, Args)]
pub(crate) struct AdoptedArgs {
    /// Pending signals that the job has taken along, as a mask
    #[arg(long)]
    taken: u64,
    /// The program was stopped: this process has been continued to get here
    #[arg(long)]
    stopped: bool,
    /// The job's socket
    attach: PathBuf,
    /// The job
    job: String,
}

/// Follows the job, and exits as it does.
pub(crate) fn run(args: &AdoptedArgs) -> Result<u8> {
    Ok(match follow(args) {
        Ok(code) => code,
        Err(error) => {
            ui::error::print(&error);
            exit::EXEC_FAILED
        }
    })
}

fn follow(args: &AdoptedArgs) -> Result<u8> {
    forget_the_past(args.taken)?;
    reap();
    let signals = terminal::block_only_signals()?;
    let tty = Tty::find();
    let foreground = takes_keyboard(tty.as_ref());
    let mut session = Session::connect(
        &args.attach,
        Role::Exec,
        signals,
        tty,
        foreground,
        "ctrl-],d".parse()?,
    )?;
    session.tell_window();
    if args.stopped {
        session.go_on()?;
    }
    let_go_of_pipes()?;
    Ok(end::report(&session.run()?, &args.job))
}

/// Children of the program that this process has been: those that had ended when it left,
/// and those that were ended then.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
