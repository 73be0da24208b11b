//! mig: a job that goes to and fro between two nodes of a lab.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mig_tests::job::MoveReport;
use mig_tests::lab::Lab;

use crate::figures::{Moves, Spread};
use crate::program::Program;
use crate::shape::Shape;

/// One move.
struct Move {
    pause: Duration,
    total: Duration,
    report: MoveReport,
}

/// Moves a job of this shape `count` times. Nothing is measured of the first
/// move of all, for which both nodes touch their memory and files anew.
///
/// # Errors
/// A move failed, or the program found something amiss.
pub fn measure(lab: &Lab, shape: &Shape, program: &Path, count: usize) -> Result<Moves> {
    let program = program.to_string_lossy();
    let mut argv = vec!["mig", "exec", "--name", shape.name, "--", &*program];
    argv.extend(shape.arguments);
    let mut command = lab.node("n1").command(&argv);
    // Ours may be a file that no other node sees.
    command.stderr(Stdio::null());
    let mut running = Program::start(command)?;
    let mut moves = Vec::new();
    for to in ["n2", "n1"].into_iter().cycle().take(count + 1) {
        moves.push(one(lab, shape, &mut running, to)?);
    }
    running.finish()?;
    summary(&moves[1..])
}

fn one(lab: &Lab, shape: &Shape, running: &mut Program, to: &str) -> Result<Move> {
    running.gap()?;
    let begin = Instant::now();
    let output = lab.node("n1").mig(&["move", "--json", shape.name, to]);
    let total = begin.elapsed();
    ensure!(
        output.status.success(),
        "mig move {} {to}: {}",
        shape.name,
        String::from_utf8_lossy(&output.stderr)
    );
    let report: MoveReport = serde_json::from_slice(&output.stdout)?;
    let pause = running.gap()?;
    Ok(Move {
        pause,
        total,
        report,
    })
}

fn summary(moves: &[Move]) -> Result<Moves> {
    const NONE: &str = "nothing was measured";
    let reports = || moves.iter().map(|one| &one.report);
    let mut phases: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (phase, time) in reports().flat_map(|report| &report.phases) {
        phases.entry(phase.clone()).or_default().push(*time);
    }
    Ok(Moves {
        program_pause_us: Spread::of_times(moves.iter().map(|one| one.pause)).context(NONE)?,
        reported_pause_us: Spread::of(reports().map(|report| report.pause_us)),
        total_us: Spread::of_times(moves.iter().map(|one| one.total)).context(NONE)?,
        bytes: Spread::of(reports().map(|report| report.bytes_sent)).context(NONE)?,
        phases_us: phases
            .into_iter()
            .filter_map(|(phase, times)| Some((phase, Spread::of(times)?.median)))
            .collect(),
    })
}
