//! `mig demo`: what mig does, shown on this machine in less than a minute.

use std::{
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::SigSet;

use crate::{
    demo::{self, Stage},
    lab::{Lab, LabName, down, proxy, up},
};

/// Show what mig does, on this machine, in less than a minute
///
/// Makes a cluster of three nodes, moves a program between them while it works, lets jobs spread by
/// themselves, and removes everything again. Needs root and python3. Ends with 0 only if all of
/// that really happened.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[arg(long, hide = true)]
    internal_play: Option<LabName>,
}

/// Runs `mig demo`.
///
/// The play is a process of its own, so that the lab is removed whatever becomes of it.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    let stage = Stage::new();
    if let Some(name) = &args.internal_play {
        return play(&Lab::new(name.clone()), &stage);
    }
    let start = Instant::now();
    let name = format!("demo-{}", std::process::id());
    let lab = Lab::new(name.parse().map_err(anyhow::Error::msg)?);
    let signals = proxy::block_signals()?;
    let child = Command::new("/proc/self/exe")
        .args(["demo", "--internal-play", &name])
        .stdin(Stdio::null())
        .spawn()
        .context("start the play")?;
    let code = proxy::accompany(child, &signals, None)?;
    let there_was_one = down::run(&lab).context("remove the demo's lab")?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    if !there_was_one {
        bail!("the demo's lab was gone before its end");
    }
    stage.act("Cleaning up");
    stage.check("nothing of the lab is left", "");
    let took = start.elapsed().as_secs_f64();
    stage.title("All of it happened", &format!("in {took:.0} s"));
    Ok(ExitCode::SUCCESS)
}

fn play(lab: &Lab, stage: &Stage) -> Result<ExitCode> {
    // The parent has blocked what it forwards.
    SigSet::empty()
        .thread_set_mask()
        .context("unblock signals")?;
    demo::play(lab, stage).map_err(|error| {
        stage.clear();
        let logs = up::log_tails(lab, 3);
        if logs.is_empty() {
            error
        } else {
            error.context(format!("the demo failed{logs}"))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
