//! `mig doctor`: what this kernel and this machine can do. Asks no daemon.

use anyhow::Result;
use clap::Args;
use libmig::inspect::probe::{Examination, Status, examine};

use crate::ui::table::Table;
use crate::{exit, ui};

/// Find out what this kernel and machine can do
///
/// Tries everything that mig needs, on processes of its own. Run it as root
/// on each node. Exits with 1 if jobs cannot be moved from or to this machine.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Tries and prints.
pub(crate) fn run(args: &DoctorArgs) -> Result<u8> {
    let examination = examine();
    if args.json {
        ui::json(&examination)?;
    } else {
        ui::line(&text(&examination))?;
    }
    let missing = examination.status() == Status::Missing;
    Ok(if missing { exit::FAILED } else { exit::OK })
}

fn text(examination: &Examination) -> String {
    let mut table = Table::new(["WHAT", "STATE", "FOR", "SEEN"]);
    for finding in &examination.findings {
        table.row([
            finding.name.clone(),
            word(finding.status).to_owned(),
            finding.purpose.clone(),
            finding.detail.clone(),
        ]);
    }
    let mut text = table.render();
    for finding in &examination.findings {
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("\n\n{}: {}", finding.name, ui::printable(remedy)));
        }
    }
    let verdict = match examination.status() {
        Status::Ok => "Everything that mig needs is there.",
        Status::Degraded => "mig works here; some things are refused or slower.",
        Status::Missing => "mig cannot move jobs from or to this machine.",
    };
    text.push_str("\n\n");
    text.push_str(verdict);
    text
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Degraded => "degraded",
        Status::Missing => "missing",
    }
}
