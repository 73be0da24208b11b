//! What belongs to a job and to none of its processes: objects of its ipc
//! namespace, files in its /dev/shm, and strangers in its pid namespace.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::namespaces;
use crate::{
    api::Obstacle,
    image::Pid,
    inspect::{
        fd,
        process::{self, id_at, level},
        shm::Shm,
    },
    sys::HostPid,
};

/// Objects of a kind that are named.
const NAMED: usize = 8;
/// Tables of System V IPC: the file, the kind, the column with the ID, and the
/// one with the number of processes that have it attached.
const TABLES: [(&str, &str); 3] = [
    ("shm", "System V shared memory segment"),
    ("sem", "System V semaphore set"),
    ("msg", "System V message queue"),
];

/// Obstacles of the capsule of `init`. Where it has no namespaces of its own,
/// their contents are the node's, not the job's.
pub(super) fn obstacles(init: HostPid, tree: &[(HostPid, Pid)]) -> Vec<Obstacle> {
    let own = HostPid::own();
    let apart = |name| namespaces::link(init, name) != namespaces::link(own, name);
    let mut found = Vec::new();
    if apart("ipc") {
        found.extend(system_v(init));
        found.extend(folder(init, "dev/mqueue", "POSIX message queue"));
    }
    if apart("mnt") {
        found.extend(foreign_in_shm(init));
    }
    if apart("pid") {
        found.extend(strangers(init, tree));
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

/// A table of `/proc/sysvipc` shows the ipc namespace of the thread that reads it.
fn system_v(init: HostPid) -> Vec<Obstacle> {
    let tables = File::open(format!("/proc/{init}/ns/ipc")).and_then(|namespace| {
        // setns(2) concerns the calling thread alone: one that ends right after.
        let visitor = thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::InterProcessCommunication);
            move_into_link_name_space(namespace.as_fd(), kind)?;
            TABLES
                .iter()
                .map(|(file, _)| fs::read_to_string(format!("/proc/sysvipc/{file}")))
                .collect::<io::Result<Vec<String>>>()
        });
        visitor
            .join()
            .map_err(|_| io::Error::other("the visitor of the ipc namespace panicked"))?
    });
    let Ok(tables) = tables else {
        // The init has ended, or the kernel has no System V IPC.
        return Vec::new();
    };
    let listed = TABLES.iter().zip(&tables).flat_map(|((_, kind), table)| {
        ids(table)
            .into_iter()
            .take(NAMED)
            .map(move |id| format!("{kind} {id}"))
    });
    listed
        .map(|object| {
            obstacle(
                object,
                "System V IPC does not move yet",
                "let the program remove it (ipcrm), or use POSIX shared memory of one process tree",
            )
        })
        .collect()
}

/// The second column of a table, below its heading.
fn ids(table: &str) -> Vec<&str> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().nth(1))
        .collect()
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
    fn a_table_lists_its_ids() {
        let table = "       key      semid perms      nsems   uid\n         0         12   600          1     0\n       -55         13   600          1     0\n";
        assert_eq!(ids(table), ["12", "13"]);
        assert_eq!(ids("       key      semid\n"), [""; 0]);
    }

    #[test]
    fn what_the_node_has_is_not_the_jobs() {
        assert_eq!(obstacles(HostPid::own(), &[]), []);
    }
}
