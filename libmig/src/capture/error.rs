//! Why a capture failed. Whatever the error, the tree runs on.

use std::{error::Error, io, path::PathBuf};

use super::{SharedError, files::FilesError};
use crate::{
    api::Obstacle,
    sys::{HostPid, ptrace::PtraceError, remote::RemoteError},
};

/// A tree could not be frozen or captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Things that cannot move, or not at this instant.
    #[error("{}", list(.0))]
    Obstacles(Vec<Obstacle>),
    /// The capsule's init has ended, and all its processes with it.
    #[error("the job has ended")]
    Ended,
    /// `/proc` did not answer as expected.
    #[error("cannot read {what} of process {pid}")]
    Proc {
        /// The process or thread.
        pid: HostPid,
        /// What of it.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tree could not be stopped.
    #[error("cannot stop the tree")]
    Ptrace(#[from] PtraceError),
    /// The questions that only the process can answer.
    #[error("cannot question a process")]
    Remote(#[from] RemoteError),
    /// Shared memory.
    #[error("cannot capture shared memory")]
    Shared(#[from] SharedError),
    /// Descriptors.
    #[error("cannot capture descriptors")]
    Files(#[source] Box<dyn Error + Send + Sync>),
    /// The carrier of the memory contents.
    #[error("cannot send memory")]
    Bulk(#[source] io::Error),
    /// The cgroup could not be frozen.
    #[error("cannot freeze the cgroup {path}", path = path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl CaptureError {
    /// The obstacles, if these are what it is about.
    #[must_use]
    pub fn obstacles(&self) -> &[Obstacle] {
        match self {
            Self::Obstacles(obstacles) => obstacles,
            Self::Files(error) => match error.downcast_ref() {
                Some(FilesError::Refused(obstacle)) => std::slice::from_ref(obstacle),
                _ => &[],
            },
            _ => &[],
        }
    }

    /// For `map_err` on reading `/proc`.
    pub(super) fn proc(pid: HostPid, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Proc { pid, what, source }
    }
}

fn list(obstacles: &[Obstacle]) -> String {
    obstacles
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
