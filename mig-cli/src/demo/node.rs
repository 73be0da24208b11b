//! A node of the demo's lab: commands in it, and what really runs there.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use libmig::api::JobInfo;
use serde::de::DeserializeOwned;

use crate::lab::{Lab, NodeId, journal::Journal};

/// One node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) lab: &'a Lab,
    pub(super) name: &'a str,
}

impl<'a> Node<'a> {
    pub(super) fn new(lab: &'a Lab, name: &'a str) -> Self {
        Self { lab, name }
    }

    /// A command in the node, not started yet.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args([
            "lab",
            "--name",
            &self.lab.name.to_string(),
            "shell",
            self.name,
            "--",
        ]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command in the node; its stdout.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(arguments).output().context("start mig")?;
        if !output.status.success() {
            bail!(
                "on {}, `{}` failed ({}): {}",
                self.name,
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    }

    /// Runs a command in the node and understands what it prints.
    pub(super) fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.run(arguments)?;
        serde_json::from_slice(&output)
            .with_context(|| format!("understand `{}`", arguments.join(" ")))
    }

    /// Writes a file in the node.
    pub(super) fn write(
        &self,
        path: &str,
        content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut writer = self.command(&["sh", "-c", "cat > \"$0\"", path]);
        let mut writer = writer.stdin(Stdio::piped()).spawn().context("start mig")?;
        let mut stdin = writer.stdin.take().context("a pipe that is not there")?;
        content(&mut stdin).with_context(|| format!("write {path}"))?;
        drop(stdin);
        let status = writer.wait().context("wait for cat")?;
        if !status.success() {
            bail!("writing {path} on {} failed: {status}", self.name);
        }
        Ok(())
    }

    /// The job of that name, as the node's `mig ps` sees it.
    pub(super) fn job(&self, name: &str) -> Result<JobInfo> {
        let jobs: Vec<JobInfo> = self.json(&["mig", "ps", "--json"])?;
        let found = jobs
            .into_iter()
            .find(|job| job.name.as_deref() == Some(name));
        found.with_context(|| format!("mig ps on {} does not know the job {name}", self.name))
    }

    /// Whether a program with this argument runs in the node, as the kernel sees it.
    pub(super) fn runs(&self, argument: &str) -> Result<bool> {
        let journal = Journal::read(self.lab)?.context("the lab is gone")?;
        let id: NodeId = self.name.parse().map_err(anyhow::Error::msg)?;
        Ok(runs_below(&journal.node_cgroup(id), argument))
    }
}

/// Looks through the processes of a cgroup and of those below. mig's own have the same words in their
/// command lines and are not meant.
fn runs_below(cgroup: &Path, argument: &str) -> bool {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let is_it = |pid: &str| {
        let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|&byte| byte == 0).collect();
        let own = words.first().is_some_and(|word| {
            word.ends_with(b"migd") || word.ends_with(b"mig") || word.ends_with(b"/exe")
        });
        !own && words.contains(&argument.as_bytes())
    };
    let folders = fs::read_dir(cgroup).into_iter().flatten().flatten();
    procs.lines().any(is_it)
        || folders
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .any(|entry| runs_below(&entry.path(), argument))
}

/// Polls until `condition` holds.
pub(super) fn eventually(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("it did not happen within {} s: {what}", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
