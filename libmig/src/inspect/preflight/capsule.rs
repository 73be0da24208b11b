//! What belongs to a job and to none of its processes: objects of its ipc
//! namespace, files in its /dev/shm, and strangers in its pid namespace.

use std::{collections::BTreeSet, fs};

use super::namespaces;
use crate::{
    api::Obstacle,
    image::Pid,
    inspect::{
        fd, mqueue, pid_spaces,
        process::{self, id_at, level},
        refusal,
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
        found.extend(notifying_queues(init));
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

/// Message queues of POSIX that are to tell a process of their next message.
fn notifying_queues(init: HostPid) -> Vec<Obstacle> {
    let queues = mqueue::of(init).ok().flatten().unwrap_or_default();
    let notifying = queues.iter().filter(|queue| queue.notifies).take(NAMED);
    notifying
        .map(|queue| refusal::notifying_queue(&queue.name))
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
