//! A program with threads is moved from node to node while it works, and finds what it finds unmoved.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use libmig::api::MoveReport;

use super::{
    NODES, Node, Stage,
    node::eventually,
    text::{self, LENGTH},
};
use crate::{lab::Lab, ui::human};

const PROGRAM: &str = "/shared/words.py";
const TEXT: &str = "/shared/text";
const THREADS: &str = "4";
const JOB: &str = "words";
/// Where it goes, and how far (of 100) it has come when it is sent off.
const LEGS: [(&str, u64); 3] = [("n2", 15), ("n3", 40), ("n1", 65)];
/// Lines that must come from a node before the program is sent on.
const LINES_PER_STAY: usize = 3;
/// No line for that long means that the program is dead.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays the act.
pub(super) fn play(lab: &Lab, stage: &Stage, python: &Path) -> Result<()> {
    let home = Node::new(lab, "n1");
    let megabytes = LENGTH >> 20;
    stage.act(&format!(
        "A Python program reads {megabytes} MB with {THREADS} threads"
    ));
    home.write(PROGRAM, |out| out.write_all(include_bytes!("words.py")))?;
    home.write(TEXT, |mut out| text::write(&mut out))?;
    let python = python.to_string_lossy();
    let program = [python.as_ref(), PROGRAM, TEXT, THREADS];

    let start = Instant::now();
    let mut unmoved = Run::start(&home, &program)?;
    unmoved.follow(stage, "n1, alone", |_, _| Ok(()))?;
    let expected = unmoved.finish()?;
    stage.check(
        "alone on n1 it finds",
        &format!("{:.1} s", start.elapsed().as_secs_f64()),
    );
    stage.note(&expected);

    stage.act("The same under mig exec, moved while it works");
    let (result, silence) = travel(&home, stage, &program)?;
    stage.check(
        "its output came all the time",
        &format!("longest silence {} ms", silence.as_millis()),
    );
    ensure!(
        result == expected,
        "the moved program found something else:\n  unmoved: {expected}\n  moved:   {result}"
    );
    stage.check("it finds the same", "");
    stage.note(&result);
    Ok(())
}

/// Runs the program under `mig exec` and sends it around; its result, and the longest silence.
fn travel(home: &Node<'_>, stage: &Stage, program: &[&str]) -> Result<(String, Duration)> {
    let exec = ["mig", "exec", "--name", JOB, "--pin", "--"];
    let mut run = Run::start(home, &[&exec[..], program].concat())?;
    let mut legs = LEGS.iter();
    let mut next = legs.next();
    let mut here = "n1";
    let mut lines = 0;
    run.follow(stage, "on its way", |run, percent| {
        lines += 1;
        let Some(&(to, from_percent)) = next else {
            return Ok(());
        };
        if percent < from_percent || lines < LINES_PER_STAY {
            return Ok(());
        }
        let report = send(home, here, to)?;
        stage.check(
            &format!("{here} → {to}"),
            &format!(
                "paused {}, {} sent in {}",
                human::micros(report.pause_us),
                human::bytes(report.bytes_sent),
                human::micros(report.total_us)
            ),
        );
        (here, next, lines) = (to, legs.next(), 0);
        run.place = to;
        Ok(())
    })?;
    let silence = run.longest_silence;
    let result = run.finish()?;
    ensure!(
        next.is_none() && lines >= LINES_PER_STAY,
        "the program ended on {here}, before its journey did: this machine is too fast for the demo"
    );
    Ok((result, silence))
}

/// Moves the job and looks where it is.
fn send(home: &Node<'_>, from: &str, to: &str) -> Result<MoveReport> {
    let report: MoveReport = home.json(&["mig", "move", JOB, to, "--json"])?;
    ensure!(
        report.from.to_string() == from && report.to.to_string() == to,
        "mig move says {} -> {} instead of {from} -> {to}",
        report.from,
        report.to
    );
    let place = home.job(JOB)?.node.to_string();
    ensure!(
        place == to,
        "mig ps says that the job is on {place} instead of {to}"
    );
    ensure!(
        Node::new(home.lab, to).runs(PROGRAM)?,
        "the program does not run on {to}"
    );
    for other in NODES.into_iter().filter(|&other| other != to) {
        eventually(
            &format!("nothing of it is left on {other}"),
            Duration::from_secs(5),
            || Ok(!Node::new(home.lab, other).runs(PROGRAM)?),
        )?;
    }
    Ok(report)
}

/// A running program whose lines are read as they come, whatever else happens.
struct Run {
    child: Child,
    lines: Receiver<(Instant, String)>,
    last: Instant,
    longest_silence: Duration,
    result: Option<String>,
    /// Where it runs, for the line on the stage.
    place: &'static str,
}

impl Run {
    fn start(node: &Node<'_>, arguments: &[&str]) -> Result<Self> {
        let mut command = node.command(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            // Ours may be a file of this machine, which the other nodes do not have.
            .stderr(Stdio::piped())
            .spawn()
            .context("start mig")?;
        let mut stderr = child.stderr.take().context("a pipe that is not there")?;
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        let stdout = child.stdout.take().context("a pipe that is not there")?;
        let (sender, lines) = mpsc::channel();
        // The thread ends with the program's output.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            last: Instant::now(),
            longest_silence: Duration::ZERO,
            result: None,
            place: "n1",
        })
    }

    /// Shows the lines until the last, and calls `at` with the percentage of each.
    fn follow(
        &mut self,
        stage: &Stage,
        what: &str,
        mut at: impl FnMut(&mut Self, u64) -> Result<()>,
    ) -> Result<()> {
        let mut first = true;
        for count in 0.. {
            let (time, line) = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the program said nothing for {} s", PATIENCE.as_secs())
                }
            };
            // From its start to its first line a program may take its time.
            if !first {
                self.longest_silence = self.longest_silence.max(time - self.last);
            }
            (self.last, first) = (time, false);
            if let Some(result) = line.strip_prefix("result ") {
                self.result = Some(result.to_owned());
            } else if let Some(percent) = percent_of(&line) {
                let bar = Stage::bar(percent as f64 / 100.0);
                stage.now(
                    &format!("{}  {bar} {percent:>3} %  {what}", self.place),
                    count % 8 == 0,
                );
                at(self, percent)?;
            }
        }
        stage.clear();
        Ok(())
    }

    /// What it found, once it has ended well.
    fn finish(mut self) -> Result<String> {
        let status = self.child.wait().context("wait for the program")?;
        ensure!(status.success(), "the program failed: {status}");
        self.result
            .take()
            .context("the program ended without a result")
    }
}

/// Of `progress DONE ALL`.
fn percent_of(line: &str) -> Option<u64> {
    let (done, all) = line.strip_prefix("progress ")?.split_once(' ')?;
    let (done, all): (u64, u64) = (done.parse().ok()?, all.parse().ok()?);
    (100 * done).checked_div(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        assert_eq!(percent_of("progress 5 10"), Some(50));
        for other in ["progress 5 0", "progress 5", "result 5 10", "progress x 10"] {
            assert_eq!(percent_of(other), None, "{other}");
        }
    }
}
