//! The file of the job table: written at once, flushed to the disk behind the writer's back.
//!
//! A commit must outlive the daemon, whatever kills it: bytes that the kernel has outlive it.
//! It need not outlive the machine: no process of this node does, and a flush, which waits
//! behind all that others write to that disk, would be a part of every pause.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use redb::StorageBackend;
use tracing::error;

/// How long the mover of a daemon that was killed may live on.
const SURVIVED: Duration = Duration::from_secs(5);

/// One file, which this process alone has open.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    flush: SyncSender<()>,
}

impl Disk {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// `WouldBlock` when another process has it open, and keeps it.
    pub(super) fn open(path: &Path) -> io::Result<Disk> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        lock(&file)?;
        let (flush, wanted) = sync_channel(1);
        let copy = file.try_clone()?;
        thread::Builder::new()
            .name("flush".into())
            .spawn(move || flush_when_wanted(&copy, &wanted))?;
        Ok(Disk { file, flush })
    }
}

/// Of a daemon that was killed, a mover may finish what it must not break off
/// (`libmig::sys::survivor`), and has its descriptors open for so long.
fn lock(file: &File) -> io::Result<()> {
    let deadline = Instant::now() + SURVIVED;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            locked => return Ok(locked?),
        }
    }
}

/// Ends when the file is closed.
fn flush_when_wanted(file: &File, wanted: &Receiver<()>) {
    while wanted.recv().is_ok() {
        if let Err(error) = file.sync_data() {
            error!(%error, "the job table cannot be flushed to the disk");
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        // Full: a flush that has not begun yet will take this along.
        self.flush.try_send(()).ok();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write_all_at(data, offset)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.sync_data()?;
        self.file.unlock()
    }
}
