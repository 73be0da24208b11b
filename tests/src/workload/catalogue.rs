//! The table of all workloads. One entry for each kind of state that a move must carry.

use super::Workload;

/// All of them, in the order of the tables below.
pub(super) fn all() -> Vec<Workload> {
    [
        REGISTERS,
        SLEEPS,
        WAITS,
        MEMORY,
        THREADS,
        PROCESS,
        TREES,
        FILES,
        TRANSITIONS,
    ]
    .concat()
}

const REGISTERS: &[Workload] = &[
    Workload::new(
        "regs-gpr",
        "regs",
        &["--mode", "gpr"],
        "general registers and flags",
    )
    .broken_by(&["register", "flags"])
    .single(),
    Workload::new(
        "regs-xstate",
        "regs",
        &["--mode", "xstate"],
        "x87, SSE, AVX and AVX-512 with control words",
    )
    .broken_by(&["x87", "mxcsr", "vector"])
    .single(),
    Workload::new(
        "regs-segments",
        "regs",
        &["--mode", "segments"],
        "fs and gs base",
    )
    .broken_by(&["gs"])
    .single(),
];

/// A call with a deadline, in a program of one thread.
const fn sleep(name: &'static str, args: &'static [&'static str]) -> Workload {
    Workload::new(
        name,
        "sleeps",
        args,
        "a call with a deadline neither fails nor ends early or late",
    )
    .broken_by(&["eintr", "short", "long"])
    .single()
}

const SLEEPS: &[Workload] = &[
    sleep("sleep-nanosleep", &["--mode", "nanosleep"]),
    sleep("sleep-long", &["--mode", "nanosleep", "--ms", "3000"])
        .broken_by(&[])
        .ticking_every(3000),
    sleep("sleep-clock", &["--mode", "clock_nanosleep"]),
    sleep("sleep-clock-abs", &["--mode", "clock_nanosleep_abs"]),
    sleep("sleep-poll", &["--mode", "poll"]),
    sleep("sleep-ppoll", &["--mode", "ppoll"]),
    sleep("sleep-select", &["--mode", "select"]),
    sleep("sleep-pselect", &["--mode", "pselect"]),
    sleep("sleep-epoll", &["--mode", "epoll_wait"]).not_stoppable(),
    sleep("sleep-epoll-pwait2", &["--mode", "epoll_pwait2"]).not_stoppable(),
    sleep("sleep-futex-rel", &["--mode", "futex_rel"]),
    sleep("sleep-futex-abs", &["--mode", "futex_abs"]),
    sleep("sleep-futex-abs-real", &["--mode", "futex_abs_real"]),
    sleep("sleep-sem", &["--mode", "sem_wait"]),
    sleep("sleep-sigtimedwait", &["--mode", "sigtimedwait"]).not_stoppable(),
    // The library hides EINTR here.
    sleep("sleep-cond", &["--mode", "cond_timedwait"]).broken_by(&["short", "long"]),
];

/// A call without a deadline that a child's act ends.
const fn wait(name: &'static str, args: &'static [&'static str]) -> Workload {
    Workload::new(
        name,
        "waits",
        args,
        "a waiting call neither fails nor misses what it waits for",
    )
    .broken_by(&["eintr"])
}

const WAITS: &[Workload] = &[
    wait("wait-pipe", &["--mode", "pipe"]),
    wait("wait-eventfd", &["--mode", "eventfd"]),
    wait("wait-tty", &["--mode", "tty"]),
    wait("wait-fifo", &["--mode", "fifo"]),
    wait("wait-epoll", &["--mode", "epoll_forever"]).not_stoppable(),
    wait("wait-poll", &["--mode", "poll_forever"]),
    wait("wait-futex", &["--mode", "futex"]),
    wait("wait-child", &["--mode", "wait4"]),
    wait("wait-waitid", &["--mode", "waitid"]),
    wait("wait-write", &["--mode", "write_full"]),
    wait("wait-timerfd", &["--mode", "timerfd"]).single(),
    wait("wait-signalfd", &["--mode", "signalfd"]),
    wait("wait-pause", &["--mode", "pause"]),
    wait("wait-sigsuspend", &["--mode", "sigsuspend"]),
    wait("wait-sigwaitinfo", &["--mode", "sigwaitinfo"]).not_stoppable(),
    wait("wait-ppoll-mask", &["--mode", "ppoll_mask"]),
];

/// A workload of a program whose modes differ in what they hold.
const fn of(
    program: &'static str,
    name: &'static str,
    args: &'static [&'static str],
    proves: &'static str,
    sabotages: &'static [&'static str],
) -> Workload {
    Workload::new(name, program, args, proves).broken_by(sabotages)
}

const MEMORY: &[Workload] = &[
    of(
        "spin",
        "spin",
        &[],
        "the smallest program, for the pause",
        &[],
    )
    .single(),
    of(
        "spin",
        "spin-pages",
        &["--size-mb", "64"],
        "a heap that is written all the time",
        &["page"],
    )
    .single(),
    of(
        "heap",
        "heap-big",
        &["--mode", "big"],
        "256 MiB with checksums",
        &["page"],
    )
    .single(),
    of(
        "heap",
        "heap-brk",
        &["--mode", "brk"],
        "the end of the heap and its growth",
        &["brk"],
    )
    .single(),
    of(
        "heap",
        "heap-malloc",
        &["--mode", "malloc"],
        "the allocator's blocks",
        &["block"],
    )
    .single(),
    of(
        "heap",
        "heap-stack",
        &["--mode", "stack"],
        "a deep stack and its growth",
        &["stack"],
    )
    .single(),
    of(
        "areas",
        "areas-cow",
        &["--mode", "cow"],
        "private file mappings with written pages",
        &["written"],
    )
    .single(),
    of(
        "areas",
        "areas-none",
        &["--mode", "none"],
        "contents under PROT_NONE",
        &["contents", "protection"],
    )
    .single(),
    of(
        "areas",
        "areas-protections",
        &["--mode", "protections"],
        "protections of single pages",
        &["protection"],
    )
    .single(),
    of(
        "areas",
        "areas-guard",
        &["--mode", "guard"],
        "guard regions (MADV_GUARD_INSTALL)",
        &["guard"],
    )
    .single(),
    of(
        "areas",
        "areas-huge",
        &["--mode", "huge"],
        "transparent huge pages",
        &["advice"],
    )
    .single(),
    of(
        "areas",
        "areas-sparse",
        &["--mode", "sparse"],
        "64 GiB reserved, few pages used",
        &["page"],
    )
    .single(),
    of(
        "areas",
        "areas-many",
        &["--mode", "many"],
        "4,000 mappings",
        &["mapping", "protection"],
    )
    .single(),
    of(
        "areas",
        "areas-growsdown",
        &["--mode", "growsdown"],
        "MAP_GROWSDOWN",
        &["page"],
    )
    .single(),
    of(
        "areas",
        "areas-advice",
        &["--mode", "advice"],
        "madvise flags",
        &["advice"],
    )
    .single(),
    of(
        "areas",
        "areas-lock",
        &["--mode", "lock"],
        "mlock and MLOCK_ONFAULT",
        &["lock"],
    )
    .single(),
    of(
        "shared",
        "shared-anonymous",
        &["--mode", "anonymous"],
        "anonymous memory shared by parent and children",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-file",
        &["--mode", "file"],
        "a shared file mapping",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-memfd",
        &["--mode", "memfd"],
        "a memfd mapped twice, sealed and named",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-memfd-write",
        &["--mode", "memfd_write"],
        "a memfd changed by write alone",
        &["stale"],
    )
    .single(),
];

const THREADS: &[Workload] = &[
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

const PROCESS: &[Workload] = &[
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
        "identity-affinity",
        &["--mode", "affinity"],
        "the CPU mask",
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

const TREES: &[Workload] = &[
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

const FILES: &[Workload] = &[
    of(
        "files",
        "files-regular",
        &["--mode", "regular"],
        "offsets, flags and numbers of regular files",
        &["offset", "append", "cloexec"],
    )
    .single(),
    of(
        "files",
        "files-opath",
        &["--mode", "regular", "--opath", "1"],
        "an O_PATH descriptor",
        &[],
    )
    .single(),
    of(
        "files",
        "files-shared",
        &["--mode", "shared"],
        "open file descriptions shared by dup and fork",
        &["split"],
    ),
    of(
        "files",
        "files-unlinked",
        &["--mode", "unlinked"],
        "files without a name, with holes",
        &["contents", "holes", "same"],
    )
    .single(),
    of(
        "files",
        "files-directory",
        &["--mode", "directory"],
        "a directory read half-way",
        &["position"],
    )
    .single(),
    of(
        "files",
        "files-devices",
        &["--mode", "devices"],
        "null, zero, full, random and urandom",
        &["device"],
    )
    .single(),
    of(
        "files",
        "files-owner",
        &["--mode", "owner"],
        "SIGIO with its owner and signal",
        &["owner"],
    )
    .single(),
    of(
        "pipes",
        "pipes-contents",
        &["--mode", "contents"],
        "pipes with bytes in them",
        &["lost", "more"],
    )
    .single(),
    of(
        "pipes",
        "pipes-full",
        &["--mode", "full"],
        "full and enlarged pipes",
        &["room"],
    )
    .single(),
    of(
        "pipes",
        "pipes-packets",
        &["--mode", "packets"],
        "packet mode",
        &["merged"],
    )
    .single(),
    of(
        "pipes",
        "pipes-closed",
        &["--mode", "closed"],
        "pipes with one end closed",
        &["open"],
    )
    .single(),
    of(
        "pipes",
        "pipes-fifo",
        &["--mode", "fifo"],
        "a FIFO with contents",
        &["lost"],
    )
    .single(),
    of(
        "pipes",
        "pipes-passed",
        &["--mode", "passed"],
        "pipes between processes, with data on its way",
        &["order"],
    ),
    of(
        "events",
        "events-eventfd",
        &["--mode", "eventfd"],
        "eventfd counters, also as a semaphore",
        &["count"],
    )
    .single(),
    of(
        "events",
        "events-timerfd",
        &["--mode", "timerfd"],
        "timerfd: expirations, interval, remaining time",
        &["ticks", "remaining"],
    )
    .single(),
    of(
        "events",
        "events-signalfd",
        &["--mode", "signalfd"],
        "signalfd and its mask",
        &["mask"],
    )
    .single(),
    of(
        "events",
        "events-epoll",
        &["--mode", "epoll"],
        "epoll: level, edge, oneshot, nested, closed descriptor",
        &["lost", "oneshot", "data"],
    )
    .single(),
    of(
        "ptys",
        "ptys-canonical",
        &["--mode", "canonical"],
        "a pty with typed lines pending",
        &["lost"],
    )
    .single(),
    of(
        "ptys",
        "ptys-raw",
        &["--mode", "raw"],
        "a raw pty with bytes both ways",
        &["lost"],
    )
    .single(),
    of(
        "ptys",
        "ptys-settings",
        &["--mode", "settings"],
        "modes, window size and packet mode of ptys",
        &["window", "mode"],
    )
    .single(),
    of(
        "ptys",
        "ptys-control",
        &["--mode", "control"],
        "a controlling terminal: session, foreground group, ^C",
        &["foreground"],
    ),
];

const TRANSITIONS: &[Workload] = &[
    of(
        "stress",
        "stress-fork",
        &["--mode", "fork"],
        "a move in the middle of fork, exit and wait",
        &["status"],
    ),
    of(
        "stress",
        "stress-exec",
        &["--mode", "exec"],
        "a move in the middle of vfork and exec",
        &["status"],
    ),
    of(
        "stress",
        "stress-threads",
        &["--mode", "threads"],
        "a move in the middle of thread creation and end",
        &["count"],
    ),
    of(
        "stress",
        "stress-memory",
        &["--mode", "memory"],
        "a random walk of mmap, munmap, mremap, mprotect and madvise",
        &["page"],
    )
    .single(),
    of(
        "stress",
        "stress-pingpong",
        &["--mode", "pingpong"],
        "two processes that answer each other with checksums",
        &["word"],
    ),
    of(
        "stress",
        "stress-signals",
        &["--mode", "signals"],
        "two processes that send each other signals without end",
        &["lost"],
    ),
    of(
        "stress",
        "stress-log",
        &["--mode", "log"],
        "a log with sequence numbers, appended by several processes",
        &["gap"],
    ),
];
