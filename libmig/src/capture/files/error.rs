//! What can go wrong in a capture of descriptors.

use std::io;

use crate::{
    api::Obstacle,
    capture::SharedError,
    image::Pid,
    inspect::{fd::SeeError, refusal::Refusal},
};

/// A descriptor could not be captured. The tree is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot travel.
    #[error("{0}")]
    Refused(Obstacle),
    /// Its `/proc` entries could not be read.
    #[error("pid {pid}")]
    See {
        /// The process, in the capsule.
        pid: Pid,
        /// Why not.
        #[source]
        source: SeeError,
    },
    /// A memfd could not be described.
    #[error("pid {pid}: fd {number}")]
    Shared {
        /// The process, in the capsule.
        pid: Pid,
        /// The descriptor.
        number: i32,
        /// Why not.
        #[source]
        source: SharedError,
    },
    /// The kernel would not show a part of it.
    #[error("pid {pid}: cannot read {part} of fd {number}")]
    Host {
        /// The process, in the capsule.
        pid: Pid,
        /// The descriptor.
        number: i32,
        /// What was asked for.
        part: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The tree could not be held, or not be let go of.
    #[error("cannot hold the processes while what their connections hold is read")]
    Hold(#[source] super::HoldError),
    /// The list of descriptors could not be read.
    #[error("pid {pid}: cannot list its descriptors")]
    List {
        /// The process, in the capsule.
        pid: Pid,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl FilesError {
    pub(super) fn refused(pid: Pid, number: i32, refusal: &Refusal) -> Self {
        Self::Refused(refusal.obstacle(pid, number))
    }
}
