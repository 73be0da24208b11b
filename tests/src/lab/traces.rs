//! What a lab leaves, or does not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{Status, text};

/// What a lab could leave: the namespaces that it had, and what the machine had before.
#[derive(Debug)]
pub(super) struct Traces {
    namespaces: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    devices: BTreeSet<String>,
}

impl Traces {
    pub(super) fn before() -> Self {
        Self {
            namespaces: BTreeSet::new(),
            mounts: mounts(),
            devices: devices(),
        }
    }

    /// Remembers the namespaces of the keeper and of the nodes' inits, less this process's own.
    pub(super) fn record(&mut self, status: &Status) {
        let pids = status
            .nodes
            .iter()
            .map(|node| node.pid)
            .chain([status.keeper])
            .flatten();
        let theirs: BTreeSet<_> = pids.flat_map(|pid| namespaces(&pid.to_string())).collect();
        self.namespaces = &theirs - &namespaces("self");
    }

    pub(super) fn left(&self, name: &str) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(
            (&mounts() - &self.mounts)
                .into_iter()
                .filter(|mount| mount.contains(name)),
        );
        left.extend(
            (&devices() - &self.devices)
                .into_iter()
                .map(|name| format!("device {name}")),
        );
        for path in cgroup_mounts()
            .iter()
            .map(|mount| mount.join("mig-lab").join(name))
        {
            left.extend(path.exists().then(|| format!("cgroup {}", path.display())));
        }
        let dir = Path::new("/run/mig-lab").join(name);
        left.extend(dir.exists().then(|| format!("folder {}", dir.display())));
        left.extend(processes().filter_map(|pid| self.betrays(&pid, name)));
        left
    }

    /// Whether a process is, or was started by, the lab.
    fn betrays(&self, pid: &str, name: &str) -> Option<String> {
        let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|&byte| byte == 0).map(text).collect();
        let lab = words
            .windows(2)
            .find(|pair| pair[0] == "--name")
            .map(|pair| pair[1].as_str());
        // The kernel gives the number of a namespace that is gone to the next one, also to another lab's.
        let another = lab.is_some_and(|lab| lab != name) || in_another_lab(pid, name);
        // Also to those of a test that unshares: but none of these has a network of its own.
        let networks = |path: &&PathBuf| path.to_string_lossy().starts_with("net:");
        let theirs = namespaces(pid);
        let mut shared = theirs.intersection(&self.namespaces).filter(networks);
        let inside = !another && shared.next().is_some();
        (inside || lab == Some(name)).then(|| format!("process {pid}: {}", words.join(" ")))
    }
}

fn in_another_lab(pid: &str, name: &str) -> bool {
    let path = Path::new("/proc").join(pid).join("cgroup");
    let groups = fs::read_to_string(path).unwrap_or_default();
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::")?.split_once("mig-lab/"));
    group.is_some_and(|(_, lab)| lab.split('/').next() != Some(name))
}

fn mounts() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read /proc");
    mounts.lines().map(str::to_owned).collect()
}

fn devices() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").expect("read /sys");
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo());
    let mounts = mounts.expect("read /proc").into_iter();
    mounts
        .filter(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
        .collect()
}

fn processes() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The namespaces of a process; empty when it has ended.
fn namespaces(pid: &str) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(Path::new("/proc").join(pid).join("ns")) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect()
}
