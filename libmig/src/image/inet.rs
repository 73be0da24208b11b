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
    /// getsockname(2); none without a port.
    pub local: Option<SocketAddr>,
    /// What it is.
    pub state: InetState,
    /// SO_SNDBUF and SO_RCVBUF as they are asked for; `None` where the kernel chooses.
    pub buffers: (Option<i32>, Option<i32>),
    /// SO_SNDTIMEO and SO_RCVTIMEO in microseconds.
    pub timeouts: (u64, u64),
    /// SO_LINGER: seconds, if it is on.
    pub linger: Option<i32>,
    /// TCP_CONGESTION.
    #[serde(with = "serde_bytes")]
    pub congestion: Option<Vec<u8>>,
    /// Options that are ints, by level and number.
    pub options: Vec<(i32, i32, i32)>,
    /// Owner and group of its inode.
    pub owner: (u32, u32),
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
        /// The other end, in the job.
        peer: FileId,
        /// It sends nothing any more.
        shut: bool,
        /// What has been sent to it and not been read.
        #[serde(with = "serde_bytes")]
        queue: Vec<u8>,
    },
}
