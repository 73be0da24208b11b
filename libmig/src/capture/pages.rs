//! The contents of memory, sent beside the image: what is private, by process
//! and address; what is shared, by object. Pages that hold nothing are not sent.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use rangemap::RangeSet;
use rustix::fs::{SeekFrom, seek};

use super::{
    BulkSink, CaptureError, Captured, Frozen, Tracker, memory::unreadable, track::Followed,
};
use crate::{
    image::{
        Backing, BulkTarget, FileObject, Mapping, MemoryImage, OpenFile, Pid, Process, ProcessKind,
        SharedId, SharedMemory,
    },
    sys::{
        HostPid,
        pagemap::{self, Region},
        process_vm,
    },
};

/// Bytes per run: process_vm_readv is at its best from here on.
const RUN: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Categories of pages that hold anything.
pub(super) const ANY: u64 = pagemap::PRESENT | pagemap::SWAPPED;
/// What [`is_own`] must know.
pub(super) const RETURNED: u64 = ANY | pagemap::PFNZERO | pagemap::FILE;

impl Frozen {
    /// Sends the contents of all private memory and of all shared objects, but for what
    /// the destination has by the rounds of `tracker`.
    ///
    /// # Errors
    /// What cannot be read, or [`CaptureError::Bulk`] from the carrier. The
    /// tree stays frozen.
    pub fn send_memory(
        &mut self,
        captured: &Captured,
        mut tracker: Option<&mut Tracker>,
        sink: &mut dyn BulkSink,
    ) -> Result<(), CaptureError> {
        let mut buffer = buffer();
        let trusted = !is_read_past_its_pages(&captured.image.files);
        for (frozen, process) in self.processes.iter().zip(&captured.image.processes) {
            if let ProcessKind::Live(live) = &process.kind {
                let mut followed = tracker.as_mut().and_then(|tracker| tracker.of(frozen.host));
                if let Some(followed) = &mut followed
                    && !trusted
                {
                    followed.distrust();
                }
                let source = Source::open(frozen.host)?;
                source.send_private(process.pid, &live.memory, followed, sink, &mut buffer)?;
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

/// Whether files are read by O_DIRECT: what a device writes to memory in the middle of a round,
/// its page tables do not tell of.
fn is_read_past_its_pages(files: &[OpenFile]) -> bool {
    let of_a_device = |file: &OpenFile| {
        let object = &file.object;
        matches!(
            object,
            FileObject::Path(_) | FileObject::Unlinked(_) | FileObject::Shared(_)
        )
    };
    let mut files = files.iter().filter(|file| of_a_device(file));
    files.any(|file| file.flags & libc::O_DIRECT != 0)
}

/// Room for a piece.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; usize::try_from(RUN).expect("1 MiB")]
}

/// A run in pieces that fit into [`buffer`].
pub(super) fn pieces(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = (run.start..run.end).step_by(usize::try_from(RUN).expect("1 MiB"));
    starts.map(move |start| start..(start + RUN).min(run.end))
}

/// A process whose memory is read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) host: HostPid,
    pub(super) pagemap: File,
    memory: File,
}

impl Source {
    pub(super) fn open(host: HostPid) -> Result<Self, CaptureError> {
        Ok(Self {
            host,
            pagemap: pagemap::open(host).map_err(CaptureError::proc(host, "pagemap"))?,
            memory: process_vm::open_mem(host).map_err(CaptureError::proc(host, "memory"))?,
        })
    }

    fn send_private(
        &self,
        pid: Pid,
        memory: &MemoryImage,
        followed: Option<&mut Followed>,
        sink: &mut dyn BulkSink,
        buffer: &mut [u8],
    ) -> Result<(), CaptureError> {
        let failed = || CaptureError::proc(self.host, "pagemap");
        let mut right = RangeSet::new();
        let mut outdated = RangeSet::new();
        if let Some(followed) = followed {
            right = followed.still_right(memory).map_err(failed())?;
            outdated = followed.sent().clone();
        }
        let mut runs = Vec::new();
        for mapping in &memory.mappings {
            let Some(of_file) = view(mapping) else {
                continue;
            };
            for gap in right.gaps(&(mapping.start..mapping.end)) {
                self.own_pages(mapping, (gap.start, gap.end), of_file, &mut runs)
                    .map_err(failed())?;
            }
        }
        for kept in right
            .into_iter()
            .chain(runs.iter().map(|(start, end)| *start..*end))
        {
            outdated.remove(kept);
        }
        for mapping in &memory.mappings {
            for range in clipped(&outdated, &(mapping.start..mapping.end)) {
                sink.absent(pid, range).map_err(CaptureError::Bulk)?;
            }
        }
        for (start, end) in runs {
            for piece in pieces(start..end) {
                self.send(pid, piece, sink, buffer)?;
            }
        }
        Ok(())
    }

    /// One piece, of at most the buffer's length. Returns what has been sent.
    pub(super) fn send<'a>(
        &self,
        pid: Pid,
        piece: Range<u64>,
        sink: &mut dyn BulkSink,
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8], CaptureError> {
        let run = &mut buffer[..usize::try_from(piece.end - piece.start).expect("at most 1 MiB")];
        self.read(piece.start, run)
            .map_err(CaptureError::proc(self.host, "memory"))?;
        let address = piece.start;
        sink.bulk(BulkTarget::Memory { pid, address }, run)
            .map_err(CaptureError::Bulk)?;
        Ok(run)
    }

    /// process_vm_readv is twice as fast, but honours PROT_NONE.
    pub(super) fn read(&self, address: u64, run: &mut [u8]) -> io::Result<()> {
        match process_vm::read_exact(self.host, address, run) {
            Err(error) if unreadable(&error) => self.memory.read_exact_at(run, address),
            other => other,
        }
    }

    /// Adds the pages of `start..end` that belong to this process alone. Runs go on from
    /// one mapping to the next.
    fn own_pages(
        &self,
        mapping: &Mapping,
        (start, end): (u64, u64),
        of_file: bool,
        runs: &mut Vec<(u64, u64)>,
    ) -> io::Result<()> {
        for region in pagemap::scan(&self.pagemap, start, end, ANY, RETURNED)? {
            if is_own(&region, of_file) {
                subtract(region.start, region.end, &mapping.guards, runs);
            }
        }
        Ok(())
    }
}

/// Where in a process its memory is whose contents are sent; nothing else has a place in what
/// was sent of it before it was captured.
#[must_use]
pub fn own_memory(process: &Process) -> RangeSet<u64> {
    let mut own = RangeSet::new();
    let ProcessKind::Live(live) = &process.kind else {
        return own;
    };
    for mapping in &live.memory.mappings {
        if view(mapping).is_some() {
            let mut runs = Vec::new();
            subtract(mapping.start, mapping.end, &mapping.guards, &mut runs);
            own.extend(runs.into_iter().map(|(start, end)| start..end));
        }
    }
    own
}

/// Whether a mapping has pages that belong to its process alone, and whether it is a view of a file:
/// there, only those that have been written to do.
pub(super) fn view(mapping: &Mapping) -> Option<bool> {
    match mapping.backing {
        _ if mapping.flags.droppable => None,
        Backing::Anonymous => Some(false),
        Backing::FilePrivate(_) | Backing::Shared { private: true, .. } => Some(true),
        _ => None,
    }
}

/// Whether these pages belong to the process alone and hold something.
pub(super) fn is_own(region: &Region, of_file: bool) -> bool {
    let empty = region.categories & pagemap::PFNZERO != 0;
    let from_file = of_file && region.categories & pagemap::FILE != 0;
    !empty && !from_file
}

/// What of a set lies in a range.
pub(super) fn clipped<'a>(
    set: &'a RangeSet<u64>,
    range: &'a Range<u64>,
) -> impl Iterator<Item = Range<u64>> + 'a {
    set.overlapping(range.clone())
        .map(|found| found.start.max(range.start)..found.end.min(range.end))
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
