//! Writing to files that write(2) does not work on: those of hugetlbfs.

use std::{fs::File, io, num::NonZeroUsize, slice};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Writes all of `bytes` at `offset` of `file`, through a mapping of the pages of `page` bytes.
///
/// # Errors
/// ENOMEM when there are no such pages any more; InvalidInput beyond the end of the file, where
/// a write to a mapping would be answered by SIGBUS.
pub fn write(file: &File, offset: u64, bytes: &[u8], page: u64) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let end = offset
        .checked_add(bytes.len() as u64)
        .filter(|end| *end <= file.metadata().map_or(0, |about| about.len()))
        .ok_or_else(invalid)?;
    let first = offset / page * page;
    let length = usize::try_from(end.next_multiple_of(page) - first).map_err(|_| invalid())?;
    let skipped = usize::try_from(offset - first).map_err(|_| invalid())?;
    let whole = NonZeroUsize::new(length).ok_or_else(invalid)?;
    let start = i64::try_from(first).map_err(|_| invalid())?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, at no address of anybody's.
    let area = unsafe { mmap(None, whole, protection, MapFlags::MAP_SHARED, file, start)? };
    // SAFETY: the mapping has `length` bytes, all within the file, that nobody else refers to;
    // the kernel has reserved its pages.
    let view = unsafe { slice::from_raw_parts_mut(area.as_ptr().cast::<u8>(), length) };
    view[skipped..skipped + bytes.len()].copy_from_slice(bytes);
    // SAFETY: `view` is not used any more.
    unsafe { munmap(area, length)? };
    Ok(())
}
