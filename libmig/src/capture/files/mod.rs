//! Descriptors of a stopped tree -> tables of the image.
//!
//! Everything is looked at through duplicates that share the program's open
//! file descriptions: no offset is moved, no flag is set, nothing is read that
//! is not put back at once. A capture that is given up leaves no trace.

mod epoll;
mod error;
mod inet;
mod locks;
mod object;
mod owner;
mod pipe;
mod socket;
mod table;
mod terminal;
mod unlinked;

pub use crate::inspect::{
    files::FileSource,
    stdio::{CapsuleStdio, Console, StdioEnd},
};
pub use error::FilesError;
pub use unlinked::UnlinkedContents;

use super::{LiveSource, SharedRegistry, Tables};
use crate::image::{Descriptor, FileLock, OpenFile, Pipe, Tty};

/// The tables of a job image that are about descriptors.
#[derive(Debug)]
pub struct FileTables {
    /// Open file descriptions.
    pub files: Vec<OpenFile>,
    /// Pipes and FIFOs with their contents.
    pub pipes: Vec<Pipe>,
    /// Terminals with their queues.
    pub ttys: Vec<Tty>,
    /// The descriptor table of each process, in the order of the sources.
    pub descriptors: Vec<Vec<Descriptor>>,
    /// Locks on files.
    pub locks: Vec<FileLock>,
    /// What is needed to read the contents of unlinked files.
    pub unlinked: UnlinkedContents,
}

impl FileTables {
    /// What goes into the image, and what its unlinked files are read with.
    #[must_use]
    pub fn split(self) -> (Tables, UnlinkedContents) {
        let tables = Tables {
            files: self.files,
            pipes: self.pipes,
            ttys: self.ttys,
            descriptors: self.descriptors,
            locks: self.locks,
        };
        (tables, self.unlinked)
    }
}

impl<'a> From<&LiveSource<'a>> for FileSource<'a> {
    fn from(live: &LiveSource<'a>) -> Self {
        Self {
            pid: live.pid,
            host: live.host,
            pidfd: live.pidfd,
        }
    }
}

/// Captures every descriptor of the tree. Nothing of it may run meanwhile.
///
/// # Errors
/// [`FilesError::Refused`] names a descriptor that cannot travel; the rest is
/// the kernel's refusal to show one.
pub fn capture(
    processes: &[FileSource<'_>],
    stdio: &CapsuleStdio,
    shared: &mut SharedRegistry,
) -> Result<FileTables, FilesError> {
    let table = table::Table::read(processes, stdio)?;
    object::Objects::new(processes, stdio, &table, shared).capture()
}
