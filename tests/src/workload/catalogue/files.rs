//! Workloads that hold descriptors, and those whose state is always in transition.

use super::{Workload, of};

pub(super) const RINGS: &[Workload] = &[
    of(
        "uring",
        "uring-idle",
        &["--mode", "idle"],
        "an io_uring with answers that wait, watched by epoll",
        &["answer", "tail"],
    )
    .single(),
    of(
        "uring",
        "uring-no-array",
        &["--mode", "idle", "--flags", "0x10000"],
        "an io_uring without an array of indexes",
        &["answer"],
    )
    .single(),
    of(
        "uring",
        "uring-wait",
        &["--mode", "wait"],
        "a thread that waits for an answer of io_uring",
        &["eintr"],
    )
    .not_stoppable(),
];

pub(super) const FILES: &[Workload] = &[
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
        "files-proc",
        &["--mode", "proc"],
        "files of /proc, one of them read half-way",
        &["offset"],
    )
    .single(),
    of(
        "files",
        "files-lines",
        &["--mode", "lines"],
        "a text of /proc read line by line",
        &["line"],
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
        "names",
        "names-own",
        &["--mode", "own"],
        "files that the program has made in /tmp, open, mapped or running",
        &["contents", "name", "view", "mode"],
    ),
    of(
        "names",
        "names-links",
        &["--mode", "links"],
        "a file by another of its names, and places without a name",
        &["link", "place", "memory"],
    )
    .single(),
    of(
        "locks",
        "locks-posix",
        &["--mode", "posix"],
        "POSIX locks: ranges, kinds and owner",
        &["lost", "shared", "wider"],
    ),
    of(
        "locks",
        "locks-ofd",
        &["--mode", "ofd"],
        "locks of open file descriptions",
        &["lost", "shared", "wider"],
    ),
    of(
        "locks",
        "locks-flock",
        &["--mode", "flock"],
        "a lock by flock(2)",
        &["lost"],
    ),
    of(
        "locks",
        "locks-unlinked",
        &["--mode", "posix", "--unlinked", "1"],
        "POSIX locks of a file without a name",
        &["lost"],
    ),
    of(
        "locks",
        "locks-wait-posix",
        &["--mode", "wait-posix"],
        "waiting for a POSIX lock that moves too",
        &["twice"],
    ),
    of(
        "locks",
        "locks-wait-ofd",
        &["--mode", "wait-ofd"],
        "waiting for a lock of an open file description",
        &["twice"],
    ),
    of(
        "locks",
        "locks-wait-flock",
        &["--mode", "wait-flock"],
        "waiting for a lock by flock(2)",
        &["twice"],
    ),
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

pub(super) const TRANSITIONS: &[Workload] = &[
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
