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
        "sockets",
        "sockets-stream",
        &["--mode", "stream"],
        "stream sockets with bytes both ways",
        &["lost", "more"],
    )
    .single(),
    of(
        "sockets",
        "sockets-messages",
        &["--mode", "messages"],
        "messages of datagram and packet sockets",
        &["merged"],
    )
    .single(),
    of(
        "sockets",
        "sockets-closed",
        &["--mode", "closed"],
        "sockets that are half closed, ended or reset",
        &["open"],
    )
    .single(),
    of(
        "sockets",
        "sockets-options",
        &["--mode", "options"],
        "options of sockets, and who is at the other end",
        &["buffer", "timeout"],
    )
    .single(),
    of(
        "sockets",
        "sockets-user",
        &["--mode", "options", "--user", "1"],
        "a socket that another user has made",
        &[],
    )
    .single(),
    of(
        "sockets",
        "sockets-carried",
        &["--mode", "carried"],
        "descriptors and senders on their way",
        &["plain"],
    )
    .single(),
    of(
        "sockets",
        "sockets-epoll",
        &["--mode", "epoll"],
        "epoll sets that watch sockets",
        &["lost"],
    )
    .single(),
    of(
        "sockets",
        "sockets-abstract",
        &["--mode", "abstract"],
        "a socket that listens at an abstract address, and its connections",
        &["name"],
    ),
    of(
        "sockets",
        "sockets-path",
        &["--mode", "path"],
        "sockets with paths, their connections, and those whose listener is gone",
        &["name", "mode"],
    ),
    of(
        "sockets",
        "sockets-backlog",
        &["--mode", "backlog"],
        "connections that wait to be accepted",
        &["order", "shut"],
    ),
    of(
        "sockets",
        "sockets-backlog-abstract",
        &["--mode", "backlog", "--abstract", "1"],
        "the same at an abstract address",
        &[],
    ),
    of(
        "sockets",
        "sockets-storm",
        &["--mode", "storm"],
        "callers that never rest, of a server that is behind them",
        &["answer"],
    ),
    of(
        "sockets",
        "sockets-datagrams",
        &["--mode", "datagrams"],
        "datagram sockets with addresses, and the senders of what waits in them",
        &["order", "name"],
    )
    .single(),
    of(
        "sockets",
        "sockets-datagrams-abstract",
        &["--mode", "datagrams", "--abstract", "1"],
        "the same with a sender at an abstract address",
        &[],
    )
    .single(),
    of(
        "sockets",
        "sockets-passed",
        &["--mode", "passed"],
        "sockets between processes, with words on their way",
        &["order"],
    ),
    of(
        "inet",
        "inet-tcp",
        &["--mode", "tcp"],
        "TCP connections within a process, and a listener",
        &["lost", "shut"],
    )
    .single(),
    of(
        "inet",
        "inet-tcp6",
        &["--mode", "tcp", "--v6", "1"],
        "the same of IPv6",
        &[],
    )
    .single(),
    of(
        "inet",
        "inet-options",
        &["--mode", "options"],
        "options of TCP sockets",
        &["option"],
    )
    .single(),
    of(
        "inet",
        "inet-served",
        &["--mode", "served"],
        "a TCP server with clients that ask without a rest",
        &["answer"],
    ),
    of(
        "inet",
        "inet-bulk",
        &["--mode", "bulk"],
        "TCP connections whose writers wait for room",
        &["bytes"],
    ),
    of(
        "inet",
        "inet-ended",
        &["--mode", "ended"],
        "TCP connections that are closed, over, or not accepted yet",
        &["end"],
    )
    .single(),
    of(
        "inet",
        "inet-ended6",
        &["--mode", "ended", "--v6", "1"],
        "the same of IPv6",
        &[],
    )
    .single(),
    of(
        "inet",
        "inet-datagrams",
        &["--mode", "datagrams"],
        "datagrams that wait in UDP sockets, and their senders",
        &["lost", "sender"],
    )
    .single(),
    of(
        "inet",
        "inet-datagrams6",
        &["--mode", "datagrams", "--v6", "1"],
        "the same of IPv6",
        &[],
    )
    .single(),
    of(
        "inet",
        "inet-udp",
        &["--mode", "udp"],
        "UDP sockets",
        &["peer"],
    )
    .single(),
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
