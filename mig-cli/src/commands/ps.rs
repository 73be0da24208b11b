//! `mig ps`: the jobs of the cluster.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use libmig::api::{JobInfo, JobState, Reply, Request};

use super::{Daemon, unexpected};
use crate::ui::table::Table;
use crate::ui::{self, human};

/// List jobs
///
/// Your own jobs on all nodes that answer; root sees those of everybody.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Jobs of all users
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Lists them.
pub(crate) fn run(args: &PsArgs) -> Result<u8> {
    let all = args.all || rustix::process::getuid().is_root();
    let jobs = match args.daemon.connect()?.ask(&Request::Ps { all }, |_| {})? {
        Reply::Jobs(jobs) => jobs,
        other => return unexpected(&other),
    };
    if args.json {
        ui::json(&jobs)?;
    } else {
        ui::line(&table(&jobs))?;
    }
    Ok(crate::exit::OK)
}

fn table(jobs: &[JobInfo]) -> String {
    let header = [
        "JOB", "NAME", "USER", "NODE", "HOME", "STATE", "CPU", "MEMORY", "AGE", "COMMAND",
    ];
    let mut table = Table::new(header);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    for job in jobs {
        table.row([
            job.job.to_string(),
            job.name.clone().unwrap_or_else(unknown),
            job.user.clone(),
            job.node.to_string(),
            job.home.to_string(),
            state(job),
            job.cpu
                .map_or_else(unknown, |cpu| format!("{:.0}%", cpu * 100.0)),
            job.memory_bytes.map_or_else(unknown, human::bytes),
            human::age(now.saturating_sub(job.started_unix)),
            job.command.clone(),
        ]);
    }
    table.render()
}

fn unknown() -> String {
    "-".to_owned()
}

fn state(job: &JobInfo) -> String {
    let state = match job.state {
        JobState::Running => "running",
        JobState::Stopped => "stopped",
        JobState::Moving => "moving",
        JobState::Unreachable => "unreachable",
        JobState::Exited => "exited",
    };
    let mut state = state.to_owned();
    if job.pinned {
        state.push_str(",pinned");
    }
    if let Some(level) = job.cpu_level {
        state = format!("{state},{level}");
    }
    state
}
