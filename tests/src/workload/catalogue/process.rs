//! Workloads that hold threads, identity, signals, timers and trees of processes.

use super::{Workload, of};

pub(super) const THREADS: &[Workload] = &[
    of(
        "threads",
        "threads-state",
        &["--mode", "state"],
        "TIDs, TLS, names, masks and alternate stacks of 50 threads",
        &["name", "mask", "tls", "altstack", "tid"],
    ),
    of(
        "threads",
        "threads-locks",
        &["--mode", "locks"],
        "mutexes, conditions and rwlocks",
        &["total"],
    ),
    of(
        "threads",
        "threads-robust",
        &["--mode", "robust"],
        "a robust mutex that is held",
        &["owner"],
    ),
    of(
        "threads",
        "threads-rseq",
        &["--mode", "rseq", "--count", "4"],
        "restartable sequences",
        &["cpu"],
    ),
    of(
        "threads",
        "threads-join",
        &["--mode", "join"],
        "threads that come and go",
        &["value"],
    ),
];

pub(super) const PROCESS: &[Workload] = &[
    of(
        "clocks",
        "clocks",
        &[],
        "clocks by the vDSO and by system calls",
        &["back", "jump"],
    )
    .single(),
    of(
        "identity",
        "identity-program",
        &["--mode", "program"],
        "auxv, executable, names, command line, IDs",
        &["damage"],
    )
    .single(),
    of(
        "identity",
        "identity-limits",
        &["--mode", "limits"],
        "rlimits, umask, cwd, nice, OOM score, prctl flags",
        &["damage"],
    )
    .single(),
    of(
        "identity",
        "identity-attributes",
        &["--mode", "attributes"],
        "I/O priority, scheduling policies of threads, memory that may not become executable",
        &["damage"],
    ),
    of(
        "identity",
        "identity-affinity",
        &["--mode", "affinity"],
        "the CPU mask",
        &["damage"],
    )
    .single(),
    of(
        "identity",
        "identity-root",
        &["--mode", "root"],
        "the root directory, and what is open below it",
        &["damage"],
    )
    .single(),
    of(
        "identity",
        "identity-credentials",
        &["--mode", "credentials"],
        "IDs, groups, capabilities, securebits",
        &["damage"],
    )
    .single(),
    of(
        "signals",
        "signals-actions",
        &["--mode", "actions"],
        "signal actions",
        &["action"],
    )
    .single(),
    of(
        "signals",
        "signals-pending",
        &["--mode", "pending"],
        "pending signals with their siginfo, and the mask",
        &["lost", "mask"],
    )
    .single(),
    of(
        "signals",
        "signals-altstack",
        &["--mode", "altstack"],
        "handlers on an alternate stack",
        &["frame"],
    )
    .single(),
    of(
        "signals",
        "signals-count",
        &["--mode", "count"],
        "real-time signals between two processes, none lost or twice",
        &["lost"],
    ),
    of(
        "timers",
        "timers-real",
        &["--mode", "real"],
        "ITIMER_REAL",
        &["often", "silent"],
    )
    .single(),
    of(
        "timers",
        "timers-virtual",
        &["--mode", "virtual"],
        "ITIMER_VIRTUAL",
        &["often", "silent"],
    )
    .single(),
    of(
        "timers",
        "timers-prof",
        &["--mode", "prof"],
        "ITIMER_PROF",
        &["often", "silent"],
    )
    .single(),
    of(
        "timers",
        "timers-posix",
        &["--mode", "posix"],
        "POSIX timers: numbers, values, threads",
        &["number", "value"],
    ),
    of(
        "timers",
        "timers-long",
        &["--mode", "long"],
        "one-shot timers that are far ahead",
        &["late", "again"],
    )
    .single(),
];

pub(super) const QUEUES: &[Workload] = &[
    of(
        "mqueues",
        "mqueues-queue",
        &["--mode", "queue"],
        "POSIX message queues: attributes, messages by priority, flags of descriptors",
        &["order", "lost", "blocking"],
    )
    .single(),
    of(
        "mqueues",
        "mqueues-served",
        &["--mode", "served"],
        "a process that waits in mq_receive, and one that waits by epoll",
        &["stray"],
    ),
];

pub(super) const PIDFDS: &[Workload] = &[
    of(
        "pidfds",
        "pidfds-live",
        &["--mode", "live"],
        "pidfds of the process, its children and its parent, in epoll, duplicated",
        &["whom", "flags"],
    ),
    of(
        "pidfds",
        "pidfds-ended",
        &["--mode", "ended"],
        "pidfds of a zombie and of some who have been waited for",
        &["nobody", "status", "zombie"],
    ),
    of(
        "pidfds",
        "pidfds-threads",
        &["--mode", "threads"],
        "pidfds of threads (PIDFD_THREAD), one of which has ended",
        &["whom", "end"],
    ),
    of(
        "pidfds",
        "pidfds-flight",
        &["--mode", "flight"],
        "pidfds on their way through a socket",
        &["whom"],
    ),
];

pub(super) const WATCHES: &[Workload] = &[
    of(
        "watches",
        "watches-files",
        &["--mode", "files"],
        "inotify: numbers, masks and files of watches, and no event that nobody caused",
        &["event", "number"],
    )
    .single(),
    of(
        "watches",
        "watches-epoll",
        &["--mode", "epoll"],
        "inotify in an interest list, shared with a child that changes the files",
        &["lost"],
    ),
    of(
        "watches",
        "watches-named",
        &[
            "--mode",
            "named",
            "--file",
            "/etc/debian_version",
            "--folder",
            "/etc",
        ],
        "inotify: a file and a folder of the node's root, whose handles lead nowhere in a lab",
        &["event"],
    )
    .single(),
];

pub(super) const CONFINED: &[Workload] = &[
    of(
        "seccomp",
        "seccomp-filter",
        &["--mode", "filter"],
        "seccomp filters that end, fail or trap a call, and a child that has them",
        &["error", "count"],
    ),
    of(
        "seccomp",
        "seccomp-norestart",
        &["--mode", "norestart"],
        "sleeps where restart_syscall is forbidden",
        &["nap"],
    )
    .single()
    .not_stoppable(),
    of(
        "seccomp",
        "seccomp-threads",
        &["--mode", "threads"],
        "seccomp filters of each thread",
        &["all"],
    ),
    of(
        "seccomp",
        "seccomp-tsync",
        &["--mode", "threads", "--tsync", "1"],
        "seccomp filters that threads have in common, so that one can bring the others along",
        &["all"],
    ),
    of(
        "seccomp",
        "seccomp-strict",
        &["--mode", "strict"],
        "a process in seccomp's strict mode",
        &["answer"],
    ),
];

pub(super) const TREES: &[Workload] = &[
    of(
        "tree",
        "tree-family",
        &["--mode", "family"],
        "parents, children and grandchildren",
        &["group", "death"],
    ),
    of(
        "tree",
        "tree-zombies",
        &["--mode", "zombies"],
        "dead children with all kinds of status",
        &["reaped"],
    ),
    of(
        "tree",
        "tree-orphans",
        &["--mode", "orphans"],
        "processes whose parent is dead",
        &["group", "death"],
    ),
    of(
        "tree",
        "tree-sessions",
        &["--mode", "sessions"],
        "sessions and groups, also without their leaders",
        &["group", "death"],
    ),
    of(
        "tree",
        "tree-stopped",
        &["--mode", "stopped"],
        "a stopped child, and what its parent is told",
        &["continued", "counted"],
    ),
];
