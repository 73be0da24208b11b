//! `mig move`: moves a job while it runs.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use clap::{Args, ValueEnum};
use libmig::api::{
    Event, MoveMode, MoveReport, MoveRequest, NodeName, Phase, Reply, Request, Target,
};

use super::{Daemon, unexpected};
use crate::ui::{self, human};

/// Move a job to another node while it runs
///
/// Waits until it runs there, and prints where it went, for how long it
/// paused and what was sent. Without a node the least loaded one is taken.
///
/// A process that is part of no job becomes one, with all processes below it. Where
/// it was started mig takes its place: with its process ID, terminal and pipes, until
/// it ends. Its user may move it, and root.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The job, by ID or name, or any process
    #[arg(value_name = "JOB|PID")]
    job: Target,
    /// Where to
    node: Option<NodeName>,
    /// How its memory travels
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// As fits
    Auto,
    /// All of it after the freeze
    Stop,
    /// Most of it while the job runs
    Precopy,
}

/// Moves it.
pub(crate) fn run(args: &MoveArgs) -> Result<u8> {
    let mode = match args.mode {
        Mode::Auto => MoveMode::Auto,
        Mode::Stop => MoveMode::Stop,
        Mode::Precopy => MoveMode::Precopy,
    };
    let request = Request::Move(MoveRequest {
        target: args.job.clone(),
        to: args.node.clone(),
        mode,
    });
    let mut progress = Progress::new();
    let answer = args
        .daemon
        .connect()?
        .ask(&request, |event| progress.show(&event));
    progress.clear();
    let report = match answer? {
        Reply::Moved(report) => report,
        other => return unexpected(&other),
    };
    if args.json {
        ui::json(&report)?;
    } else {
        ui::line(&text(&report))?;
    }
    for lock in &report.lost_locks {
        let lock = ui::printable(lock);
        eprintln!(
            "mig: {}: somebody else took a lock, the job runs without it: {lock}",
            report.job
        );
    }
    Ok(crate::exit::OK)
}

fn text(report: &MoveReport) -> String {
    format!(
        "{}: {} -> {}, paused {}, took {}, sent {}",
        report.job,
        report.from,
        report.to,
        human::micros(report.pause_us),
        human::micros(report.total_us),
        human::bytes(report.bytes_sent)
    )
}

/// One line on stderr that is written over, only on a terminal.
#[derive(Debug)]
struct Progress {
    terminal: bool,
    phase: Option<Phase>,
    shown: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            terminal: std::io::stderr().is_terminal(),
            phase: None,
            shown: false,
        }
    }

    fn show(&mut self, event: &Event) {
        if !self.terminal {
            return;
        }
        let text = match event {
            Event::Phase { job, to, phase } => {
                self.phase = Some(*phase);
                format!("{job} -> {to}: {phase}")
            }
            Event::Progress {
                job,
                bytes_sent,
                bytes_total,
            } => {
                let phase = self.phase.map_or("", Phase::name);
                let (sent, total) = (human::bytes(*bytes_sent), human::bytes(*bytes_total));
                format!("{job}: {phase} {sent} of {total}")
            }
        };
        self.shown = true;
        // A stderr that is closed changes nothing.
        drop(write!(std::io::stderr(), "\r\x1b[K{text}"));
    }

    fn clear(&mut self) {
        if self.shown {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}
