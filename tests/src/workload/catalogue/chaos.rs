//! Workloads that never rest.

use super::{Workload, of};

pub(super) const CHAOS: &[Workload] = &[
    of(
        "chaos",
        "chaos-memory",
        &["--mode", "memory"],
        "memory of all kinds that changes in every way without a rest, against a shadow copy",
        &["page"],
    )
    .ticking_every(400),
    of(
        "chaos",
        "chaos-tasks",
        &["--mode", "tasks"],
        "threads, processes and queued signals without a rest",
        &["status"],
    ),
    of(
        "chaos",
        "chaos-files",
        &["--mode", "files"],
        "files and connections that are made and closed without a rest",
        &["word"],
    ),
    of(
        "chaos",
        "chaos-all",
        &["--mode", "all", "--size-mb", "16"],
        "a process with all of these at once",
        &["page"],
    )
    .ticking_every(400),
];
