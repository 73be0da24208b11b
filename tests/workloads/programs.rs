//! The real programs, unmoved: two runs give the same result, and a damaged one is noticed.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mig_tests::programs::{ENOUGH, Program};
use nix::pty::openpty;

/// Runs it where it has been set up, with pipes.
fn run(program: Program, directory: &Path) -> Result<Vec<u8>> {
    let argv = program.argv(directory);
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null());
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {argv:?}"))?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(output.stdout)
}

/// Runs an interactive one in a session with a terminal of its own, and types its input.
fn run_in_a_terminal(program: Program, directory: &Path) -> Result<Vec<u8>> {
    let pty = openpty(None, None)?;
    let slave = || pty.slave.try_clone().map(Stdio::from);
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "--wait"])
        .args(program.argv(directory));
    let mut child = command
        .stdin(slave()?)
        .stdout(slave()?)
        .stderr(slave()?)
        .spawn()?;
    drop((command, pty.slave));
    let mut master = fs::File::from(pty.master);
    master.write_all(program.input.as_bytes())?;
    let mut output = Vec::new();
    // EIO is how a terminal tells that nobody has it open any more.
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = master.read(&mut bytes) {
        output.extend_from_slice(&bytes[..length]);
    }
    let status = child.wait()?;
    ensure!(
        status.code() == Some(7),
        "{status}: {}",
        String::from_utf8_lossy(&output)
    );
    Ok(output)
}

fn result(program: Program) -> Result<(Vec<u8>, Duration)> {
    let directory = tempfile::tempdir()?;
    program.set_up(directory.path())?;
    if program.until_told {
        fs::write(directory.path().join(ENOUGH), "")?;
    }
    let start = Instant::now();
    let run = if program.terminal {
        run_in_a_terminal
    } else {
        run
    };
    let stdout = run(program, directory.path())?;
    let took = start.elapsed();
    Ok((program.result(directory.path(), &stdout)?, took))
}

#[test]
fn real_programs_repeat_their_results() {
    crate::for_all(Program::all(), |program| {
        let (first, took) = result(*program)?;
        let (second, _) = result(*program)?;
        println!(
            "{}: {took:?}, {} bytes of result",
            program.name,
            first.len()
        );
        ensure!(first == second, "two runs differ");
        Ok(())
    });
}

#[test]
fn a_damaged_result_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("text"), "one thing").unwrap();
    fs::write(at.join("text.xz"), "another").unwrap();
    fs::write(
        at.join("result.db"),
        "no database, but long enough to be read as one".repeat(99),
    )
    .unwrap();
    fs::write(at.join("pipelines.out"), "half of it\n").unwrap();
    fs::write(at.join("large.o"), "").unwrap();
    for name in ["xz", "sqlite3", "bash-pipelines", "gcc", "bash-interactive"] {
        assert!(
            Program::named(name).result(at, b"sum-55\r\n").is_err(),
            "{name}"
        );
    }
}
