//! Workloads that hold sockets.

use super::{Workload, of};

pub(super) const SOCKETS: &[Workload] = &[
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
        "options of TCP and UDP sockets",
        &["option", "switch"],
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
];
