//! Descriptors of a stopped tree -> tables of the image.
//!
//! Everything is looked at through duplicates that share the program's open
//! file descriptions: no offset is moved, nothing is read or set that is not put
//! back at once. A capture that is given up leaves no trace.

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

/// What keeps a stopped tree from running even when this process is killed.
pub trait Hold {
    /// From now on nothing of the tree runs before somebody else has seen to its
    /// sockets ([`crate::sys::tcp::mend`]).
    ///
    /// # Errors
    /// It cannot be held.
    fn hold(&mut self) -> Result<(), HoldError>;

    /// The tree is as it was: back to before [`Hold::hold`].
    ///
    /// # Errors
    /// It is still held.
    fn release(&mut self) -> Result<(), HoldError>;
}

/// Why a tree cannot be held.
pub type HoldError = Box<dyn std::error::Error + Send + Sync>;

/// Holds nothing: for a tree that is to end with this process.
#[derive(Debug, Clone, Copy)]
pub struct NoHold;

impl Hold for NoHold {
    fn hold(&mut self) -> Result<(), HoldError> {
        Ok(())
    }

    fn release(&mut self) -> Result<(), HoldError> {
        Ok(())
    }
}

/// Captures every descriptor of the tree. Nothing of it may run meanwhile. `hold`
/// is asked for help where looking takes changing.
///
/// # Errors
/// [`FilesError::Refused`] names a descriptor that cannot travel; the rest is
/// the kernel's refusal to show one.
pub fn capture(
    processes: &[FileSource<'_>],
    stdio: &CapsuleStdio,
    shared: &mut SharedRegistry,
    hold: &mut dyn Hold,
) -> Result<FileTables, FilesError> {
    let table = table::Table::read(processes, stdio, shared.atlas())?;
    object::Objects::new(processes, stdio, &table, shared).capture(hold)
}
