//! An image -> a live process tree.

pub mod husk;
pub mod tree;

use std::{io, os::fd::OwnedFd};

use crate::image::{Stdio, Tty};

/// What restore asks of the capsule's init at the destination.
pub trait RestoreHost {
    /// The program's end of a standard stream whose other end is at home.
    ///
    /// # Errors
    /// When the init cannot make it.
    fn stdio(&mut self, which: Stdio) -> io::Result<OwnedFd>;

    /// The slave side of the job's own terminal, made anew with the index, modes and
    /// window of `tty`; the init keeps the master.
    ///
    /// # Errors
    /// When the index is taken or the init cannot make it.
    fn console(&mut self, tty: &Tty) -> io::Result<OwnedFd>;

    /// A duplicate of the job terminal's master, to refill its queues.
    ///
    /// # Errors
    /// When there is no console.
    fn console_master(&mut self) -> io::Result<OwnedFd>;
}
