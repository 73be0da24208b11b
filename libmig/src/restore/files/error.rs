//! What can go wrong when files are opened again.

use std::{io, path::PathBuf};

use crate::api::Obstacle;

/// A file of the image could not be opened here.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not here, or it is another one.
    #[error("{0}")]
    Refused(Obstacle),
    /// The image contradicts itself.
    #[error("the image has no {0}")]
    Malformed(&'static str),
    /// The kernel or the capsule's init would not make it.
    #[error("cannot make {what}")]
    Make {
        /// The object.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl FilesError {
    /// For `map_err`: names what could not be made.
    pub(super) fn make<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Make {
            what,
            source: source.into(),
        }
    }

    /// A file that differs from the source's.
    pub(super) fn differs(path: &[u8], reason: impl Into<String>) -> Self {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        Self::Refused(Obstacle {
            pid: None,
            object: format!("file {}", path.display()),
            reason: reason.into(),
            remedy: "put the same file there, or keep it on a file system that all nodes share"
                .to_owned(),
            transient: false,
        })
    }
}
