//! Undoing a lab, whatever is left of it: after `up`, after a crash in the middle of `up`, after a
//! crash in the middle of `down`.
//!
//! Ownership is never guessed from names: processes are the lab's when they are in the cgroup that the
//! journal names by path and inode; mounts, devices and addresses exist in their namespaces only.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Lab, cgroup,
    journal::{Inits, Journal, Lock},
    process::ProcessId,
};

/// How long the machine's init may take to reap the lab's processes once they are dead.
const REAPING: Duration = Duration::from_secs(5);

/// Removes a lab. Says whether there was one.
pub(crate) fn run(lab: &Lab) -> Result<bool> {
    match Lock::take(lab)? {
        Some(lock) => clear(lab, &lock).map(|()| true),
        None => Ok(false),
    }
}

/// Removes a lab that the caller has locked.
pub(crate) fn clear(lab: &Lab, _lock: &Lock) -> Result<()> {
    // Without a journal nothing was made but the folder.
    if let Some(journal) = Journal::read(lab)? {
        let inits = Inits::read(lab)?;
        end_processes(&journal, &inits)?;
        if owns_cgroup(&journal)? {
            cgroup::remove(&journal.cgroup)?;
        }
    }
    remove_folder(&lab.dir())?;
    match fs::remove_dir(Lab::parent()) {
        // Other labs are in it, or another `down` was first.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        result => result.context("remove the folder of all labs"),
    }
}

/// Nodes first: so their inits are reaped by the keeper, at once, and not left to the machine's init.
fn end_processes(journal: &Journal, inits: &Inits) -> Result<()> {
    if !owns_cgroup(journal)? {
        return Ok(());
    }
    for node in journal.nodes() {
        cgroup::kill(&journal.node_cgroup(node))?;
    }
    await_burial(inits.all());
    cgroup::kill(&journal.cgroup)?;
    await_burial(journal.keeper.into_iter());
    Ok(())
}

/// Whether the cgroup at the journal's path is the lab's.
fn owns_cgroup(journal: &Journal) -> Result<bool> {
    Ok(
        match (cgroup::inode(&journal.cgroup)?, journal.cgroup_inode) {
            (None, _) => false,
            (Some(found), Some(made)) => found == made,
            // `up` died between making the cgroup and recording it, so before it started anything.
            (Some(_), None) if cgroup::count(&journal.cgroup) == 0 => true,
            (Some(_), None) => bail!(
                "cgroup {} has processes that this lab did not start; end them, or remove the cgroup, first",
                journal.cgroup.display()
            ),
        },
    )
}

/// Waits until the dead are reaped, so that `ps` shows nothing of the lab. Whether the machine's init
/// does its duty is not for the lab to enforce.
fn await_burial(processes: impl Iterator<Item = ProcessId>) {
    let deadline = Instant::now() + REAPING;
    for process in processes {
        while process.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
