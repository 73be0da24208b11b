//! What a node has in use, as counted from the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mig_tests::lab::Lab;

/// What may not grow with the number of moves, by what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census(BTreeMap<String, usize>);

impl Census {
    /// Counts on these nodes.
    ///
    /// # Errors
    /// A daemon is gone.
    pub(crate) fn of(lab: &Lab, nodes: &[&str]) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for node in nodes {
            let status = lab.node(node).status();
            let init = proc(status.pid.context("the node is up")?);
            let migd = daemon(lab, node)?;
            let mut count = |what: &str, number| counts.insert(format!("{what} on {node}"), number);
            count("open files of migd", entries(&migd.join("fd"))?);
            count("threads of migd", entries(&migd.join("task"))?);
            count("mounts", lines(&init.join("mountinfo"))?);
            count("mounts that migd sees", lines(&migd.join("mountinfo"))?);
            count("processes", status.processes);
            count("cgroups and their files", below(&cgroup_of(lab, node)?));
            for state in ["root/run/mig", "root/var/lib/mig"] {
                count(state, below(&init.join(state)));
            }
        }
        Ok(Self(counts))
    }

    /// Processes on all nodes.
    pub(crate) fn processes(&self) -> usize {
        let counts = self.0.iter();
        let processes = counts.filter(|(what, _)| what.starts_with("processes"));
        processes.map(|(_, count)| count).sum()
    }

    /// What there is more of than in `before`, in words.
    pub(crate) fn growth_since(&self, before: &Self) -> Vec<String> {
        let grown = self.0.iter().filter_map(|(what, &now)| {
            let then = before.0.get(what).copied().unwrap_or(0);
            (now > then).then(|| format!("{what}: {then} before, {now} now"))
        });
        grown.collect()
    }
}

/// Resident memory of a node's daemon in KiB.
///
/// # Errors
/// It is gone.
pub(crate) fn daemon_memory(lab: &Lab, node: &str) -> Result<usize> {
    let status = fs::read_to_string(daemon(lab, node)?.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("a daemon has memory")?.parse()?)
}

/// The daemon's folder in the node's own `/proc`, which knows it by the pid that the node gave it.
fn daemon(lab: &Lab, node: &str) -> Result<PathBuf> {
    let status = lab.node(node).status();
    let init = proc(status.pid.context("the node is up")?);
    let migd = status.migd_pid.context("migd runs")?;
    Ok(init.join("root/proc").join(migd.to_string()))
}

fn proc(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn entries(folder: &Path) -> Result<usize> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries.count())
}

fn lines(file: &Path) -> Result<usize> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(text.lines().count())
}

/// Files and folders below this one; what vanishes while they are counted does not count.
fn below(top: &Path) -> usize {
    let Ok(entries) = fs::read_dir(top) else {
        return 0;
    };
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + below(&entry.path()),
        Ok(_) => 1,
        Err(_) => 0,
    };
    entries.flatten().map(count).sum()
}

/// The node's cgroup: docs/lab.md.
fn cgroup_of(lab: &Lab, node: &str) -> Result<PathBuf> {
    let mounts = procfs::process::Process::myself()?.mountinfo()?;
    let mount = mounts.into_iter().find(|one| one.fs_type == "cgroup2");
    let top = mount.context("cgroup v2 is mounted")?.mount_point;
    let own = top.join("mig-lab").join(lab.name()).join(node);
    ensure!(own.is_dir(), "no cgroup {}", own.display());
    Ok(own)
}
