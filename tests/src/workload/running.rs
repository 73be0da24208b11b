//! A workload that runs: a thread reads its lines, and the test waits for what they say.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::huge_pages::HugePages;

/// How long a program may take to say what it is waited for. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Seen {
    ready: bool,
    ticks: u64,
    passed: bool,
    failure: Option<String>,
    gap: Option<Duration>,
    ended: bool,
    output: Vec<String>,
}

impl Seen {
    fn take(&mut self, line: String) {
        if line == "ready" {
            self.ready = true;
        } else if line == "PASS" {
            self.passed = true;
        } else if let Some(tick) = line.strip_prefix("tick ") {
            self.ticks = tick.parse().unwrap_or(self.ticks);
            return;
        } else if let Some(what) = line.strip_prefix("FAIL: ") {
            self.failure.get_or_insert_with(|| what.to_owned());
        } else if let Some(micros) = line.strip_prefix("gap_us ") {
            self.gap = micros.parse().ok().map(Duration::from_micros);
        }
        self.output.push(line);
    }
}

/// How a workload ended.
#[derive(Debug)]
pub struct Outcome {
    /// Of the process that the launcher returned.
    pub status: ExitStatus,
    /// The text of the first `FAIL:` line.
    pub failure: Option<String>,
    /// Whether it printed `PASS`.
    pub passed: bool,
    /// The largest gap that it saw between two looks at the real-time clock.
    pub gap: Option<Duration>,
    /// Number of the last tick.
    pub ticks: u64,
    /// Its lines, but for the ticks.
    pub output: Vec<String>,
}

impl Outcome {
    /// Fails with what the program said unless it passed.
    ///
    /// # Errors
    /// It failed, or ended without a verdict.
    pub fn expect_pass(&self) -> Result<()> {
        if let Some(what) = &self.failure {
            bail!("the program found: {what}");
        }
        ensure!(
            self.passed && self.status.success(),
            "no PASS, {}; it said {:?}",
            self.status,
            self.output
        );
        Ok(())
    }
}

/// A program that speaks the workload protocol, from its start to its end. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    reader: Option<JoinHandle<()>>,
    _huge_pages: Option<HugePages>,
}

impl Running {
    /// Starts `argv` by `launcher`, which returns a child whose stdin and stdout are pipes.
    ///
    /// # Errors
    /// The launcher's, or a pipe is missing.
    pub fn launch(
        argv: &[String],
        launcher: impl FnOnce(&[String]) -> Result<Child>,
    ) -> Result<Self> {
        let wants_huge_pages = argv.iter().any(|word| word.contains("/hugepages-"));
        let huge_pages = wants_huge_pages.then(HugePages::borrow).transpose()?;
        let mut child = launcher(argv).with_context(|| format!("starting {argv:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .context("the launcher must pipe stdout")?;
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    eprintln!("{line}");
                }
            });
        }
        let seen = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
        let shared = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lock(&shared).take(line);
                shared.1.notify_all();
            }
            lock(&shared).ended = true;
            shared.1.notify_all();
        });
        Ok(Self {
            child,
            stdin,
            seen,
            reader: Some(reader),
            _huge_pages: huge_pages,
        })
    }

    /// Starts `argv` as a plain child.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(argv: &[String]) -> Result<Self> {
        Self::launch(argv, |argv| {
            let mut command = Command::new(&argv[0]);
            Ok(command
                .args(&argv[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?)
        })
    }

    /// Process ID of the child that the launcher returned.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Number of the last tick seen.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        lock(&self.seen).ticks
    }

    /// Waits until the state is set up.
    ///
    /// # Errors
    /// It failed, ended, or took too long.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_for("ready", |seen| seen.ready).map(drop)
    }

    /// Waits for a tick later than number `tick`, and returns its number.
    ///
    /// # Errors
    /// As [`Running::wait_ready`].
    pub fn wait_tick_after(&self, tick: u64) -> Result<u64> {
        self.wait_for("a tick", |seen| seen.ticks > tick)
    }

    /// Tells it to stop, and waits for its verdict and its end.
    ///
    /// # Errors
    /// It does not end. A `FAIL` is no error here but part of the outcome.
    pub fn finish(mut self) -> Result<Outcome> {
        if let Some(mut stdin) = self.stdin.take() {
            // A program that has failed already is not there to read it.
            let told = stdin.write_all(b"stop\n");
            if let Err(error) = told.and_then(|()| stdin.flush())
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                return Err(error).context("telling the workload to stop");
            }
            self.outcome(Some(stdin))
        } else {
            self.outcome(None)
        }
    }

    /// Waits for its end without telling it anything: for a program that is expected to fail.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait_end(mut self) -> Result<Outcome> {
        let stdin = self.stdin.take();
        self.outcome(stdin)
    }

    /// `stdin` stays open until the end: its end of file is no order, but some launchers would forward it.
    fn outcome(&mut self, stdin: Option<ChildStdin>) -> Result<Outcome> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < deadline,
                "it did not end in {PATIENCE:?}; {:?}",
                lock(&self.seen).output
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        drop(stdin);
        // Children of the program may hold its stdout a moment longer; the verdict is there before.
        let (mutex, changed) = &*self.seen;
        let guard = mutex
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let judged = |seen: &mut Seen| !(seen.ended || seen.passed || seen.failure.is_some());
        let (mut seen, _) = changed
            .wait_timeout_while(guard, PATIENCE, judged)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Outcome {
            status,
            failure: seen.failure.take(),
            passed: seen.passed,
            gap: seen.gap,
            ticks: seen.ticks,
            output: std::mem::take(&mut seen.output),
        })
    }

    fn wait_for(&self, what: &str, mut there: impl FnMut(&Seen) -> bool) -> Result<u64> {
        let (mutex, changed) = &*self.seen;
        let guard = mutex
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let waiting = |seen: &mut Seen| !there(seen) && seen.failure.is_none() && !seen.ended;
        let (seen, timeout) = changed
            .wait_timeout_while(guard, PATIENCE, waiting)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(failure) = &seen.failure {
            bail!("while waiting for {what}, the program found: {failure}");
        }
        ensure!(
            !timeout.timed_out(),
            "no {what} in {PATIENCE:?}; it said {:?}",
            seen.output
        );
        ensure!(
            !seen.ended || there(&seen),
            "it ended before {what}; it said {:?}",
            seen.output
        );
        Ok(seen.ticks)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // The reader ends with the last holder of the pipe; nobody waits for it.
        drop(self.reader.take());
    }
}

fn lock(seen: &(Mutex<Seen>, Condvar)) -> MutexGuard<'_, Seen> {
    seen.0
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
