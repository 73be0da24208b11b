//! TCP and UDP sockets and what waits in them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::FileId;

/// A socket of AF_INET or AF_INET6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InetSocket {
    /// AF_INET6, not AF_INET.
    pub v6: bool,
    /// TCP, not UDP.
    pub stream: bool,
    /// Multipath TCP: it listens, or has never been connected.
    pub multipath: bool,
    /// getsockname(2); none without a port.
    pub local: Option<SocketAddr>,
    /// What it is.
    pub state: InetState,
    /// Sizes of the buffers for what it sends and receives, in the kernel's count:
    /// twice what is asked for by SO_SNDBUF and SO_RCVBUF.
    pub buffers: (i32, i32),
    /// SO_BUF_LOCK: which of these the program has chosen. The kernel chooses others.
    pub locked: i32,
    /// SO_SNDTIMEO and SO_RCVTIMEO in microseconds.
    pub timeouts: (u64, u64),
    /// SO_LINGER: seconds, if it is on.
    pub linger: Option<i32>,
    /// TCP_CONGESTION.
    #[serde(with = "serde_bytes")]
    pub congestion: Option<Vec<u8>>,
    /// What waits in a UDP socket.
    pub datagrams: Vec<Datagram>,
    /// Options that are ints, by level and number.
    pub options: Vec<(i32, i32, i32)>,
    /// Owner and group of its inode.
    pub owner: (u32, u32),
}

/// What a UDP socket has received and nobody has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// Who has sent it.
    pub from: SocketAddr,
    /// Its contents.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// What an internet socket is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InetState {
    /// Neither listens nor is connected.
    Idle,
    /// So many connections may wait.
    Listening(u32),
    /// A UDP socket that talks to this address alone.
    Towards(SocketAddr),
    /// One end of a TCP connection.
    Connected {
        /// The other end.
        peer: InetPeer,
        /// It sends nothing any more.
        shut: bool,
        /// It was told to receive nothing any more.
        deaf: bool,
        /// What it has received and not been read.
        #[serde(with = "serde_bytes")]
        queue: Vec<u8>,
        /// What has been sent to it and not been received.
        #[serde(with = "serde_bytes")]
        under_way: Vec<u8>,
    },
    /// One end of a TCP connection that is over.
    Over {
        /// What it has received and not been read.
        #[serde(with = "serde_bytes")]
        queue: Vec<u8>,
    },
}

/// The other end of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InetPeer {
    /// In the job.
    Held(FileId),
    /// Closed: it has sent an end, and nobody has it any more.
    Closed(SocketAddr),
    /// Waits in a socket that listens, of the job, and has received nothing.
    Waiting(SocketAddr),
}

/// An address that a destination must be able to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededAddress {
    /// Of TCP, not UDP.
    pub stream: bool,
    /// What getsockname(2) says.
    pub address: SocketAddr,
    /// Of a socket of AF_INET6.
    pub v6: bool,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// SO_REUSEADDR, which those of TCP are made with.
    pub reuse: bool,
    /// SO_REUSEPORT.
    pub share: bool,
}

impl NeededAddress {
    /// More are not asked for before the job is built.
    pub const MOST: usize = 4096;
}
