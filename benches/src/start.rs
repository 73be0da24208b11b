//! What `mig exec` adds to the start and the end of a program.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mig_tests::lab::Lab;
use serde::{Deserialize, Serialize};

use crate::figures::{Spread, Start};

/// Both, in turns, in microseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Samples {
    direct: Vec<u64>,
    mig_exec: Vec<u64>,
}

/// The argument with which this program measures on the node where it runs.
pub const INSIDE: &str = "--inside-start";

/// Measures on a node of the lab, by this program itself.
///
/// # Errors
/// A program could not be started or failed.
pub fn measure(lab: &Lab, count: usize) -> Result<Start> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let output = lab.node("n1").run(&[&own, INSIDE, &count.to_string()]);
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let samples: Samples = serde_json::from_slice(&output.stdout)?;
    const NONE: &str = "nothing was measured";
    Ok(Start {
        direct_us: Spread::of(samples.direct).context(NONE)?,
        mig_exec_us: Spread::of(samples.mig_exec).context(NONE)?,
    })
}

/// On the node: prints the samples.
///
/// # Errors
/// As [`measure`].
pub fn inside(count: usize) -> Result<()> {
    let mut samples = Samples {
        direct: Vec::new(),
        mig_exec: Vec::new(),
    };
    run(&["mig", "exec", "--", "/bin/true"])?;
    for _ in 0..count {
        let micros = crate::figures::micros;
        samples.direct.push(micros(run(&["/bin/true"])?));
        let under_mig = run(&["mig", "exec", "--", "/bin/true"])?;
        samples.mig_exec.push(micros(under_mig));
    }
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

fn run(argv: &[&str]) -> Result<Duration> {
    let begin = Instant::now();
    let status = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {argv:?}"))?;
    ensure!(status.success(), "{argv:?}: {status}");
    Ok(begin.elapsed())
}
