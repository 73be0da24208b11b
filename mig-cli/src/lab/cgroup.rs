//! The lab's cgroup (v2): the list of its processes that nothing can escape, and the way to end them.
//!
//! `cgroup.kill` reaches every process of the subtree at once, frozen ones and ones that fork included;
//! killing by pid could do neither. No controller is needed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The folder of all labs' cgroups.
const PARENT: &str = "mig-lab";

/// How long the kernel may take to end processes; it is milliseconds unless a device hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where cgroup v2 is mounted on this machine.
///
/// # Errors
/// When it is mounted nowhere.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = procfs::process::Process::myself()
        .and_then(|me| me.mountinfo())
        .context("read /proc/self/mountinfo")?;
    let found = mounts.into_iter().find(|mount| mount.fs_type == "cgroup2");
    found.map(|mount| mount.mount_point).context(
        "cgroup v2 is mounted nowhere; remedy: mount -t cgroup2 none /sys/fs/cgroup/unified (or boot with it)",
    )
}

/// The path of a lab's cgroup, which need not exist.
pub(crate) fn path_for(lab: &super::LabName) -> Result<PathBuf> {
    Ok(mount_point()?.join(PARENT).join(lab.to_string()))
}

/// Makes the cgroup of a lab and says its inode.
pub(crate) fn create(path: &Path) -> Result<u64> {
    // Another lab's `down` may remove the empty parent in between: make both again.
    loop {
        match fs::create_dir_all(path) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("make cgroup {}", path.display()));
            }
        }
    }
    if !path.join("cgroup.kill").exists() {
        bail!("this kernel has no cgroup.kill, which Linux 5.14 or newer has");
    }
    inode(path)?.with_context(|| format!("cgroup {} vanished", path.display()))
}

/// The inode of a cgroup; None when there is none.
pub(crate) fn inode(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look at cgroup {}", path.display())),
    }
}

/// Moves the calling process into a cgroup.
pub(crate) fn join(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
        .with_context(|| format!("join cgroup {}", path.display()))
}

/// How many processes are in a cgroup and below.
pub(crate) fn count(path: &Path) -> usize {
    let own = fs::read_to_string(path.join("cgroup.procs")).map_or(0, |text| text.lines().count());
    own + children(path)
        .iter()
        .map(|child| count(child))
        .sum::<usize>()
}

/// CPU time that a cgroup and those below have used.
pub(crate) fn cpu_time(path: &Path) -> Option<Duration> {
    let text = fs::read_to_string(path.join("cpu.stat")).ok()?;
    let usage = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    usage.parse().ok().map(Duration::from_micros)
}

/// Ends every process in a cgroup and below, and waits until they are gone.
///
/// # Errors
/// When some still live at the deadline (they hang in the kernel).
pub(crate) fn kill(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Again in every round: a process may have been on its way into the cgroup.
        match fs::write(path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("kill cgroup {}", path.display()));
            }
            _ => {}
        }
        if !is_populated(path) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{} processes of cgroup {} do not end; they hang in the kernel",
                count(path),
                path.display()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes an empty cgroup with everything below, and the parent of all labs with the last of them.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    // A zombie's css_set lets go of its cgroup a little after `populated` says 0.
    while let Err(error) = remove_tree(path) {
        if error.raw_os_error() != Some(nix::libc::EBUSY) || Instant::now() > deadline {
            return Err(error).with_context(|| format!("remove cgroup {}", path.display()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    match path.parent().map(fs::remove_dir) {
        // Other labs are in it, or another `down` was first.
        Some(Err(error)) if error.raw_os_error() == Some(nix::libc::EBUSY) => Ok(()),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Some(Err(error)) => Err(error).context("remove the cgroup of all labs"),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in children(path) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let folders = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn is_populated(path: &Path) -> bool {
    let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}
