//! A live process tree -> an image.

mod adjustments;
mod assemble;
mod clock;
mod draft;
mod error;
pub mod files;
mod find;
mod freeze;
mod gather;
mod hindrance;
mod hold;
mod interrupted;
mod job;
pub mod left;
mod memory;
mod mounts;
mod mqueue;
mod names;
mod namespaces;
mod pages;
mod process;
mod proof;
mod query;
mod relock;
mod ring;
mod sample;
mod seccomp;
mod segments;
mod shared;
mod shm;
mod sleep;
mod space;
mod succeed;
mod system_v;
mod thread;
mod timed;
mod track;

pub use error::CaptureError;
pub use freeze::{Frozen, REST, freeze, freeze_after};
pub use job::{Captured, LiveSource, Tables};
pub use pages::own_memory;
pub use shared::{SharedError, SharedRegistry};
pub use succeed::succeed;
pub use track::Tracker;

use std::{io, ops::Range};

use crate::image::{BulkTarget, Pid};

/// Takes the bytes that travel beside the image, in order.
pub trait BulkSink {
    /// One run of bytes. `target` says where its first byte belongs. Memory
    /// and shared objects come in whole pages, at most 1 MiB at a time.
    ///
    /// # Errors
    /// What the carrier says; the capture then stops and the tree is thawed.
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()>;

    /// The pages of this range, sent earlier, hold nothing of the process' own any more.
    ///
    /// # Errors
    /// As [`BulkSink::bulk`].
    fn absent(&mut self, _pid: Pid, _range: Range<u64>) -> io::Result<()> {
        Err(io::Error::other("nothing has been sent before"))
    }
}
