//! PAGEMAP_SCAN (Linux 6.7): which pages of a process are there, in what way.

use std::{fs::File, io, os::fd::AsRawFd};

/// PAGE_IS_WRITTEN: since the last scan that cleared it (see [`super::userfaultfd`]).
pub const WRITTEN: u64 = 1 << 1;
/// PAGE_IS_FILE: file-mapped or shared; a private copy is not.
pub const FILE: u64 = 1 << 2;
/// PAGE_IS_PRESENT.
pub const PRESENT: u64 = 1 << 3;
/// PAGE_IS_SWAPPED.
pub const SWAPPED: u64 = 1 << 4;
/// PAGE_IS_PFNZERO: the zero page.
pub const PFNZERO: u64 = 1 << 5;
/// PAGE_IS_GUARD (Linux 6.15): MADV_GUARD_INSTALL.
pub const GUARD: u64 = 1 << 8;

/// Clears [`WRITTEN`] of what is found.
pub(super) const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
/// Fails with EPERM where writes are not noted.
pub(super) const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// _IOWR('f', 16, struct pm_scan_arg).
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const BATCH: usize = 1024;
const PAGE: u64 = 4096;

/// struct pm_scan_arg.
#[repr(C)]
#[derive(Default)]
pub(super) struct ScanArgument {
    pub(super) size: u64,
    pub(super) flags: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) walk_end: u64,
    pub(super) vec: u64,
    pub(super) vec_len: u64,
    pub(super) max_pages: u64,
    pub(super) category_inverted: u64,
    pub(super) category_mask: u64,
    pub(super) category_anyof_mask: u64,
    pub(super) return_mask: u64,
}

impl ScanArgument {
    /// Makes the call; returns how many of `regions` it has filled.
    pub(super) fn call(&mut self, pagemap: &File, regions: &mut [Region]) -> io::Result<usize> {
        self.size = size_of::<Self>() as u64;
        self.vec = regions.as_mut_ptr().expose_provenance() as u64;
        self.vec_len = regions.len() as u64;
        // SAFETY: the kernel reads and writes `self`, and writes at most
        // `vec_len` regions to `regions`; both outlive the call.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut *self) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// A run of pages of the same categories (struct page_region).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Categories out of those asked for.
    pub categories: u64,
}

/// Opens `/proc/PID/pagemap`.
///
/// # Errors
/// Without the right to trace the process.
pub fn open(pid: super::HostPid) -> io::Result<File> {
    File::open(format!("/proc/{pid}/pagemap"))
}

/// What to look for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query {
    /// Categories that a page must have, all of them.
    pub all: u64,
    /// Categories of which a page must have one, if there are any.
    pub any: u64,
    /// Categories that are told.
    pub returned: u64,
    /// Only where writes are noted.
    pub tracked: bool,
    /// From now on what was found counts as not [`WRITTEN`]; done together with the look,
    /// so that no write is missed.
    pub clear: bool,
}

/// The pages of `start..end` that have one of the categories `any`, with
/// their categories out of `returned`.
///
/// # Errors
/// EINVAL for a category that this kernel does not know; ESRCH when the process is gone.
pub fn scan(
    pagemap: &File,
    start: u64,
    end: u64,
    any: u64,
    returned: u64,
) -> io::Result<Vec<Region>> {
    let query = Query {
        any,
        returned,
        ..Query::default()
    };
    find(pagemap, start, end, query)
}

/// The pages of `start..end` that a query is about; where it clears, some may come twice.
///
/// # Errors
/// As [`scan`]; EPERM where writes should be noted and are not. What was cleared until
/// then is not told.
pub fn find(pagemap: &File, start: u64, end: u64, query: Query) -> io::Result<Vec<Region>> {
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    let flags = flag(query.clear, PM_SCAN_WP_MATCHING) | flag(query.tracked, PM_SCAN_CHECK_WPASYNC);
    let mut found: Vec<Region> = Vec::new();
    let mut from = start;
    loop {
        // Room for no more than there can be: to clear it takes longer than a short scan.
        let pages = end.saturating_sub(from) / PAGE;
        let room = usize::try_from(pages).unwrap_or(BATCH).min(BATCH - 1) + 1;
        let mut regions = vec![Region::default(); room];
        let mut argument = ScanArgument {
            flags,
            start: from,
            end,
            category_mask: query.all,
            category_anyof_mask: query.any,
            return_mask: query.returned,
            ..ScanArgument::default()
        };
        let count = argument.call(pagemap, &mut regions)?;
        for region in regions.iter().take(count) {
            // What was reported already may come once more; if it is cleared, then with what has
            // been written to since, which nobody will tell of again.
            let floor = match found.last() {
                Some(last) if !query.clear => last.end,
                _ => start,
            };
            if region.end > floor {
                found.push(Region {
                    start: region.start.max(floor),
                    ..*region
                });
            }
        }
        // Not `walk_end == end`: it stays behind although the walk is complete
        // when the kernel's own buffer was flushed in between.
        if count < room || argument.walk_end >= end {
            return Ok(found);
        }
        from = argument.walk_end;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;
    use crate::sys::{HostPid, process_vm, userfaultfd::WriteTracker};

    const PAGES: u64 = 16 * 1024;

    /// Pages of this process, each with a counter.
    struct Memory(u64);

    impl Memory {
        fn new() -> Self {
            let len = usize::try_from(PAGES * PAGE).unwrap();
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            // SAFETY: a new mapping at an address of the kernel's choice.
            let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags) };
            Self(at.unwrap().expose_provenance() as u64)
        }

        fn counter(&self, page: u64) -> &AtomicU64 {
            let at = usize::try_from(self.0 + page % PAGES * PAGE).unwrap();
            // SAFETY: aligned, in the mapping, which outlives `self`, and only used as an atomic.
            unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(at)) }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            let at = std::ptr::with_exposed_provenance_mut(usize::try_from(self.0).unwrap());
            // SAFETY: the mapping of `new`; no counter is borrowed any more.
            unsafe { munmap(at, usize::try_from(PAGES * PAGE).unwrap()) }.unwrap();
        }
    }

    /// Copies what has been written to since the last round.
    fn round(memory: &Memory, pagemap: &File, copy: &mut [u64]) {
        let query = Query {
            all: WRITTEN,
            any: PRESENT | SWAPPED,
            returned: PRESENT,
            tracked: true,
            clear: true,
        };
        let end = memory.0 + PAGES * PAGE;
        for region in find(pagemap, memory.0, end, query).unwrap() {
            for address in (region.start..region.end).step_by(4096) {
                let mut word = [0; 8];
                process_vm::read_exact(HostPid::own(), address, &mut word).unwrap();
                let page = usize::try_from((address - memory.0) / PAGE).unwrap();
                copy[page] = u64::from_le_bytes(word);
            }
        }
    }

    #[test]
    fn no_write_is_missed_however_much_there_is_to_tell() {
        let memory = Memory::new();
        let pagemap = open(HostPid::own()).unwrap();
        let tracker = WriteTracker::of_this_process().unwrap();
        tracker.register(memory.0, memory.0 + PAGES * PAGE).unwrap();
        let mut copy = vec![0; usize::try_from(PAGES).unwrap()];
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut state = 0x9e37_79b9_7f4a_7c15_u64;
                for _ in 0..1_000_000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    memory.counter(state).fetch_add(1, Ordering::Relaxed);
                }
            });
            while !writer.is_finished() {
                round(&memory, &pagemap, &mut copy);
            }
        });
        round(&memory, &pagemap, &mut copy);
        for page in 0..PAGES {
            let is = memory.counter(page).load(Ordering::Relaxed);
            assert_eq!(copy[usize::try_from(page).unwrap()], is, "page {page}");
        }
    }
}
