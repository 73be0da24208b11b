//! `mig move` for a job of a lab, whatever program it is: once, or again and again.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::job::MoveReport;
use crate::lab::Lab;

/// `mig move`: the job cannot move; the obstacles are named (docs/exit-codes.md).
const REFUSED: i32 = 3;

/// How long obstacles that pass by themselves may take to do so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Moves one job, which was started on `home`.
#[derive(Debug, Clone)]
pub struct Mover<'a> {
    lab: &'a Lab,
    home: String,
    name: String,
    ahead: bool,
}

impl<'a> Mover<'a> {
    /// For the job of this name; it need not run yet.
    #[must_use]
    pub fn new(lab: &'a Lab, home: &str, name: &str) -> Self {
        Self {
            lab,
            home: home.to_owned(),
            name: name.to_owned(),
            ahead: true,
        }
    }

    /// For a large program that is to move often: nothing of it is sent ahead.
    #[must_use]
    pub fn when_stopped(mut self) -> Self {
        self.ahead = false;
        self
    }

    /// Waits until the job runs.
    ///
    /// # Panics
    /// When it does not within ten seconds.
    pub fn wait_started(&self) {
        let what = format!("job {} runs", self.name);
        crate::lab::eventually(&what, || self.node().is_ok());
    }

    /// `mig move` to `node`, whatever comes of it. Small jobs are sent when they stand still;
    /// so that both ways are gone, to n2 every job is sent ahead.
    #[must_use]
    pub fn try_move(&self, node: &str) -> Output {
        let home = self.lab.node(&self.home);
        let mode = if self.ahead && node == "n2" {
            "precopy"
        } else {
            "auto"
        };
        home.mig(&["move", "--json", "--mode", mode, &self.name, node])
    }

    /// Moves it, and checks what the report says.
    ///
    /// # Errors
    /// The job did not move; the message says why.
    pub fn move_to(&self, node: &str) -> Result<MoveReport> {
        let output = self.try_move(node);
        if !output.status.success() {
            bail!("mig move {} {node}: {}", self.name, complaint(&output));
        }
        report(&output, node)
    }

    /// Moves it along `nodes`, round and round, `count` times or until `has_ended` says that the program is at its end.
    /// Only obstacles that pass by themselves are waited for.
    ///
    /// # Errors
    /// It did not move although it runs.
    pub fn keep_moving(
        &self,
        nodes: &[&str],
        count: usize,
        has_ended: impl Fn() -> bool,
    ) -> Result<Vec<MoveReport>> {
        let mut reports = Vec::new();
        for node in nodes.iter().cycle().take(count) {
            let Some(report) = self.once_it_can(node, &has_ended)? else {
                break;
            };
            reports.push(report);
        }
        Ok(reports)
    }

    /// Moves it as soon as nothing is in the way; nothing when the program has ended.
    fn once_it_can(&self, node: &str, has_ended: &impl Fn() -> bool) -> Result<Option<MoveReport>> {
        let start = Instant::now();
        loop {
            if has_ended() {
                return Ok(None);
            }
            let output = self.try_move(node);
            if output.status.success() {
                return report(&output, node).map(Some);
            }
            let passing = output.status.code() == Some(REFUSED) && passes_by_itself(&output);
            if passing && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            // A program that ends under way cannot be moved; its `mig exec` ends a moment later.
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline {
                if has_ended() {
                    return Ok(None);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            bail!("mig move {} {node}: {}", self.name, complaint(&output));
        }
    }

    /// The node where the job is, as its home says.
    ///
    /// # Errors
    /// There is no such job.
    pub fn node(&self) -> Result<String> {
        let output = self.lab.node(&self.home).mig(&["ps", "--all", "--json"]);
        let jobs: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let job = jobs.iter().find(|job| job["name"] == self.name.as_str());
        let node = job
            .and_then(|job| job["node"].as_str())
            .context("no such job in mig ps")?;
        Ok(node.to_owned())
    }
}

fn report(output: &Output, node: &str) -> Result<MoveReport> {
    let report: MoveReport = serde_json::from_slice(&output.stdout)?;
    ensure!(report.to == node, "it says that it went to {}", report.to);
    let plausible = report.pause_us > 0 && report.pause_us <= report.total_us;
    ensure!(plausible, "{report:?}");
    Ok(report)
}

/// Whether every obstacle in a refusal is of the passing kind.
fn passes_by_itself(refusal: &Output) -> bool {
    let text = String::from_utf8_lossy(&refusal.stderr);
    let obstacles = || text.lines().filter(|line| line.starts_with("  - "));
    let passes = |line: &str| line.ends_with("(passes by itself)");
    obstacles().count() > 0 && obstacles().all(passes)
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    format!("{text}({})", output.status)
}
