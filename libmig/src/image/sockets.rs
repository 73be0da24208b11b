//! Unix sockets and what waits in them.

use serde::{Deserialize, Serialize};

use super::{FileId, Pid};

/// A socket of AF_UNIX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
    pub kind: i32,
    /// Its address: a path as bind(2) was given it, or a zero and an abstract name.
    #[serde(with = "serde_bytes")]
    pub name: Option<Vec<u8>>,
    /// The file that bind(2) has made for it, if its address is a path.
    pub file: Option<SocketFile>,
    /// How many connections may wait, if it listens.
    pub backlog: Option<u32>,
    /// Those who wait to be accepted from it, the first one first.
    pub waiting: Vec<UnixCall>,
    /// The socket that it was accepted from, whose address it has.
    pub accepted_from: Option<FileId>,
    /// It was accepted from a socket that nobody has open any more.
    pub orphan: bool,
    /// What it is connected to.
    pub peer: UnixPeer,
    /// Which directions are closed: 1 for receiving, 2 for sending.
    pub shutdown: u8,
    /// The peer was closed with something unread, which has not been told yet.
    pub reset: bool,
    /// SO_PEERCRED.
    pub credentials: Option<UnixCredentials>,
    /// SO_SNDBUF and SO_RCVBUF, as they are asked for.
    pub buffers: (i32, i32),
    /// SO_SNDTIMEO and SO_RCVTIMEO in microseconds.
    pub timeouts: (u64, u64),
    /// Other options of SOL_SOCKET that are ints, by their numbers.
    pub options: Vec<(i32, i32)>,
    /// Owner and group of its inode.
    pub owner: (u32, u32),
    /// What has been sent to it and not been read: each message, or the bytes
    /// of a stream up to where what they carry changes.
    pub queue: Vec<UnixMessage>,
}

/// What a path-bound socket is found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    /// Absolute path in the job's root; `None` when it has been deleted.
    #[serde(with = "serde_bytes")]
    pub path: Option<Vec<u8>>,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// st_dev, st_ino and the change time in nanoseconds: what tells it from
    /// whatever else may have its name by now.
    pub identity: (u64, u64, i64),
}

/// The other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixPeer {
    /// It has never been connected.
    None,
    /// A socket of the job.
    Socket(FileId),
    /// Nobody has it open any more.
    Closed,
    /// It waits to be accepted ([`UnixSocket::waiting`]).
    Waiting,
}

/// A connection that nobody has accepted, and through which nothing has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixCall {
    /// The end that there is.
    pub from: FileId,
    /// A process that has it: whom SO_PEERCRED is to tell of.
    pub by: UnixCredentials,
}

/// A process as another one sees it through a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixCredentials {
    /// Its ID in the capsule; 0 for one that has ended.
    pub pid: Pid,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What one call has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixMessage {
    /// The bytes; a message may have none.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Descriptors on their way.
    pub files: Vec<FileId>,
    /// The address of the datagram socket that sent it, if it has one.
    #[serde(with = "serde_bytes")]
    pub from: Option<Vec<u8>>,
    /// Who sent it, where the receiver asks for that.
    pub sender: Option<UnixCredentials>,
}
