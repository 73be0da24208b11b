//! A frozen tree as it is captured for a move: the image, and the pages that travel beside it.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use libmig::capture::{
    BulkSink, CaptureError, Frozen,
    files::{self, CapsuleStdio, FileSource, FilesError, UnlinkedContents},
    freeze,
};
use libmig::image::{BulkTarget, JobImage};
use libmig::sys::HostPid;

/// How long obstacles that pass by themselves may take to do so.
const PATIENCE: Duration = Duration::from_secs(20);
const PAGE: usize = 4096;

/// Contents by place, a page or the rest of an unlinked file each.
pub(super) type Pages = BTreeMap<Place, Vec<u8>>;

/// Where a page belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A process, and the address.
    Memory(i32, u64),
    /// A shared object, and the offset.
    Shared(u32, u64),
    /// An unlinked file, and the offset.
    File(u32, u64),
}

impl Place {
    fn new(target: BulkTarget, at: u64) -> Self {
        match target {
            BulkTarget::Memory { pid, address } => Self::Memory(pid, address + at),
            BulkTarget::Shared { object, offset } => Self::Shared(object, offset + at),
            BulkTarget::File { file, offset } => Self::File(file, offset + at),
        }
    }

    /// As a restore wants to hear it.
    pub(super) fn target(self) -> BulkTarget {
        match self {
            Self::Memory(pid, address) => BulkTarget::Memory { pid, address },
            Self::Shared(object, offset) => BulkTarget::Shared { object, offset },
            Self::File(file, offset) => BulkTarget::File { file, offset },
        }
    }
}

/// One capture.
pub(super) struct Snapshot {
    pub(super) image: JobImage,
    pub(super) pages: Pages,
}

/// Freezes what lives below `init` and captures it; tries again where an obstacle passes by itself.
pub(super) fn freeze_and_take(
    init: HostPid,
    stdio: &CapsuleStdio,
) -> anyhow::Result<(Frozen, Snapshot)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let taken = freeze(init).and_then(|mut frozen| {
            let snapshot = take(&mut frozen, stdio)?;
            Ok((frozen, snapshot))
        });
        match taken {
            Err(error) if passes(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return Ok(other?),
        }
    }
}

/// Captures a frozen tree.
pub(super) fn take(frozen: &mut Frozen, stdio: &CapsuleStdio) -> Result<Snapshot, CaptureError> {
    let mut unlinked = UnlinkedContents::default();
    let captured = frozen.capture(|sources, shared| {
        let sources: Vec<FileSource<'_>> = sources.iter().map(FileSource::from).collect();
        let (tables, contents) =
            files::capture(&sources, stdio, shared, &mut files::NoHold)?.split();
        unlinked = contents;
        Ok::<_, FilesError>(tables)
    })?;
    let mut sink = Collected(Pages::new());
    frozen.send_memory(&captured, None, &mut sink)?;
    unlinked.send(&mut sink).map_err(CaptureError::Bulk)?;
    Ok(Snapshot {
        image: captured.image,
        pages: sink.0,
    })
}

fn passes(error: &CaptureError) -> bool {
    let obstacles = error.obstacles();
    !obstacles.is_empty() && obstacles.iter().all(|obstacle| obstacle.transient)
}

struct Collected(Pages);

impl BulkSink for Collected {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        for (page, at) in bytes.chunks(PAGE).zip((0u64..).step_by(PAGE)) {
            self.0.insert(Place::new(target, at), page.to_vec());
        }
        Ok(())
    }
}
