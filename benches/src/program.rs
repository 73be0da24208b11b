//! `downtime.c` at the other end of two pipes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A program that runs, directly or as a job. Dropped, it ends with its stdin.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started or ends before that.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut program = Self {
            stdin: child.stdin.take(),
            child,
            stdout: BufReader::new(stdout),
        };
        ensure!(
            program.line()? == "ready",
            "the program did not become ready"
        );
        Ok(program)
    }

    /// The largest gap between two of its iterations since it was asked last.
    ///
    /// # Errors
    /// When it has ended.
    pub fn gap(&mut self) -> Result<Duration> {
        let stdin = self.stdin.as_mut().context("its stdin is closed")?;
        stdin.write_all(b"?")?;
        let line = self.line()?;
        parse_gap(&line).with_context(|| format!("it said: {line}"))
    }

    /// Ends it; it checks its memory before.
    ///
    /// # Errors
    /// It found something amiss.
    pub fn finish(mut self) -> Result<()> {
        self.stdin = None;
        let verdict = self.line()?;
        let status = self.child.wait()?;
        ensure!(
            verdict == "PASS" && status.success(),
            "the program ended with {verdict:?}, {status}"
        );
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("the program ended: {}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }
}

/// The answer `gap MICROSECONDS`.
#[must_use]
pub fn parse_gap(line: &str) -> Option<Duration> {
    line.strip_prefix("gap ")?
        .parse()
        .ok()
        .map(Duration::from_micros)
}
