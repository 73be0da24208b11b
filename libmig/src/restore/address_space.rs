//! The system calls that a husk executes to get its address space: a
//! [`Layout`] as batches. Contents arrive between [`map`] and [`settle`].

use std::os::fd::RawFd;

use super::layout::{ADDRESS_END, Attach, Layout, Map, Source, Touch};
use super::numa;
use crate::{
    image::{LockFuture, Mapping, MemoryImage, SharedId},
    sys::remote::{Arg, Batch, Slot},
};

const ARCH_MAP_VDSO_64: u64 = 0x2003;
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const PR_SET_VMA: u64 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: u64 = 0;
/// Linux 6.4.
const PR_SET_MEMORY_MERGE: u64 = 67;
const MLOCK_ONFAULT: u64 = 1;
/// mseal(2), Linux 6.10.
const SYS_MSEAL: i64 = 462;

/// Descriptors of the daemon that a husk fetches.
pub(super) struct Sources<'a> {
    /// The husk's descriptor that stands for the daemon.
    pub(super) daemon: i32,
    /// The files of the layout, in its order.
    pub(super) files: &'a [RawFd],
    /// Those that are rings of io_uring(7), which come last: see `Building::map_rings`.
    pub(super) is_ring: &'a dyn Fn(SharedId) -> bool,
    /// The shared objects of the job.
    pub(super) shared: &'a dyn Fn(SharedId, bool) -> Option<RawFd>,
    /// One for each of the layout's attaches.
    pub(super) segments: &'a [Segment],
}

/// A segment of System V, and where it is attached for a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) id: i32,
    /// In whole pages.
    pub(super) length: u64,
    /// Free in this address space, and of nobody else's mappings.
    pub(super) passage: u64,
}

/// Where this kernel's vDSO goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VdsoPlace {
    /// First address of data and code.
    pub(super) group: u64,
    /// Memory for the old vDSO, when it is another one: address and length.
    pub(super) old: Option<(u64, u64)>,
}

/// Empties the husk but for the injected pages at `keep`, places the vDSO and
/// maps everything.
pub(super) fn map(
    (layout, memory): (&Layout, &MemoryImage),
    keep: (u64, u64),
    vdso: Option<VdsoPlace>,
    sources: &Sources<'_>,
) -> Batch {
    let mut batch = Batch::new();
    if memory.merge_future {
        // For the mappings made from here on. Not all kernels can.
        batch.attempt(
            libc::SYS_prctl,
            &[
                PR_SET_MEMORY_MERGE.into(),
                1u64.into(),
                0u64.into(),
                0u64.into(),
                0u64.into(),
            ],
        );
    }
    batch.call(libc::SYS_munmap, &[0u64.into(), keep.0.into()]);
    batch.call(
        libc::SYS_munmap,
        &[keep.1.into(), (ADDRESS_END - keep.1).into()],
    );
    attach(&mut batch, layout, sources);
    if let Some(place) = vdso {
        batch.call(
            libc::SYS_arch_prctl,
            &[ARCH_MAP_VDSO_64.into(), place.group.into()],
        );
        if let Some((address, length)) = place.old {
            map_anonymous(&mut batch, address, length);
        }
    }
    extend(&mut batch, layout, sources);
    describe(&mut batch, layout, memory);
    batch
}

/// Policies and names of the mappings that are there.
pub(super) fn describe(batch: &mut Batch, layout: &Layout, memory: &MemoryImage) {
    let there = |mapping: &&Mapping| layout.maps.iter().any(|map| map.address == mapping.start);
    for mapping in memory.mappings.iter().filter(there) {
        numa::bind(batch, mapping);
        name_it(batch, mapping);
    }
}

/// Attaches all segments, where nothing is yet.
pub(super) fn attach(batch: &mut Batch, layout: &Layout, sources: &Sources<'_>) {
    for (attach, segment) in layout.attaches.iter().zip(sources.segments) {
        add_attach(batch, attach, *segment);
    }
}

/// Maps everything else, where nothing is yet.
pub(super) fn extend(batch: &mut Batch, layout: &Layout, sources: &Sources<'_>) {
    let mut fetched: Vec<(Source, Slot)> = Vec::new();
    let is_ring = |map: &Map| matches!(map.source, Source::Shared(id, _) if (sources.is_ring)(id));
    for step in layout.maps.iter().filter(|step| !is_ring(step)) {
        map_one(batch, step, sources, &mut fetched);
    }
    for (_, descriptor) in fetched {
        batch.call(libc::SYS_close, &[descriptor.into()]);
    }
    for touch in &layout.before {
        add_touch(batch, *touch);
    }
}

/// PR_SET_VMA_ANON_NAME; not all kernels have names.
fn name_it(batch: &mut Batch, mapping: &Mapping) {
    let Some(name) = &mapping.name else {
        return;
    };
    let length = mapping.end - mapping.start;
    let name = batch.string(name);
    batch.attempt(
        libc::SYS_prctl,
        &[
            PR_SET_VMA.into(),
            PR_SET_VMA_ANON_NAME.into(),
            mapping.start.into(),
            length.into(),
            name.into(),
        ],
    );
}

/// Attaches a segment elsewhere, moves what is left of it to its place, and removes the rest:
/// all of it may not have room where it once was. Neighbours that the kernel has not joined
/// count as two attachments: they are kept apart by their protection until they are in place.
fn add_attach(batch: &mut Batch, attach: &Attach, segment: Segment) {
    let Segment {
        id,
        length,
        passage,
    } = segment;
    let flags = if attach.read_only {
        libc::SHM_RDONLY
    } else {
        0
    };
    batch.call(libc::SYS_shmat, &[id.into(), passage.into(), flags.into()]);
    let moved = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    for (index, piece) in attach.pieces.iter().enumerate() {
        let from = passage + piece.offset;
        let apart = if index % 2 == 0 {
            libc::PROT_READ
        } else {
            libc::PROT_NONE
        };
        batch.call(
            libc::SYS_mprotect,
            &[from.into(), piece.length.into(), apart.into()],
        );
        batch.call(
            libc::SYS_mremap,
            &[
                from.into(),
                piece.length.into(),
                piece.length.into(),
                moved.into(),
                piece.address.into(),
            ],
        );
    }
    batch.call(libc::SYS_munmap, &[passage.into(), length.into()]);
    for piece in &attach.pieces {
        add_touch(
            batch,
            Touch::Protect {
                address: piece.address,
                length: piece.length,
                protection: piece.protection,
            },
        );
    }
}

fn map_anonymous(batch: &mut Batch, address: u64, length: u64) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    batch.call(
        libc::SYS_mmap,
        &[
            address.into(),
            length.into(),
            protection.into(),
            flags.into(),
            (-1).into(),
            0u64.into(),
        ],
    );
}

fn map_one(batch: &mut Batch, map: &Map, sources: &Sources<'_>, fetched: &mut Vec<(Source, Slot)>) {
    let local = match map.source {
        Source::Anonymous => None,
        Source::File(index) => sources.files.get(index).copied(),
        Source::Shared(object, writable) => (sources.shared)(object, writable),
    };
    let descriptor = match (map.source, local) {
        (Source::Anonymous, _) => Arg::from(-1),
        (source, local) => {
            fetch(batch, source, local.unwrap_or(-1), sources.daemon, fetched).into()
        }
    };
    batch.call(
        libc::SYS_mmap,
        &[
            map.address.into(),
            map.length.into(),
            map.protection.into(),
            map.flags.into(),
            descriptor,
            map.offset.into(),
        ],
    );
}

/// A descriptor of the daemon, once for each address space.
fn fetch(
    batch: &mut Batch,
    source: Source,
    local: RawFd,
    daemon: i32,
    fetched: &mut Vec<(Source, Slot)>,
) -> Slot {
    if let Some((_, slot)) = fetched.iter().find(|(known, _)| *known == source) {
        return *slot;
    }
    let slot = batch.call(
        libc::SYS_pidfd_getfd,
        &[daemon.into(), local.into(), 0u64.into()],
    );
    fetched.push((source, slot));
    slot
}

/// What comes after the contents: protection, locks, guards, seals, and the
/// numbers that /proc shows. `exe` is the daemon's descriptor of the program.
pub(super) fn settle(
    batch: &mut Batch,
    layout: &Layout,
    memory: &MemoryImage,
    vdso: Option<VdsoPlace>,
    daemon: i32,
    exe: RawFd,
) {
    if let Some((address, length)) = vdso.and_then(|place| place.old) {
        let protection = u64::from((libc::PROT_READ | libc::PROT_EXEC).cast_unsigned());
        add_touch(
            batch,
            Touch::Protect {
                address,
                length,
                protection,
            },
        );
    }
    for touch in &layout.after {
        add_touch(batch, *touch);
    }
    set_numbers(batch, memory, daemon, exe);
    let lock_future = match memory.lock_future {
        LockFuture::Not => None,
        LockFuture::Populated => Some(libc::MCL_FUTURE),
        LockFuture::OnFault => Some(libc::MCL_FUTURE | libc::MCL_ONFAULT),
    };
    if let Some(flags) = lock_future {
        batch.call(libc::SYS_mlockall, &[flags.into()]);
    }
    for bit in (0..32).filter(|bit| memory.membarrier & 1 << bit != 0) {
        batch.call(
            libc::SYS_membarrier,
            &[(1u64 << bit).into(), 0u64.into(), 0u64.into()],
        );
    }
}

/// PR_SET_MM_MAP with the auxiliary vector and the link /proc/PID/exe. No
/// mapping of the husk's own program may be left (`EBUSY`).
fn set_numbers(batch: &mut Batch, memory: &MemoryImage, daemon: i32, exe: RawFd) {
    let l = &memory.layout;
    let words = [
        l.start_code,
        l.end_code,
        l.start_data,
        l.end_data,
        l.start_brk,
        l.brk,
        l.start_stack,
        l.arg_start,
        l.arg_end,
        l.env_start,
        l.env_end,
        0,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let auxv_at = bytes.len() - 8;
    bytes.extend(
        u32::try_from(l.auxv.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    let exe_at = bytes.len();
    bytes.extend(u32::MAX.to_le_bytes());
    let length = bytes.len() as u64;
    let numbers = batch.data(&bytes);
    let auxv = batch.data(&l.auxv);
    batch.link(numbers.at(auxv_at), auxv);
    let program = batch.call(
        libc::SYS_pidfd_getfd,
        &[daemon.into(), exe.into(), 0u64.into()],
    );
    batch.store(program, numbers.at(exe_at));
    batch.call(
        libc::SYS_prctl,
        &[
            PR_SET_MM.into(),
            PR_SET_MM_MAP.into(),
            numbers.into(),
            length.into(),
            0u64.into(),
        ],
    );
    batch.call(libc::SYS_close, &[program.into()]);
}

fn add_touch(batch: &mut Batch, touch: Touch) {
    match touch {
        Touch::Protect {
            address,
            length,
            protection,
        } => {
            batch.call(
                libc::SYS_mprotect,
                &[address.into(), length.into(), protection.into()],
            );
        }
        Touch::Advise {
            address,
            length,
            advice,
        } => {
            batch.call(
                libc::SYS_madvise,
                &[address.into(), length.into(), advice.into()],
            );
        }
        Touch::Lock {
            address,
            length,
            on_fault,
        } => {
            let flags = if on_fault { MLOCK_ONFAULT } else { 0 };
            batch.call(
                libc::SYS_mlock2,
                &[address.into(), length.into(), flags.into()],
            );
        }
        Touch::Seal { address, length } => {
            batch.call(SYS_MSEAL, &[address.into(), length.into(), 0u64.into()]);
        }
    }
}
