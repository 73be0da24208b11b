//! Address spaces. Page contents travel beside the image, keyed by process
//! and address, or by shared object and offset.

use serde::{Deserialize, Serialize};

use super::{Attributes, FilePath, Segment, SharedFile};

/// Index into [`super::JobImage::shared`].
pub type SharedId = u32;

/// An address space without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryImage {
    /// struct prctl_mm_map, without exe_fd.
    pub layout: Layout,
    /// The program, /proc/PID/exe.
    pub exe: FileMapping,
    /// The same, when it has no name any more.
    pub exe_object: Option<SharedId>,
    /// Mappings by rising address, `[vsyscall]` left out.
    pub mappings: Vec<Mapping>,
    /// The source's vDSO: identity of its code.
    pub vdso: Option<Vdso>,
    /// membarrier(2) registrations, MEMBARRIER_CMD_GET_REGISTRATIONS.
    pub membarrier: u32,
    /// mlockall(MCL_FUTURE): what happens to mappings that are made later.
    pub lock_future: LockFuture,
    /// PR_GET_MEMORY_MERGE: mappings that are made later are merged (KSM).
    pub merge_future: bool,
}

/// What mlockall(2) has in store for mappings that are made later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LockFuture {
    /// Nothing.
    #[default]
    Not,
    /// MCL_FUTURE: they are populated and locked.
    Populated,
    /// MCL_FUTURE | MCL_ONFAULT: what is touched stays.
    OnFault,
}

/// On which memory nodes pages are placed, set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// MPOL_* with MPOL_F_STATIC_NODES and the like.
    pub mode: i32,
    /// Bit n for node n, without zero words at the end.
    pub nodes: Vec<u64>,
}

impl MemoryPolicy {
    /// Words of a mask that no kernel exceeds (MAX_NUMNODES).
    pub const WORDS: usize = 16;
}

/// The numbers that PR_SET_MM_MAP takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layout {
    /// Text of the program.
    pub start_code: u64,
    /// End of text.
    pub end_code: u64,
    /// Data of the program.
    pub start_data: u64,
    /// End of data.
    pub end_data: u64,
    /// Start of the heap.
    pub start_brk: u64,
    /// brk(0).
    pub brk: u64,
    /// Bottom of the main stack.
    pub start_stack: u64,
    /// Argument strings.
    pub arg_start: u64,
    /// End of the argument strings.
    pub arg_end: u64,
    /// Environment strings.
    pub env_start: u64,
    /// End of the environment strings.
    pub env_end: u64,
    /// The auxiliary vector as the kernel keeps it.
    #[serde(with = "serde_bytes")]
    pub auxv: Vec<u8>,
}

/// One mapping (VMA).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    pub protection: u8,
    /// What is behind it.
    pub backing: Backing,
    /// Everything that madvise, mlock and mmap flags leave behind.
    pub flags: MappingFlags,
    /// Lightweight guard regions (MADV_GUARD_INSTALL), absolute addresses.
    pub guards: Vec<(u64, u64)>,
    /// PR_SET_VMA_ANON_NAME.
    pub name: Option<Vec<u8>>,
    /// mbind(2); the thread's own where there is none.
    pub policy: Option<MemoryPolicy>,
}

/// What a mapping maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Private anonymous memory: heap, stacks, malloc.
    Anonymous,
    /// A private view of a file; pages written since are sent.
    FilePrivate(FileMapping),
    /// A shared view of a file: contents live in the file.
    FileShared(FileMapping, SharedAccess),
    /// Memory shared between processes, or by several mappings of one.
    Shared {
        /// The object.
        object: SharedId,
        /// Offset in it, in bytes.
        offset: u64,
        /// MAP_PRIVATE of a shared object: pages written since are sent.
        private: bool,
        /// Mapped through a descriptor open for reading only.
        read_only: bool,
    },
    /// shmat(2) of a segment, or what is left of it.
    Attached {
        /// A [`SharedKind::SystemV`].
        object: SharedId,
        /// Offset in it, in bytes.
        offset: u64,
        /// SHM_RDONLY.
        read_only: bool,
    },
    /// `[vdso]`.
    Vdso,
    /// `[vvar]`.
    Vvar,
    /// `[vvar_vclock]` of Linux 6.13 and later.
    VvarClock,
}

/// How a file was opened for a shared mapping: decides what mprotect may do later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedAccess {
    /// Through a descriptor open for reading only.
    ReadOnly,
    /// Through a descriptor open for reading and writing.
    ReadWrite,
}

/// A file behind a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMapping {
    /// The file.
    pub file: FilePath,
    /// Offset of the mapping's first byte; 0 for the program itself.
    pub offset: u64,
}

/// Flags of a mapping, from smaps' VmFlags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MappingFlags {
    /// gd: MAP_GROWSDOWN.
    pub grows_down: bool,
    /// nr: MAP_NORESERVE.
    pub no_reserve: bool,
    /// ac: counted against the commit limit (was writable once).
    pub accounted: bool,
    /// lo: mlock.
    pub locked: bool,
    /// lf: MLOCK_ONFAULT.
    pub locked_on_fault: bool,
    /// dc: MADV_DONTFORK.
    pub dont_fork: bool,
    /// dd: MADV_DONTDUMP.
    pub dont_dump: bool,
    /// wf: MADV_WIPEONFORK.
    pub wipe_on_fork: bool,
    /// mg: MADV_MERGEABLE.
    pub mergeable: bool,
    /// hg: MADV_HUGEPAGE.
    pub huge_page: bool,
    /// nh: MADV_NOHUGEPAGE.
    pub no_huge_page: bool,
    /// sr: MADV_SEQUENTIAL.
    pub sequential: bool,
    /// rr: MADV_RANDOM.
    pub random: bool,
    /// dp: MAP_DROPPABLE.
    pub droppable: bool,
    /// ht: huge page size in KiB, 0 when ordinary.
    pub hugetlb_kib: u32,
    /// sl: mseal.
    pub sealed: bool,
}

/// Identity of a vDSO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vdso {
    /// NT_GNU_BUILD_ID.
    #[serde(with = "serde_bytes")]
    pub build_id: Vec<u8>,
    /// The whole image, sent so that another kernel can keep it as memory.
    #[serde(with = "serde_bytes")]
    pub code: Vec<u8>,
}

/// A memory object that more than one mapping or descriptor may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMemory {
    /// What made it.
    pub kind: SharedKind,
    /// Size in bytes.
    pub size: u64,
}

/// How a shared memory object came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedKind {
    /// mmap(MAP_SHARED | MAP_ANONYMOUS); hugetlb size in KiB or 0.
    Anonymous {
        /// Huge page size in KiB; 0 for ordinary pages.
        hugetlb_kib: u32,
    },
    /// memfd_create(2).
    Memfd {
        /// Name without the `memfd:` prefix.
        name: Vec<u8>,
        /// F_GET_SEALS.
        seals: u32,
        /// Huge page size in KiB; 0 for ordinary pages.
        hugetlb_kib: u32,
        /// Owner, mode and the like.
        attributes: Attributes,
    },
    /// A regular file of /dev/shm, or one without a name.
    File(SharedFile),
    /// shmget(2).
    SystemV(Segment),
    /// io_uring_setup(2).
    Ring(Box<RingState>),
}

/// A ring of io_uring(7) without requests that are under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingState {
    /// Entries of the submission queue.
    pub sq_entries: u32,
    /// Entries of the completion queue.
    pub cq_entries: u32,
    /// Requests that were taken, and answered: its counters.
    pub served: u32,
    /// IORING_FEAT_* of the kernel that the program knows.
    pub features: u32,
    /// Both queues as they lie in memory (struct io_rings).
    #[serde(with = "serde_bytes")]
    pub queues: Vec<u8>,
    /// The entries to be submitted.
    #[serde(with = "serde_bytes")]
    pub entries: Vec<u8>,
}

impl SharedKind {
    /// Size of its huge pages in KiB; 0 for ordinary pages.
    #[must_use]
    pub fn hugetlb_kib(&self) -> u32 {
        match self {
            Self::Anonymous { hugetlb_kib } | Self::Memfd { hugetlb_kib, .. } => *hugetlb_kib,
            Self::File(_) | Self::SystemV(_) | Self::Ring(_) => 0,
        }
    }
}
