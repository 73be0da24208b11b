//! What can go wrong in a restore.

use std::io;

use super::files::FilesError;
use crate::{
    api::Obstacle,
    image::Pid,
    sys::{ptrace::PtraceError, remote::RemoteError},
};

/// A restore failed; nothing of the tree is left.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The image asks for something that cannot be here.
    #[error("{0}")]
    Obstacle(Obstacle),
    /// A process would not execute what it was to execute.
    #[error("pid {pid}: cannot {step}")]
    Remote {
        /// The process or thread, in the capsule.
        pid: Pid,
        /// What it was to do.
        step: &'static str,
        /// Why it did not.
        #[source]
        source: RemoteError,
    },
    /// A process could not be traced.
    #[error("pid {pid}: lost while it was being {step}")]
    Trace {
        /// The process or thread, in the capsule.
        pid: Pid,
        /// What was being done to it.
        step: &'static str,
        /// What ptrace said.
        #[source]
        source: PtraceError,
    },
    /// A descriptor or its file could not be made here.
    #[error("cannot restore the descriptors of the job")]
    Files(#[source] FilesError),
    /// The kernel refused something to the daemon itself.
    #[error("cannot {action}")]
    Host {
        /// What was tried, with its object.
        action: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RestoreError {
    /// What stands in the way, if that is the reason.
    #[must_use]
    pub fn obstacles(&self) -> &[Obstacle] {
        match self {
            Self::Obstacle(obstacle) => std::slice::from_ref(obstacle),
            _ => &[],
        }
    }
}

impl From<Obstacle> for RestoreError {
    fn from(obstacle: Obstacle) -> Self {
        Self::Obstacle(obstacle)
    }
}

impl From<FilesError> for RestoreError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Refused(obstacle) => Self::Obstacle(obstacle),
            error => Self::Files(error),
        }
    }
}

/// Names the process and the step that an injection was for.
pub(super) fn remote(pid: Pid, step: &'static str) -> impl FnOnce(RemoteError) -> RestoreError {
    move |source| RestoreError::Remote { pid, step, source }
}

/// Names the process and the step that a ptrace request was for.
pub(super) fn trace(pid: Pid, step: &'static str) -> impl FnOnce(PtraceError) -> RestoreError {
    move |source| RestoreError::Trace { pid, step, source }
}

/// Names what the daemon tried.
pub(super) fn host<E: Into<io::Error>>(
    action: impl Into<String>,
) -> impl FnOnce(E) -> RestoreError {
    move |source| RestoreError::Host {
        action: action.into(),
        source: source.into(),
    }
}
