//! A workload as a job in a lab: started with `mig exec`, moved with `mig move`.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lab::{Lab, SHARED};
use crate::mover::Mover;
use crate::workload::{Outcome, Running, Workload, build};

/// `mig move --json`.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in docs/json.md")]
pub struct MoveReport {
    pub job: String,
    pub from: String,
    pub to: String,
    pub mode: String,
    pub pause_us: u64,
    pub total_us: u64,
    pub bytes_sent: u64,
    pub phases: std::collections::BTreeMap<String, u64>,
}

/// A job whose `mig exec` runs on a node of a lab.
#[derive(Debug)]
pub struct Job<'a> {
    mover: Mover<'a>,
    /// What it says.
    pub running: Running,
}

impl<'a> Job<'a> {
    /// Starts a workload as a job called `name` on `home`, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or fails before it is ready.
    pub fn start(lab: &'a Lab, home: &str, name: &str, workload: &Workload) -> Result<Self> {
        let dir = format!("{SHARED}/{name}");
        ensure!(
            lab.node(home).run(&["mkdir", "-p", &dir]).status.success(),
            "making {dir}"
        );
        let argv = workload.argv(&build(workload)?, Path::new(&dir));
        let job = Self::start_argv(lab, home, name, &argv)?;
        job.running.wait_ready()?;
        Ok(job)
    }

    /// Restores a job of that name from a checkpoint, and follows it as `mig exec` does.
    ///
    /// # Errors
    /// `mig` cannot be started. A job that does not come is seen when something is waited for.
    pub fn restore(lab: &'a Lab, home: &str, name: &str, args: &[&str]) -> Result<Self> {
        let argv: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        Self::launch(lab, home, name, &["mig", "restore"], &argv)
    }

    /// Starts any program that speaks the workload protocol.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_argv(lab: &'a Lab, home: &str, name: &str, argv: &[String]) -> Result<Self> {
        Self::start_with(lab, home, name, &[], argv)
    }

    /// The same, with these options of `mig exec`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(
        lab: &'a Lab,
        home: &str,
        name: &str,
        options: &[&str],
        argv: &[String],
    ) -> Result<Self> {
        let command = [&["mig", "exec", "--name", name], options, &["--"]].concat();
        Self::launch(lab, home, name, &command, argv)
    }

    fn launch(
        lab: &'a Lab,
        home: &str,
        name: &str,
        command: &[&str],
        argv: &[String],
    ) -> Result<Self> {
        let running = Running::launch(argv, |argv| {
            let mut command = lab.node(home).command(command);
            command
                .args(argv)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Where the test's own goes may be a file that the other nodes do not have.
                .stderr(Stdio::piped());
            Ok(command.spawn()?)
        })?;
        Ok(Self {
            mover: Mover::new(lab, home, name),
            running,
        })
    }

    /// `mig move` to `node`, whatever comes of it.
    #[must_use]
    pub fn try_move(&self, node: &str) -> Output {
        self.mover.try_move(node)
    }

    /// Moves it, and checks what the report says.
    ///
    /// # Errors
    /// The job did not move; the message says why.
    pub fn move_to(&self, node: &str) -> Result<MoveReport> {
        self.mover.move_to(node)
    }

    /// Moves it along `nodes`, and waits for `ticks` ticks at each stop.
    ///
    /// # Errors
    /// A move failed, or the program found something amiss.
    pub fn tour(&self, nodes: &[&str], ticks: u64) -> Result<Vec<MoveReport>> {
        let mut reports = Vec::new();
        for node in nodes {
            let before = self.running.ticks();
            reports.push(self.move_to(node)?);
            let mut seen = self
                .running
                .wait_tick_after(before)
                .with_context(|| format!("on {node}"))?;
            for _ in 1..ticks {
                seen = self
                    .running
                    .wait_tick_after(seen)
                    .with_context(|| format!("on {node}"))?;
            }
        }
        Ok(reports)
    }

    /// The node where the job is, as its home says.
    ///
    /// # Errors
    /// There is no such job.
    pub fn node(&self) -> Result<String> {
        self.mover.node()
    }

    /// Ends it, and returns its verdict.
    ///
    /// # Errors
    /// It does not end.
    pub fn finish(self) -> Result<Outcome> {
        self.running.finish()
    }
}
