//! The contents of memory, sent beside the image: what is private, by process
//! and address; what is shared, by object. Pages that hold nothing are not sent.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::{SeekFrom, seek};

use super::{BulkSink, CaptureError, Captured, Frozen, memory::unreadable};
use crate::{
    image::{Backing, BulkTarget, Mapping, Pid, ProcessKind, SharedId, SharedMemory},
    sys::{HostPid, pagemap, process_vm},
};

/// Bytes per run: process_vm_readv is at its best from here on.
const RUN: u64 = 1 << 20;
const PAGE: u64 = 4096;

impl Frozen {
    /// Sends the contents of all private memory and of all shared objects.
    ///
    /// # Errors
    /// What cannot be read, or [`CaptureError::Bulk`] from the carrier. The
    /// tree stays frozen.
    pub fn send_memory(
        &mut self,
        captured: &Captured,
        sink: &mut dyn BulkSink,
    ) -> Result<(), CaptureError> {
        let mut buffer = vec![0; usize::try_from(RUN).expect("1 MiB")];
        for (frozen, process) in self.processes.iter().zip(&captured.image.processes) {
            if let ProcessKind::Live(live) = &process.kind {
                send_private(
                    frozen.host,
                    process.pid,
                    &live.memory.mappings,
                    sink,
                    &mut buffer,
                )?;
            }
        }
        for (id, object) in captured.image.shared.iter().enumerate() {
            let id = SharedId::try_from(id).expect("the registry counts in SharedId");
            let file = captured
                .shared
                .contents(id)
                .expect("the image lists the registry's objects");
            send_shared(file, (id, object), sink, &mut buffer)?;
        }
        Ok(())
    }
}

fn send_private(
    host: HostPid,
    pid: Pid,
    mappings: &[Mapping],
    sink: &mut dyn BulkSink,
    buffer: &mut [u8],
) -> Result<(), CaptureError> {
    let pages = pagemap::open(host).map_err(CaptureError::proc(host, "pagemap"))?;
    let memory = process_vm::open_mem(host).map_err(CaptureError::proc(host, "memory"))?;
    let mut runs = Vec::new();
    for mapping in mappings {
        own_pages(&pages, mapping, &mut runs).map_err(CaptureError::proc(host, "pagemap"))?;
    }
    for (start, end) in runs {
        let mut address = start;
        while address < end {
            let len = (end - address).min(RUN);
            let run = &mut buffer[..usize::try_from(len).expect("at most 1 MiB")];
            read(host, &memory, address, run).map_err(CaptureError::proc(host, "memory"))?;
            sink.bulk(BulkTarget::Memory { pid, address }, run)
                .map_err(CaptureError::Bulk)?;
            address += len;
        }
    }
    Ok(())
}

/// Adds the pages that belong to this process alone: anonymous ones, and those
/// of a private view that have been written to. Runs go on from one mapping to the next.
fn own_pages(pages: &File, mapping: &Mapping, runs: &mut Vec<(u64, u64)>) -> io::Result<()> {
    let view_of_file = match mapping.backing {
        Backing::Anonymous => false,
        Backing::FilePrivate(_) | Backing::Shared { private: true, .. } => true,
        _ => return Ok(()),
    };
    if mapping.flags.droppable {
        return Ok(());
    }
    let any = pagemap::PRESENT | pagemap::SWAPPED;
    let returned = any | pagemap::PFNZERO | pagemap::FILE;
    for region in pagemap::scan(pages, mapping.start, mapping.end, any, returned)? {
        let empty = region.categories & pagemap::PFNZERO != 0;
        let from_file = view_of_file && region.categories & pagemap::FILE != 0;
        if empty || from_file {
            continue;
        }
        subtract(region.start, region.end, &mapping.guards, runs);
    }
    Ok(())
}

/// Adds `start..end` without the guard regions, which show as swapped pages
/// and fail when they are read.
fn subtract(start: u64, end: u64, guards: &[(u64, u64)], runs: &mut Vec<(u64, u64)>) {
    let mut from = start;
    let mut add = |from: u64, to: u64| match runs.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => runs.push((from, to)),
    };
    for (guard_start, guard_end) in guards
        .iter()
        .filter(|(guard_start, guard_end)| *guard_start < end && *guard_end > start)
    {
        if from < *guard_start {
            add(from, *guard_start);
        }
        from = from.max(*guard_end);
    }
    if from < end {
        add(from, end);
    }
}

/// process_vm_readv is twice as fast, but honours PROT_NONE.
fn read(host: HostPid, memory: &File, address: u64, run: &mut [u8]) -> io::Result<()> {
    match process_vm::read_exact(host, address, run) {
        Err(error) if unreadable(&error) => memory.read_exact_at(run, address),
        other => other,
    }
}

fn send_shared(
    file: &File,
    (id, object): (SharedId, &SharedMemory),
    sink: &mut dyn BulkSink,
    buffer: &mut [u8],
) -> Result<(), CaptureError> {
    let mut offset = 0;
    while let Some((start, end)) =
        next_data(file, offset, object.size).map_err(CaptureError::Bulk)?
    {
        let mut at = start;
        while at < end {
            let len = (end - at).min(RUN);
            let run = &mut buffer[..usize::try_from(len).expect("at most 1 MiB")];
            file.read_exact_at(run, at).map_err(CaptureError::Bulk)?;
            // hugetlbfs does not tell its holes, which read as zeros.
            let huge = object.kind.hugetlb_kib() != 0;
            if !huge || run.iter().any(|byte| *byte != 0) {
                sink.bulk(
                    BulkTarget::Shared {
                        object: id,
                        offset: at,
                    },
                    run,
                )
                .map_err(CaptureError::Bulk)?;
            }
            at += len;
        }
        offset = end;
    }
    Ok(())
}

/// The next range that is not a hole, page-aligned at its start.
fn next_data(file: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start / PAGE * PAGE,
        // Nothing but a hole to the end.
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?.min(size);
    Ok((start < end).then_some((start, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_left_out() {
        let mut runs = Vec::new();
        subtract(
            0x1000,
            0x9000,
            &[(0x0, 0x2000), (0x4000, 0x5000), (0x8000, 0xa000)],
            &mut runs,
        );
        assert_eq!(runs, [(0x2000, 0x4000), (0x5000, 0x8000)]);
        subtract(0x8000, 0x9000, &[(0x8000, 0x9000)], &mut runs);
        subtract(0x9000, 0xa000, &[], &mut runs);
        subtract(0xa000, 0xb000, &[], &mut runs);
        assert_eq!(runs[2..], [(0x9000, 0xb000)]);
    }
}
