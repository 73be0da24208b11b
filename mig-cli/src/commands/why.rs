//! `mig why`: can it move, and if not, why not?

use anyhow::Result;
use clap::Args;
use libmig::api::{NodeName, Reply, Request, Target, WhyReport};

use super::{Daemon, unexpected};
use crate::{exit, ui};

/// Say what stands in the way of a move
///
/// Every obstacle is named: the object, the reason, and what to do about it.
/// Exits with 3 if there is any.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The job, by ID or name, or any process
    #[arg(value_name = "JOB|PID")]
    job: Target,
    /// A node that it should go to
    node: Option<NodeName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Asks and prints.
pub(crate) fn run(args: &WhyArgs) -> Result<u8> {
    let request = Request::Why {
        target: args.job.clone(),
        to: args.node.clone(),
    };
    let report = match args.daemon.connect()?.ask(&request, |_| {})? {
        Reply::Why(report) => report,
        other => return unexpected(&other),
    };
    if args.json {
        ui::json(&report)?;
    } else {
        ui::line(text(&args.job, &report).trim_end())?;
    }
    Ok(if report.movable {
        exit::OK
    } else {
        exit::REFUSED
    })
}

fn text(asked: &Target, report: &WhyReport) -> String {
    let what = report
        .job
        .as_ref()
        .map_or_else(|| asked.to_string(), ToString::to_string);
    let to = report
        .to
        .as_ref()
        .map_or_else(String::new, |to| format!(" to {to}"));
    let kept = report
        .cpu_level
        .map_or_else(String::new, |level| format!(" (it keeps to {level})"));
    if report.movable {
        return format!("{what} can move from {}{to}{kept}\n", report.from);
    }
    let mut text = format!("{what} cannot move from {}{to}{kept}:\n", report.from);
    for obstacle in &report.obstacles {
        text.push_str(&ui::error::obstacle(obstacle));
    }
    text
}
