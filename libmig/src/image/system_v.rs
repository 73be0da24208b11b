//! System V IPC of a capsule's own namespace.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::Pid;

/// All of it that moves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SystemV {
    /// Semaphore sets by their places in the table.
    pub semaphores: Vec<SemaphoreSet>,
    /// Message queues likewise.
    pub queues: Vec<MessageQueue>,
    /// What semaphores get back when processes end.
    pub adjustments: Vec<Adjustment>,
    /// Queues of POSIX, which are of the same namespace, by name.
    pub posix_queues: Vec<PosixQueue>,
}

/// A message queue of POSIX (mq_overview(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixQueue {
    /// Without a slash.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// mq_maxmsg.
    pub most: i64,
    /// mq_msgsize.
    pub longest: i64,
    /// Priority and text, the first to be received first.
    pub messages: Vec<(u32, ByteBuf)>,
}

/// What a semaphore gets when a process ends (SEM_UNDO).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// The process.
    pub pid: Pid,
    /// ID of the set.
    pub set: i32,
    /// Place in the set.
    pub number: u16,
    /// What is added.
    pub by: i16,
}

/// struct ipc_perm, and the ID that goes along.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IpcObject {
    /// What semget(2) and its like return.
    pub id: i32,
    /// What it is found by; 0 for IPC_PRIVATE.
    pub key: i32,
    /// The lowest nine bits of the mode.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Who made it.
    pub creator_uid: u32,
    /// Who made it.
    pub creator_gid: u32,
}

/// A set of semaphores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemaphoreSet {
    /// ID and owner.
    pub object: IpcObject,
    /// Whether sem_otime is not 0, by which programs tell that a set is ready for use.
    pub operated: bool,
    /// GETALL.
    pub values: Vec<u16>,
}

/// A queue, its messages in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageQueue {
    /// ID and owner.
    pub object: IpcObject,
    /// msg_qbytes.
    pub capacity: u64,
    /// Type and text.
    pub messages: Vec<(i64, ByteBuf)>,
}

/// A segment of shared memory; its contents travel as those of a shared object do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// ID and owner. The key is the one that it was made with, which the kernel names its
    /// mappings by; others find a segment that has been removed by no key.
    pub object: IpcObject,
    /// SHM_DEST: it has been removed, and goes when nobody has it attached.
    pub removed: bool,
    /// SHM_LOCKED.
    pub locked: bool,
    /// What is in its last page beyond its size; programs may use all of that page.
    pub tail: ByteBuf,
}
