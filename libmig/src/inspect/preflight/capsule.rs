//! What belongs to a job and to none of its processes: objects of its ipc
//! namespace, files in its /dev/shm, and strangers in its pid namespace.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt};

use super::namespaces;
use crate::{
    api::Obstacle,
    image::Pid,
    inspect::{
        fd, pid_spaces,
        process::{self, id_at, level},
        shm::Shm,
    },
    sys::HostPid,
};

/// Objects of a kind that are named.
const NAMED: usize = 8;

/// Obstacles of the capsule of `init`. Where it has no namespaces of its own,
/// their contents are the node's, not the job's.
pub(super) fn obstacles(init: HostPid, tree: &[(HostPid, Pid)]) -> Vec<Obstacle> {
    let own = HostPid::own();
    let apart = |name| namespaces::link(init, name) != namespaces::link(own, name);
    let mut found = Vec::new();
    if apart("ipc") {
        found.extend(folder(init, "dev/mqueue", "POSIX message queue"));
    }
    if apart("mnt") {
        found.extend(foreign_in_shm(init));
    }
    if apart("pid") {
        found.extend(strangers(init, tree));
        found.extend(pid_spaces(init, tree));
    }
    found
}

fn obstacle(object: String, reason: &str, remedy: &str) -> Obstacle {
    Obstacle {
        pid: None,
        object,
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
        transient: false,
    }
}

/// Files in a folder that every capsule has for itself.
fn folder(init: HostPid, path: &str, kind: &str) -> Vec<Obstacle> {
    let place = format!("/proc/{init}/root/{path}");
    // Where the capsule sees the node's, its contents are not the job's.
    let device = |path: &str| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if device(&place) == device(&format!("/{path}")) {
        return Vec::new();
    }
    let entries = fs::read_dir(&place).into_iter().flatten().flatten();
    entries
        .take(NAMED)
        .map(|entry| {
            obstacle(
                format!("{kind} /{path}/{}", entry.file_name().to_string_lossy()),
                "it exists in this capsule only and does not move yet",
                "let the program unlink it, or use memory that it inherits (memfd, MAP_ANONYMOUS)",
            )
        })
        .collect()
}

/// Sockets and devices in the capsule's /dev/shm. What changes while this looks is
/// judged again by the capture.
fn foreign_in_shm(init: HostPid) -> Vec<Obstacle> {
    let shm = fd::root(init).and_then(Shm::of).ok().flatten();
    let entries = shm.and_then(|shm| shm.walk().ok()).unwrap_or_default();
    let foreign = entries.iter().filter_map(|entry| {
        let kind = entry.foreign()?;
        let object = format!("{kind} /dev/shm/{}", entry.path.display());
        let reason = "it exists in this capsule only and does not move yet";
        Some(obstacle(object, reason, "let the program remove it"))
    });
    foreign.take(NAMED).collect()
}

/// Processes that could not be born again in the pid namespaces of the job.
fn pid_spaces(init: HostPid, tree: &[(HostPid, Pid)]) -> Vec<Obstacle> {
    // An error: the init has ended.
    let residents = pid_spaces::survey(init, tree).unwrap_or_default();
    let misfits = pid_spaces::misfits(&residents).into_iter();
    let named = misfits.take(NAMED).map(|(pid, misfit)| Obstacle {
        pid: Some(pid),
        ..obstacle(format!("process {pid}"), &misfit.reason, misfit.remedy)
    });
    named.collect()
}

/// Processes of the pid namespace that are not below the init.
fn strangers(init: HostPid, tree: &[(HostPid, Pid)]) -> Vec<Obstacle> {
    let space = namespaces::link(init, "pid");
    let level = level(init);
    let known: BTreeSet<HostPid> = tree.iter().map(|(host, _)| *host).collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let suspects: Vec<HostPid> = entries
        .filter_map(|entry| Some(HostPid::new(entry.file_name().to_str()?.parse().ok()?)))
        .filter(|host| *host != init && !known.contains(host))
        .filter(|host| space.is_some() && namespaces::link(*host, "pid") == space)
        .collect();
    if suspects.is_empty() {
        return Vec::new();
    }
    // They may just be younger than the tree.
    let now = process::tree(init);
    suspects
        .into_iter()
        .filter(|host| now.iter().all(|(member, _)| member != host))
        .filter_map(|host| id_at(&process::status(host).ok()?.ns_pid, level))
        .take(NAMED)
        .map(|pid| {
            let finding = namespaces::stranger();
            Obstacle {
                pid: Some(pid),
                ..obstacle(format!("process {pid}"), &finding.reason, finding.remedy)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_has_is_not_the_jobs() {
        assert_eq!(obstacles(HostPid::own(), &[]), []);
    }
}
