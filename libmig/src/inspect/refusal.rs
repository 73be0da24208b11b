//! The words for descriptors that cannot travel: reason and remedy.

use crate::api::Obstacle;

/// Why a descriptor cannot travel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The kind of thing, for `fd 7 (kind)`.
    pub what: String,
    /// What is the matter, a lower-case fragment.
    pub reason: String,
    /// What the user can do.
    pub remedy: String,
    /// It may pass by itself.
    pub transient: bool,
}

/// What to do about a ring of io_uring(7) that never moves.
pub(crate) const NO_RINGS: &str =
    "start the program with io_uring switched off (UV_USE_IO_URING=0 for Node.js)";

impl Refusal {
    fn new(what: impl Into<String>, reason: impl Into<String>, remedy: &str) -> Self {
        Self {
            what: what.into(),
            reason: reason.into(),
            remedy: remedy.to_owned(),
            transient: false,
        }
    }

    /// A ring of io_uring(7).
    pub(crate) fn ring(reason: &str, transient: bool) -> Self {
        let remedy = if transient {
            "try again when the program waits for nothing through it"
        } else {
            NO_RINGS
        };
        Self {
            transient,
            ..Self::new("io_uring", reason, remedy)
        }
    }

    /// The memory of a ring whose descriptor the process has closed.
    pub(crate) fn closed_ring() -> Self {
        Self::ring("the program has closed its descriptor", false)
    }

    /// As an obstacle about descriptor `number` of process `pid` (in its capsule).
    #[must_use]
    pub fn obstacle(&self, pid: i32, number: i32) -> Obstacle {
        Obstacle {
            pid: Some(pid),
            object: format!("fd {number} ({})", self.what),
            reason: self.reason.clone(),
            remedy: self.remedy.clone(),
            transient: self.transient,
        }
    }
}

/// A lease, which ends by a signal to its holder, or a lock on something that
/// is no file.
pub(crate) fn locked(locks: &[String]) -> Refusal {
    let kind = |line: &String| line.split_whitespace().nth(1).map(str::to_owned);
    let mut kinds = locks.iter().filter_map(kind);
    let first = kinds.next();
    // A lease beside a lock is what stands in the way.
    let kind = kinds.find(|kind| kind == "LEASE").or(first);
    let kind = kind.unwrap_or_else(|| "unknown".to_owned());
    Refusal {
        transient: true,
        ..Refusal::new(
            "locked file",
            format!("a lock of the kind {kind} is held through it"),
            "wait until the program has let go of it",
        )
    }
}

/// A socket that is neither of AF_UNIX nor TCP nor UDP.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> Refusal {
    let internet = matches!(domain, libc::AF_INET | libc::AF_INET6);
    let (name, remedy) = match (domain, kind, protocol) {
        (_, libc::SOCK_RAW, _) if internet => ("raw socket", CLOSED),
        (_, libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) if internet => {
            ("ping socket", CLOSED)
        }
        (_, _, libc::IPPROTO_SCTP) if internet => ("socket of SCTP", CLOSED),
        (_, _, libc::IPPROTO_UDPLITE) if internet => ("socket of UDP-Lite", CLOSED),
        (libc::AF_NETLINK, ..) => ("netlink socket", CLOSED),
        (libc::AF_PACKET, ..) => ("packet socket", "end the capture of packets"),
        (libc::AF_ALG, ..) => (
            "socket of the kernel's ciphers (AF_ALG)",
            "let the program use a library for them",
        ),
        (libc::AF_VSOCK, ..) => ("socket to the machine's host (AF_VSOCK)", CLOSED),
        (libc::AF_XDP, ..) => ("socket of AF_XDP", CLOSED),
        (libc::AF_KEY, ..) => ("socket of AF_KEY", CLOSED),
        (libc::AF_BLUETOOTH, ..) => ("socket of Bluetooth", CLOSED),
        (libc::AF_CAN, ..) => ("socket of a CAN bus", CLOSED),
        _ => ("socket", CLOSED),
    };
    let reason = match name {
        "socket" => {
            format!("sockets of family {domain}, type {kind}, protocol {protocol} cannot move")
        }
        _ => format!("a {name} cannot move"),
    };
    Refusal::new(name, reason, remedy)
}

const CLOSED: &str = "move the job before it opens such sockets or after it has closed them";

/// A connection of Multipath TCP.
pub(crate) fn multipath() -> Refusal {
    Refusal::new(
        "socket of Multipath TCP",
        "a connection by several paths cannot move",
        "start the program without Multipath TCP (GODEBUG=multipathtcp=0 for Go)",
    )
}

/// A socket whose address is of a network namespace that the job has made.
pub(crate) fn socket_elsewhere() -> Refusal {
    Refusal::new(
        "socket",
        "it is of a network namespace that the job has made; addresses there do not move yet",
        "let the program close it, or start it without a network namespace of its own",
    )
}

/// A TCP connection whose other end is elsewhere.
pub(crate) fn foreign_connection(remote: Option<std::net::SocketAddr>) -> Refusal {
    let remote = remote.map_or_else(|| "nobody".to_owned(), |remote| remote.to_string());
    Refusal::new(
        "socket",
        format!("it is connected to {remote}, which is not part of the job"),
        "start both programs under one `mig exec`, or move when the connection is closed",
    )
}

/// A Unix socket whose peer someone else has, or that is connected one way only. It is named
/// by its inode: of connections that come and go, each has the number of the one before it, and
/// a look between two finds no end of some.
pub(crate) fn foreign_socket(inode: u32) -> Refusal {
    Refusal::new(
        format!("socket:[{inode}]"),
        "its other end is held by a process that is not part of the job",
        "start both programs under one `mig exec`, or move when the connection is closed",
    )
}

/// A Unix socket in a state that passes.
pub(crate) fn socket_busy(reason: &str) -> Refusal {
    Refusal {
        transient: true,
        ..Refusal::new("socket", reason, "try again when the program has read it")
    }
}

/// A Unix socket with an option that belongs to this node.
pub(crate) fn socket_option(name: &str) -> Refusal {
    Refusal::new(
        "socket",
        format!("it has {name}, which is about this node"),
        "let the program switch it off before the move",
    )
}

/// A socket that the kernel says too little about.
pub(crate) fn socket_unknown(reason: &str) -> Refusal {
    Refusal::new(
        "socket",
        format!("its peer cannot be found: {reason}"),
        "close it before the move",
    )
}

/// A watch on a file that has no name any more, or none that can be found.
pub(crate) fn unnamed_watch(wd: i32) -> Refusal {
    Refusal::new(
        "inotify",
        format!("nobody can tell the name of the file of its watch {wd}"),
        "let the program end that watch, or move it when the file has its name again",
    )
}

/// Events that have not been read: to look at them is to take them away.
pub(crate) fn unread_events() -> Refusal {
    Refusal {
        transient: true,
        ..Refusal::new(
            "inotify",
            "the program has not read its events yet",
            "try again when it has",
        )
    }
}

/// An anonymous inode that is not one of the four known kinds.
pub(crate) fn anonymous(name: &[u8]) -> Refusal {
    let name = String::from_utf8_lossy(name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let (reason, remedy) = match name {
        "fanotify" => (
            "its watches belong to this node's file systems",
            "let the program poll for changes instead, or close its watches",
        ),
        "userfaultfd" => (
            "the program serves page faults itself",
            "move it when it has closed its userfaultfd",
        ),
        "perf_event" => ("it counts events of this node's CPUs", "stop the profiler"),
        _ => (
            "this kind of kernel object cannot move",
            "close it before the move",
        ),
    };
    Refusal::new(name, reason, remedy)
}

/// A device that other nodes do not have.
pub(crate) fn device(name: &str) -> Refusal {
    Refusal::new(
        name,
        "the device belongs to this node",
        "close it, or keep the job where it is with --pin",
    )
}

/// A terminal of another devpts, or one whose other side is outside.
pub(crate) fn foreign_terminal(name: &str) -> Refusal {
    Refusal::new(
        name,
        "the other side of this terminal is outside of the job",
        "start the program with `mig exec`, which gives it a terminal that moves",
    )
}

/// A pipe or FIFO that someone else holds too.
pub(crate) fn foreign_pipe(name: &str) -> Refusal {
    Refusal::new(
        name,
        "the other end is held by a process that is not part of the job",
        "start both programs under one `mig exec`, for example with sh -c 'a | b'",
    )
}

/// A file of a file system that describes this node.
pub(crate) fn foreign_file_system(kind: &str, name: &str) -> Refusal {
    Refusal::new(
        name,
        format!("it is a file of {kind}, which is about this node"),
        "close it before the move",
    )
}

/// A file of /proc that knows the namespaces of a process, which it enters again last of all.
pub(crate) fn view(name: &str) -> Refusal {
    Refusal {
        transient: true,
        ..Refusal::new(
            name,
            "it tells of a namespace that the job has made, or is in a /proc that the job has mounted",
            "wait until the program has closed it",
        )
    }
}

/// A file of /proc about a process that does not move along, or has ended.
pub(crate) fn foreign_process(name: &str) -> Refusal {
    Refusal {
        transient: true,
        ..Refusal::new(
            name,
            "it is about a process that is not part of the job, or has ended",
            "wait until the program has closed it",
        )
    }
}

/// A queue whose next message a process is to be told of: nobody can tell how.
pub(crate) fn notifying_queue(name: &[u8]) -> Obstacle {
    Obstacle {
        pid: None,
        object: format!("POSIX message queue /{}", String::from_utf8_lossy(name)),
        reason: "a process is to be told of its next message (mq_notify), nobody can tell how"
            .to_owned(),
        remedy: "let the program wait for messages by mq_receive or poll instead".to_owned(),
        transient: false,
    }
}

/// A queue without a name, or of another namespace.
pub(crate) fn foreign_queue(name: &str) -> Refusal {
    Refusal::new(
        name,
        "the message queue has no name any more, or is not one of the job's capsule",
        "let the program keep its name (mq_unlink at the end), or close it",
    )
}

/// A pidfd of a process that does not move along.
pub(crate) fn foreign_pidfd() -> Refusal {
    Refusal::new(
        "pidfd",
        "it names a process that is not part of the job",
        "start both programs under one `mig exec`, or let the program close it",
    )
}

/// Something other than a regular file whose name is gone.
pub(crate) fn deleted(kind: &str) -> Refusal {
    Refusal::new(
        kind,
        format!("the {kind} has been deleted while it was open"),
        "close it before the move",
    )
}

/// A file with another hard link, or one that a rename or a mount has hidden.
pub(crate) fn misnamed(name: &str) -> Refusal {
    Refusal::new(
        name,
        "its name is gone or means another file now, and other links of it exist",
        "put the file back under that name, or close it",
    )
}

/// A file that exists, but that nothing below the root directory of the job leads to.
pub(crate) fn outside(name: &str) -> Refusal {
    Refusal::new(
        name,
        "the file is not below the root directory of the job: it belongs to another one, or to a \
         file system that is not mounted there",
        "start the program with a file of its own root directory, or with a pipe (2>&1 | cat)",
    )
}

/// A kind of file that this version has never heard of.
pub(crate) fn unknown(name: &str) -> Refusal {
    Refusal::new(
        name,
        "this kind of file is not known to this version of mig",
        "close it before the move",
    )
}

/// SIGIO goes to a process outside of the job.
pub(crate) fn foreign_owner(name: &str) -> Refusal {
    Refusal::new(
        name,
        "its SIGIO goes to a process that is not part of the job",
        "close it before the move",
    )
}

/// An epoll entry whose file no process of the tree has open.
pub(crate) fn foreign_interest(number: i32) -> Refusal {
    Refusal::new(
        "epoll",
        format!("it watches a file, once fd {number}, that no process of the job has open"),
        "let the program remove what it watches before it closes it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_anonymous_inode_is_named() {
        for (link, what, reason) in [
            ("[userfaultfd]", "userfaultfd", "page faults itself"),
            ("[perf_event]", "perf_event", "this node's CPUs"),
            ("bpf-map", "bpf-map", "kernel object"),
            ("bpf-prog", "bpf-prog", "kernel object"),
            ("kvm-vm", "kvm-vm", "kernel object"),
        ] {
            let refusal = anonymous(link.as_bytes());
            assert_eq!(refusal.what, what);
            assert!(refusal.reason.contains(reason) && !refusal.remedy.is_empty());
        }
    }
}
