//! What this machine lacks for a lab, by name, before anything is made.
//!
//! The only honest test of a kernel feature is to use it; so a child process tries each in throwaway
//! namespaces of its own, and everything it made goes with it.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{NodeId, cgroup, net, root};

/// Says everything that is missing.
///
/// # Errors
/// When anything is.
pub(crate) fn require() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "a lab needs root: it makes namespaces, mounts and network devices; remedy: sudo mig lab up ..."
        );
    }
    let mut missing = missing_namespaces();
    missing.extend(
        cgroup::mount_point()
            .err()
            .map(|error| format!("{error:#}")),
    );
    if missing.is_empty() {
        missing = tried()?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine cannot hold a lab; it lacks:\n  - {}",
        missing.join("\n  - ")
    );
}

fn missing_namespaces() -> Vec<String> {
    let kinds = ["pid", "net", "mnt", "uts", "ipc", "cgroup"];
    let absent = kinds
        .iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists());
    absent
        .map(|kind| format!("{kind} namespaces (not in this kernel)"))
        .collect()
}

/// Runs [`child`] in a process of its own and reads what it lacks.
fn tried() -> Result<Vec<String>> {
    let output = Command::new("/proc/self/exe")
        .args(["lab", "internal-probe"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the probe")?;
    if !output.status.success() {
        bail!("the probe failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Tries everything that a lab does, and prints a line for each thing that does not work.
pub(crate) fn child() -> Result<()> {
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    if let Err(error) = unshare(all) {
        println!("the right to make namespaces ({error}); in a container: run it privileged");
        return Ok(());
    }
    root::make_private()?;
    report(
        "overlayfs (modprobe overlay; CONFIG_OVERLAY_FS)",
        try_overlay(),
    );
    report(
        "network bridges (modprobe bridge; CONFIG_BRIDGE)",
        net::make_bridge(),
    );
    let veth = net::make_veth("n1".parse::<NodeId>().map_err(io::Error::other)?, || {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")
    });
    report("veth pairs (modprobe veth; CONFIG_VETH)", veth);
    Ok(())
}

fn report(what: &str, result: Result<()>) {
    if let Err(error) = result {
        println!("{what}: {error:#}");
    }
}

/// An overlay of `/` on a tmpfs, as every node's root is one.
fn try_overlay() -> Result<()> {
    let place = Path::new("/tmp");
    mount(
        Some("tmpfs"),
        place,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mount a tmpfs")?;
    root::try_overlay(place)
}
