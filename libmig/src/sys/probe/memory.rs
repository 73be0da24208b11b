//! Facilities that track what a process writes: PAGEMAP_SCAN and userfaultfd.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use nix::errno::Errno;

use super::{check, in_child};
use crate::sys::{
    HostPid,
    pagemap::{self, Region, ScanArgument},
};

const PAGE: usize = 4096;
const PAGES: usize = 4;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// struct uffdio_api of include/uapi/linux/userfaultfd.h.
#[repr(C)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// struct uffdio_register.
#[repr(C)]
struct UffdRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

nix::ioctl_readwrite!(uffd_api, 0xAA, 0x3F, UffdApi);
nix::ioctl_readwrite!(uffd_register, 0xAA, 0x00, UffdRegister);

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
    const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
    const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
    in_child(|| {
        let area = Area::map()?;
        (0..PAGES).for_each(|page| area.write(page));
        // SAFETY: no pointers; a new descriptor comes back.
        let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })?;
        let fd = i32::try_from(fd).map_err(|_| Errno::EPROTO)?;
        // SAFETY: it was just made, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = UffdApi {
            api: 0xAA,
            features: UFFD_FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: a userfaultfd, and the struct that the call takes.
        unsafe { uffd_api(fd.as_raw_fd(), &raw mut api) }?;
        let mut register = UffdRegister {
            start: area.0 as u64,
            len: (PAGES * PAGE) as u64,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: as above; the range is our own mapping. In mode WP_ASYNC the
        // kernel resolves all faults by itself.
        unsafe { uffd_register(fd.as_raw_fd(), &raw mut register) }?;
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
