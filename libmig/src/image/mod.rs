//! A process tree as plain data: what travels, and what the differential
//! oracle compares. Knows nothing of the kernel and nothing of the wire.
//!
//! Only append to enums, and never add a field to a struct that has been
//! published: postcard is not self-describing (see docs/wire.md).

mod draft;
mod files;
mod inet;
mod locks;
mod manifest;
mod memory;
mod mounts;
mod namespaces;
mod process;
mod shm;
mod sockets;
mod system_v;

pub use draft::*;
pub use files::*;
pub use inet::*;
pub use locks::*;
pub use manifest::*;
pub use memory::*;
pub use mounts::*;
pub use namespaces::*;
pub use process::*;
pub use shm::*;
pub use sockets::*;
pub use system_v::*;

use serde::{Deserialize, Serialize};

/// One job at one instant: everything but the contents of its memory, which
/// travel as page frames beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobImage {
    /// What the capsule must offer before a process can live in it.
    pub capsule: CapsuleImage,
    /// Every process below the capsule's init, parents before children.
    pub processes: Vec<Process>,
    /// Open file descriptions, shared by descriptors across the whole tree.
    /// A [`FileId`] is an index into this list.
    pub files: Vec<OpenFile>,
    /// Pipes and FIFOs that are open somewhere in the tree. A [`PipeId`] is an
    /// index into this list.
    pub pipes: Vec<Pipe>,
    /// Pseudo-terminals of the capsule. A [`TtyId`] is an index.
    pub ttys: Vec<Tty>,
    /// Memory objects that several mappings or descriptors share. A
    /// [`SharedId`] is an index.
    pub shared: Vec<SharedMemory>,
    /// Locks on files that it holds.
    pub locks: Vec<FileLock>,
    /// What is in its /dev/shm.
    pub shm: Vec<ShmEntry>,
    /// Semaphores and message queues.
    pub system_v: SystemV,
    /// Namespaces that it has made, owners before what they own. A [`NamespaceId`] is an index.
    pub namespaces: Vec<Namespace>,
    /// File systems that are mounted in these. A [`SystemId`] is an index.
    pub systems: Vec<FileSystem>,
}

/// The world that the processes of a job see, as far as the kernel keeps it
/// per namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsuleImage {
    /// utsname nodename.
    pub hostname: String,
    /// utsname domainname.
    pub domainname: String,
    /// The job's clocks when it was frozen.
    pub clocks: Clocks,
}

/// Clocks as the job reads them, in nanoseconds, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clocks {
    /// CLOCK_REALTIME: never changed by a move.
    pub realtime_ns: i64,
    /// CLOCK_MONOTONIC in the job's time namespace: goes on where it stopped.
    pub monotonic_ns: i64,
    /// CLOCK_BOOTTIME in the job's time namespace: includes the pause.
    pub boottime_ns: i64,
}

impl Clocks {
    /// Those of a time namespace that differs from the job's.
    #[must_use]
    pub fn shifted(self, shift: ClockShift) -> Self {
        Self {
            realtime_ns: self.realtime_ns,
            monotonic_ns: self.monotonic_ns.saturating_add(shift.monotonic_ns),
            boottime_ns: self.boottime_ns.saturating_add(shift.boottime_ns),
        }
    }
}

/// Bytes that travel beside the image because they may be large: where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BulkTarget {
    /// Memory of a process at a page-aligned address.
    Memory {
        /// The process, in the capsule.
        pid: Pid,
        /// First address.
        address: u64,
    },
    /// A shared memory object.
    Shared {
        /// The object.
        object: SharedId,
        /// Offset in bytes, page-aligned.
        offset: u64,
    },
    /// An unlinked file; `file` is its first description.
    File {
        /// The description.
        file: FileId,
        /// Offset in bytes.
        offset: u64,
    },
}

impl BulkTarget {
    /// So many bytes further.
    #[must_use]
    pub fn after(mut self, bytes: u64) -> Self {
        match &mut self {
            Self::Memory { address: at, .. }
            | Self::Shared { offset: at, .. }
            | Self::File { offset: at, .. } => *at = at.saturating_add(bytes),
        }
        self
    }
}
