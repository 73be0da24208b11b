//! An image -> a live process tree.
//!
//! ```text
//! husk (zygote) --prepare--> Prepared --build--> Building --bulk*, finish--> Complete --release--> runs
//! ```
//!
//! Each phase is a type; each, dropped, leaves nothing behind, but for
//! [`Complete`], which stays frozen. The pure parts are [`tree`], [`layout`],
//! [`vdso`], [`clocks`] and [`xstate`]. Bound to one OS thread, as ptrace is.

mod address_space;
mod adjustments;
mod build;
pub mod clocks;
mod draft;
mod error;
pub mod files;
mod finish;
mod grow;
mod hold;
pub mod husk;
mod late_mounts;
pub mod layout;
mod limits;
mod locks;
mod mounts;
mod mqueue;
mod names;
mod namespaces;
mod numa;
mod numbers;
mod own;
mod own_vdso;
mod pin;
mod prepare;
mod process;
mod remains;
pub mod revise;
mod ring;
mod ring_place;
mod seccomp;
mod shm;
mod sleep;
mod sources;
mod system_v;
mod task;
mod thread;
pub mod tree;
pub mod vdso;
mod world;
pub mod xstate;

pub use build::Building;
pub use draft::Drafted;
pub use error::RestoreError;
pub use hold::Complete;
pub use names::{StagedName, publish, withdraw};
pub use prepare::{CapsuleRef, Prepared, prepare};
pub use shm::clear as clear_shm;
pub use system_v::clear as clear_system_v;

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

    /// These, and no others, are about to be made or have been made. A host that can be killed writes them down before it
    /// returns: whoever finds the copy then gives sockets and files their names ([`publish`])
    /// before the job runs, or removes them ([`withdraw`]).
    ///
    /// # Errors
    /// They cannot be written down.
    fn names(&mut self, names: &[StagedName]) -> io::Result<()>;
}
