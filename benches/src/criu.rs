//! The peer: CRIU, dump and restore on this machine through images on a tmpfs.
//!
//! It is not the same: nothing crosses a network, nothing is encrypted, and
//! the process comes back where it was. It is the least that a move by CRIU
//! costs. CRIU keeps what it knows of the kernel on a tmpfs at /run, and asks
//! the kernel anew at every start without one: it gets one, in a mount
//! namespace of its own ([`INSIDE`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{signal, wait::waitpid},
    unistd::Pid,
};
use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use crate::figures::{Moves, Spread, micros};
use crate::program::parse_gap;

/// The argument with which this program is started in that namespace.
pub const INSIDE: &str = "--inside-criu";

/// How long a program may take to get ready or to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Without what we inherited: CRIU refuses files of another mount namespace.
const ALONE: &str = r#"
    for fd in /proc/$BASHPID/fd/*; do
        number=${fd##*/}
        if [ "$number" -gt 2 ]; then eval "exec $number>&-"; fi
    done
    exec setsid "$@"
"#;

/// A CRIU that works here.
#[derive(Debug, Clone)]
pub struct Criu {
    command: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// Dumps and restores, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Samples {
    pause_us: Vec<u64>,
    total_us: Vec<u64>,
    bytes: Vec<u64>,
}

impl Criu {
    /// `$CRIU`, or else the one in the path.
    ///
    /// # Errors
    /// Why it cannot be compared with.
    pub fn find() -> Result<Self> {
        let command: PathBuf = std::env::var_os("CRIU").unwrap_or("criu".into()).into();
        let said = Command::new(&command)
            .arg("--version")
            .output()
            .with_context(|| format!("starting {}", command.display()))?;
        let version = String::from_utf8_lossy(&said.stdout).replace('\n', " ");
        let version = version.replace("Version:", "CRIU").trim().to_owned();
        let check = Command::new(&command).arg("check").output()?;
        if !check.status.success() {
            let why = String::from_utf8_lossy(&check.stderr);
            let first = why.lines().find(|line| line.contains("Error"));
            bail!(
                "{version} does not run here: {}",
                first.unwrap_or("check fails")
            );
        }
        Ok(Self { command, version })
    }

    /// Dumps and restores `argv` `count` times.
    ///
    /// # Errors
    /// Either failed, or the program found something amiss.
    pub fn measure(&self, program: &Path, arguments: &[&str], count: usize) -> Result<Moves> {
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe()?)
            .args([INSIDE, &count.to_string()])
            .args([&self.command, program])
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("starting unshare")?;
        ensure!(output.status.success(), "CRIU: {}", output.status);
        let samples: Samples = serde_json::from_slice(&output.stdout)?;
        const NONE: &str = "nothing was measured";
        Ok(Moves {
            program_pause_us: Spread::of(samples.pause_us).context(NONE)?,
            reported_pause_us: None,
            total_us: Spread::of(samples.total_us).context(NONE)?,
            bytes: Spread::of(samples.bytes).context(NONE)?,
            phases_us: Default::default(),
        })
    }
}

/// In the namespace: prints the samples. The first round is not measured.
///
/// # Errors
/// As [`Criu::measure`].
pub fn inside(count: usize, criu: &Path, argv: &[String]) -> Result<()> {
    rustix::mount::mount("none", "/run", "tmpfs", MountFlags::empty(), None)
        .context("mounting a tmpfs")?;
    // What is restored is to be ours, so that we can wait for it.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let session = Session::start(criu, argv)?;
    let mut samples = Samples::default();
    for round in 0..=count {
        session.gap()?;
        let begin = Instant::now();
        let bytes = session.dump_and_restore(round)?;
        let total = begin.elapsed();
        let pause = session.gap()?;
        if round > 0 {
            samples.pause_us.push(micros(pause));
            samples.total_us.push(micros(total));
            samples.bytes.push(bytes);
        }
    }
    session.finish()?;
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

struct Session<'a> {
    criu: &'a Path,
    folder: PathBuf,
    program: Pid,
}

impl<'a> Session<'a> {
    /// The program in a session of its own, with files that CRIU can open again.
    fn start(criu: &'a Path, argv: &[String]) -> Result<Self> {
        let folder = PathBuf::from("/run/downtime");
        fs::create_dir(&folder)?;
        let output = File::create(folder.join("output"))?;
        let child = Command::new("bash")
            .args(["-c", ALONE, "bash"])
            .args(argv)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting bash")?;
        let program = Pid::from_raw(child.id().try_into()?);
        let session = Self {
            criu,
            folder,
            program,
        };
        session.wait_for(|lines| lines.contains(&"ready"), "ready")?;
        Ok(session)
    }

    fn dump_and_restore(&self, round: usize) -> Result<u64> {
        let images = self.folder.join(round.to_string());
        fs::create_dir(&images)?;
        let pid = self.program.to_string();
        self.criu(&["dump", "--tree", &pid], &images)?;
        // CRIU has ended them; their pids are free again when we have taken note.
        while waitpid(None, None).is_ok() {}
        self.criu(&["restore", "--restore-detached"], &images)?;
        let mut bytes = 0;
        for image in fs::read_dir(&images)? {
            bytes += image?.metadata()?.len();
        }
        fs::remove_dir_all(&images)?;
        Ok(bytes)
    }

    fn criu(&self, arguments: &[&str], images: &Path) -> Result<()> {
        let status = Command::new(self.criu)
            .args(arguments)
            .arg("--images-dir")
            .arg(images)
            .args(["--log-file", "log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            let log = fs::read_to_string(images.join("log")).unwrap_or_default();
            let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
            bail!("criu {arguments:?}: {status}\n{}", errors.join("\n"));
        }
        Ok(())
    }

    /// As [`crate::program::Program::gap`], asked by a signal.
    fn gap(&self) -> Result<Duration> {
        let answers = |lines: &[&str]| lines.iter().filter_map(|line| parse_gap(line)).count();
        let before = answers(
            &self
                .wait_for(|_| true, "output")?
                .lines()
                .collect::<Vec<_>>(),
        );
        signal::kill(self.program, signal::Signal::SIGUSR1)?;
        let said = self.wait_for(|lines| answers(lines) > before, "an answer")?;
        let last = said.lines().rev().find_map(parse_gap);
        last.context("it gave no answer")
    }

    fn finish(self) -> Result<()> {
        signal::kill(self.program, signal::Signal::SIGTERM)?;
        self.wait_for(|lines| lines.last() == Some(&"PASS"), "PASS")?;
        Ok(())
    }

    /// The whole lines of its output, as soon as they are what is waited for.
    fn wait_for(&self, holds: impl Fn(&[&str]) -> bool, what: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(self.folder.join("output"))?;
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if holds(&whole.lines().collect::<Vec<_>>()) {
                return Ok(whole.to_owned());
            }
            ensure!(
                Instant::now() < deadline,
                "no {what} in {PATIENCE:?}: {text}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
