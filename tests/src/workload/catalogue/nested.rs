//! Workloads in namespaces that they have made themselves.

use super::{Workload, of};

pub(super) const NESTED: &[Workload] = &[
    of(
        "nested",
        "nested-uts",
        &["--mode", "uts"],
        "a host name of its own",
        &["name"],
    ),
    of(
        "nested",
        "nested-ipc",
        &["--mode", "ipc"],
        "System V objects in a namespace of their own",
        &["queue"],
    ),
    of(
        "nested",
        "nested-net",
        &["--mode", "net"],
        "a network namespace with a loopback device",
        &["down"],
    ),
    of(
        "nested",
        "nested-cgroup",
        &["--mode", "cgroup"],
        "a cgroup namespace",
        &["root"],
    ),
    of(
        "nested",
        "nested-user",
        &["--mode", "user"],
        "a user namespace: maps, users that are not mapped, rights inside and none outside",
        &["map", "rights"],
    ),
    of(
        "nested",
        "nested-levels",
        &["--mode", "levels"],
        "a user namespace in another, and what it owns",
        &["user"],
    ),
    of(
        "nested",
        "nested-pid",
        &["--mode", "pid"],
        "a pid namespace: IDs inside, a parent and a group outside",
        &["id"],
    ),
    of(
        "nested",
        "nested-depth",
        &["--mode", "depth"],
        "pid namespaces in each other",
        &["id"],
    ),
    of(
        "nested",
        "nested-container",
        &["--mode", "container"],
        "a container: a first process in namespaces of all kinds but mount and time",
        &["id"],
    ),
    of(
        "mounts",
        "nested-mount",
        &["--mode", "own"],
        "a mount namespace: a tmpfs with all kinds of files, binds of a directory and of a file, a proc",
        &["file", "mount"],
    ),
    of(
        "mounts",
        "nested-mount-sandbox",
        &["--mode", "sandbox"],
        "a root of its own in a user, a mount and a pid namespace, as bubblewrap makes it",
        &["file", "mount"],
    ),
    of(
        "times",
        "nested-time",
        &[],
        "a time namespace: clocks that are ahead of those of the parent, and sleeps by them",
        &["clock"],
    ),
];
