//! Facilities that track what a process writes: PAGEMAP_SCAN and userfaultfd.

use std::ptr;

use nix::errno::Errno;

use super::in_child;
use crate::sys::{
    HostPid,
    pagemap::{self, PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, Region, ScanArgument},
    userfaultfd::WriteTracker,
};

const PAGE: usize = 4096;
const PAGES: usize = 4;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;

/// PAGEMAP_SCAN (Linux 6.7): finds the pages that are there.
///
/// # Errors
/// What the kernel says.
pub fn pagemap_scan() -> Result<(), Errno> {
    in_child(|| {
        let area = Area::map()?;
        area.write(1);
        let found = area.scan(0, PAGE_IS_PRESENT)?;
        (found == 1).then_some(()).ok_or(Errno::EPROTO)
    })
}

/// userfaultfd in mode WP_ASYNC (Linux 6.7) together with PAGEMAP_SCAN: a page
/// that is written again after a scan shows up in the next one, and no other.
///
/// # Errors
/// What the kernel says.
pub fn write_tracking() -> Result<(), Errno> {
    in_child(|| {
        let area = Area::map()?;
        (0..PAGES).for_each(|page| area.write(page));
        let start = area.0 as u64;
        let tracker = WriteTracker::of_this_process().map_err(|error| errno(&error))?;
        tracker
            .register(start, start + (PAGES * PAGE) as u64)
            .map_err(|error| errno(&error))?;
        let track = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
        area.scan(track, PAGE_IS_WRITTEN)?;
        area.write(2);
        let found = area.scan(track, PAGE_IS_WRITTEN)?;
        (found == 1).then_some(()).ok_or(Errno::EPROTO)
    })
}

/// A few pages of private memory; never unmapped, since the child ends.
struct Area(*mut u8);

impl Area {
    fn map() -> Result<Self, Errno> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGES * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self(address.cast()))
    }

    fn write(&self, page: usize) {
        // SAFETY: callers name a page below PAGES; volatile, so that it happens.
        unsafe { self.0.add(page * PAGE).write_volatile(1) }
    }

    /// How many pages of `category` the kernel finds: there is room for one
    /// region per page.
    fn scan(&self, flags: u64, category: u64) -> Result<u64, Errno> {
        let mut regions = [Region::default(); PAGES];
        let pagemap = pagemap::open(HostPid::own()).map_err(|error| errno(&error))?;
        let mut argument = ScanArgument {
            flags,
            start: self.0 as u64,
            end: self.0 as u64 + (PAGES * PAGE) as u64,
            category_mask: category,
            return_mask: category,
            ..ScanArgument::default()
        };
        let count = argument
            .call(&pagemap, &mut regions)
            .map_err(|error| errno(&error))?;
        let pages = |region: &Region| region.end.wrapping_sub(region.start) / PAGE as u64;
        Ok(regions.iter().take(count).map(pages).sum())
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
