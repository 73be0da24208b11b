//! From the mappings of an image to system calls: what is mapped before the
//! contents arrive, and what is done to it afterwards. Pure.
//!
//! Every mapping is made at its final address, writable for the time being
//! where the source had been writable once (that keeps its commit accounting).
//! Protection, mlock, guards and seals come after the contents; huge page
//! advice comes before, because it decides what the contents land on.

use crate::{
    api::Obstacle,
    image::{Backing, FilePath, Mapping, MappingFlags, MemoryImage, Pid, SharedAccess, SharedId},
};

/// End of the addresses that mmap(2) gives without being asked for more
/// (4-level page tables, less the guard page).
pub const ADDRESS_END: u64 = 0x7fff_ffff_f000;
const PAGE: u64 = 4096;

/// Where a mapping's pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: zeroes.
    Anonymous,
    /// Index into [`Layout::files`].
    File(usize),
    /// A shared memory object of the job, and whether it may be written to.
    Shared(SharedId, bool),
}

/// One mmap(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// First address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// PROT_*.
    pub protection: u64,
    /// MAP_*, MAP_FIXED_NOREPLACE included.
    pub flags: u64,
    /// What is mapped.
    pub source: Source,
    /// Offset in it, in bytes.
    pub offset: u64,
}

/// A shmat(2), and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The segment.
    pub object: SharedId,
    /// SHM_RDONLY.
    pub read_only: bool,
    /// Its first address, modulo 2^64: where shmdt(2) finds it.
    pub base: u64,
    /// By rising address.
    pub pieces: Vec<Piece>,
}

/// A mapping that an [`Attach`] is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// Offset in the segment, in bytes.
    pub offset: u64,
    /// PROT_*.
    pub protection: u64,
}

/// A file that the address space maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedFile {
    /// Which.
    pub file: FilePath,
    /// Open for writing as well: a shared mapping that may become writable.
    pub writable: bool,
}

/// Something done to a mapping that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// mprotect(2).
    Protect {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// PROT_*.
        protection: u64,
    },
    /// madvise(2), MADV_GUARD_INSTALL included.
    Advise {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// MADV_*.
        advice: i32,
    },
    /// mlock2(2).
    Lock {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// MLOCK_ONFAULT.
        on_fault: bool,
    },
    /// mseal(2), Linux 6.10.
    Seal {
        /// First address.
        address: u64,
        /// Length in bytes.
        length: u64,
    },
}

/// The plan for one address space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Files to open, each once.
    pub files: Vec<MappedFile>,
    /// Segments of System V, attached before all else.
    pub attaches: Vec<Attach>,
    /// To do before the contents, in this order.
    pub maps: Vec<Map>,
    /// To do between `maps` and the contents.
    pub before: Vec<Touch>,
    /// To do after the contents.
    pub after: Vec<Touch>,
    /// `[vdso]`: address and length.
    pub vdso: Option<(u64, u64)>,
    /// First address of the vDSO's data and code, which are one group.
    pub vdso_group: Option<u64>,
}

/// Plans the address space of `pid`.
///
/// # Errors
/// The mapping that cannot be.
pub fn plan(pid: Pid, memory: &MemoryImage) -> Result<Layout, Obstacle> {
    let mut layout = Layout::default();
    let mut end = 0;
    for mapping in &memory.mappings {
        check(mapping, end).map_err(|reason| obstacle(pid, mapping, reason))?;
        end = mapping.end;
        layout
            .add(mapping)
            .map_err(|reason| obstacle(pid, mapping, reason))?;
        if memory.merge_future && mapping.backing == Backing::Anonymous && !mapping.flags.mergeable
        {
            layout.before.push(Touch::Advise {
                address: mapping.start,
                length: mapping.end - mapping.start,
                advice: libc::MADV_UNMERGEABLE,
            });
        }
    }
    Ok(layout)
}

fn check(mapping: &Mapping, previous_end: u64) -> Result<(), &'static str> {
    let Mapping { start, end, .. } = *mapping;
    if start % PAGE != 0 || end % PAGE != 0 || start >= end {
        return Err("does not consist of whole pages");
    }
    if start < previous_end {
        return Err("overlaps the one before it");
    }
    if end > ADDRESS_END {
        return Err("lies above the addresses of this kernel");
    }
    let inside = |(low, high): &(u64, u64)| {
        low % PAGE == 0 && high % PAGE == 0 && low < high && *low >= start && *high <= end
    };
    if !mapping.guards.iter().all(inside) {
        return Err("has a guard region that is not inside it");
    }
    Ok(())
}

impl Layout {
    fn add(&mut self, mapping: &Mapping) -> Result<(), &'static str> {
        let length = mapping.end - mapping.start;
        let (source, offset, sharing) = match &mapping.backing {
            Backing::Vdso => {
                self.vdso = Some((mapping.start, length));
                self.vdso_group.get_or_insert(mapping.start);
                return Ok(());
            }
            Backing::Vvar | Backing::VvarClock => {
                self.vdso_group.get_or_insert(mapping.start);
                return Ok(());
            }
            Backing::Anonymous if mapping.flags.droppable => {
                (Source::Anonymous, 0, libc::MAP_DROPPABLE)
            }
            Backing::Anonymous => (Source::Anonymous, 0, libc::MAP_PRIVATE),
            Backing::FilePrivate(file) => {
                (self.file(&file.file, false), file.offset, libc::MAP_PRIVATE)
            }
            Backing::FileShared(file, access) => {
                let writable = *access == SharedAccess::ReadWrite;
                (
                    self.file(&file.file, writable),
                    file.offset,
                    libc::MAP_SHARED,
                )
            }
            Backing::Attached {
                object,
                offset,
                read_only,
            } => return self.attach(mapping, *object, *offset, *read_only),
            Backing::Shared {
                object,
                offset,
                private,
                read_only,
            } => {
                let sharing = if *private {
                    libc::MAP_PRIVATE
                } else {
                    libc::MAP_SHARED
                };
                let writable = !*private && !*read_only;
                (Source::Shared(*object, writable), *offset, sharing)
            }
        };
        if offset % PAGE != 0 {
            return Err("has an offset that is not page-aligned");
        }
        let mut flags = sharing | libc::MAP_FIXED_NOREPLACE;
        if source == Source::Anonymous {
            flags |= libc::MAP_ANONYMOUS | huge_page_flags(mapping.flags.hugetlb_kib)?;
        }
        if mapping.flags.grows_down {
            flags |= libc::MAP_GROWSDOWN;
        }
        if mapping.flags.no_reserve {
            flags |= libc::MAP_NORESERVE;
        }
        let protection = u64::from(mapping.protection & 7);
        // Nobody writes past the protection of huge pages.
        let huge = mapping.flags.hugetlb_kib != 0;
        let once_writable = (mapping.flags.accounted || huge) && sharing == libc::MAP_PRIVATE;
        let first = if once_writable {
            protection | WRITE
        } else {
            protection
        };
        self.maps.push(Map {
            address: mapping.start,
            length,
            protection: first,
            flags: u64::from(flags.cast_unsigned()),
            source,
            offset,
        });
        self.touch(mapping, length, (first != protection).then_some(protection));
        Ok(())
    }

    fn attach(
        &mut self,
        mapping: &Mapping,
        object: SharedId,
        offset: u64,
        read_only: bool,
    ) -> Result<(), &'static str> {
        let length = mapping.end - mapping.start;
        if !offset.is_multiple_of(PAGE) || offset.checked_add(length).is_none() {
            return Err("has an impossible offset");
        }
        let piece = Piece {
            address: mapping.start,
            length,
            offset,
            protection: u64::from(mapping.protection & 7),
        };
        let base = mapping.start.wrapping_sub(offset);
        let same = |known: &&mut Attach| {
            (known.object, known.read_only, known.base) == (object, read_only, base)
        };
        match self.attaches.iter_mut().find(same) {
            Some(known) => known.pieces.push(piece),
            None => self.attaches.push(Attach {
                object,
                read_only,
                base,
                pieces: vec![piece],
            }),
        }
        self.touch(mapping, length, None);
        Ok(())
    }

    fn touch(&mut self, mapping: &Mapping, length: u64, protection: Option<u64>) {
        let address = mapping.start;
        let flags = &mapping.flags;
        for (_, advice) in EARLY_ADVICE.iter().filter(|(wanted, _)| wanted(flags)) {
            self.before.push(Touch::Advise {
                address,
                length,
                advice: *advice,
            });
        }
        for (_, advice) in LATE_ADVICE.iter().filter(|(wanted, _)| wanted(flags)) {
            self.after.push(Touch::Advise {
                address,
                length,
                advice: *advice,
            });
        }
        for (low, high) in &mapping.guards {
            self.after.push(Touch::Advise {
                address: *low,
                length: high - low,
                advice: MADV_GUARD_INSTALL,
            });
        }
        if let Some(protection) = protection {
            self.after.push(Touch::Protect {
                address,
                length,
                protection,
            });
        }
        if flags.locked || flags.locked_on_fault {
            self.after.push(Touch::Lock {
                address,
                length,
                on_fault: flags.locked_on_fault,
            });
        }
        if flags.sealed {
            self.after.push(Touch::Seal { address, length });
        }
    }

    fn file(&mut self, file: &FilePath, writable: bool) -> Source {
        let same = |known: &MappedFile| known.writable == writable && known.file == *file;
        let index = self.files.iter().position(same).unwrap_or_else(|| {
            self.files.push(MappedFile {
                file: file.clone(),
                writable,
            });
            self.files.len() - 1
        });
        Source::File(index)
    }
}

const WRITE: u64 = 2;
/// Linux 6.13; libc has no name for it yet.
const MADV_GUARD_INSTALL: i32 = 102;

type Advice = (fn(&MappingFlags) -> bool, i32);

const EARLY_ADVICE: [Advice; 4] = [
    (|f| f.huge_page, libc::MADV_HUGEPAGE),
    (|f| f.no_huge_page, libc::MADV_NOHUGEPAGE),
    (|f| f.sequential, libc::MADV_SEQUENTIAL),
    (|f| f.random, libc::MADV_RANDOM),
];

/// MADV_DONTFORK and MADV_WIPEONFORK come last of all forks, which are done
/// before any layout; a droppable mapping is wiped on fork by itself.
const LATE_ADVICE: [Advice; 4] = [
    (|f| f.dont_fork, libc::MADV_DONTFORK),
    (|f| f.dont_dump && !f.droppable, libc::MADV_DONTDUMP),
    (|f| f.wipe_on_fork && !f.droppable, libc::MADV_WIPEONFORK),
    (|f| f.mergeable, libc::MADV_MERGEABLE),
];

/// MAP_HUGETLB with the size of the pages: its logarithm in bits 26 and up.
pub fn huge_page_flags(kib: u32) -> Result<i32, &'static str> {
    if kib == 0 {
        return Ok(0);
    }
    if !kib.is_power_of_two() {
        return Err("has huge pages of a size that is no power of two");
    }
    let logarithm = kib.trailing_zeros() + 10;
    i32::try_from(logarithm)
        .map(|log| libc::MAP_HUGETLB | log << libc::MAP_HUGE_SHIFT)
        .map_err(|_| "has huge pages of an impossible size")
}

/// A hole of `length` bytes that neither the `occupied` ranges touch: in the
/// middle of the largest gap, so that no stack grows into it and no heap
/// reaches it.
#[must_use]
pub fn hole(mut occupied: Vec<(u64, u64)>, length: u64) -> Option<u64> {
    occupied.push((ADDRESS_END, u64::MAX));
    occupied.sort_unstable();
    // What vm.mmap_min_addr may be at most on a sane system.
    let mut free_from = 0x10_0000;
    let mut best = (0, 0);
    for (start, end) in occupied {
        let gap = start.saturating_sub(free_from);
        if gap > best.0 {
            best = (gap, free_from);
        }
        free_from = free_from.max(end);
    }
    let (gap, start) = best;
    (gap >= length + 2 * MARGIN).then(|| (start + (gap - length) / 2) & !(PAGE - 1))
}

/// Distance kept from neighbours: more than the kernel's stack guard gap.
const MARGIN: u64 = 4 << 20;

fn obstacle(pid: Pid, mapping: &Mapping, reason: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("mapping {:#x}-{:#x}", mapping.start, mapping.end),
        reason: reason.into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
pub(super) mod tests;
