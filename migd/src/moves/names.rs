//! Names of a job's sockets, written down in its folder for whoever takes up
//! a move that a crash has left: those to be given at the destination, and
//! those to be removed at the source.

use std::fs;
use std::io;

use libmig::capture::left::{self, LeftName};
use libmig::image::JobImage;
use libmig::inspect::fd;
use libmig::restore::{self, StagedName};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::local::Local;

const LEFT: &str = "left-names";

/// Source: what is to be removed when the destination runs the job. To be called before the commit.
pub(super) fn note_left(local: &Local, image: &JobImage) -> io::Result<()> {
    let names = left::names(image);
    if names.is_empty() {
        return forget(local, LEFT);
    }
    let bytes = postcard::to_stdvec(&names).map_err(io::Error::other)?;
    local.capsule.write_down(LEFT, &bytes)
}

/// Source: the destination runs the job. Repeatable.
pub(super) fn remove_left(local: &Local) {
    settle::<LeftName>(local, LEFT, |root, names| left::remove(root, names));
}

/// Destination: the job is about to run. Repeatable.
pub(super) fn publish(local: &Local) {
    let file = migd::capsule::NAMES;
    settle::<StagedName>(local, file, |root, names| restore::publish(root, names));
}

/// Destination: the copy is gone. Repeatable.
pub(super) fn withdraw(local: &Local) {
    let file = migd::capsule::NAMES;
    settle::<StagedName>(local, file, |root, names| restore::withdraw(root, names));
}

fn settle<T: DeserializeOwned>(
    local: &Local,
    file: &str,
    act: impl FnOnce(&std::os::fd::OwnedFd, &[T]),
) {
    let settled = || {
        let bytes = match fs::read(local.capsule.path(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let names: Vec<T> = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        act(&fd::root(local.init)?, &names);
        forget(local, file)
    };
    if let Err(error) = settled() {
        warn!(job = %local.job, file, %error, "the names of its sockets cannot be settled");
    }
}

fn forget(local: &Local, file: &str) -> io::Result<()> {
    match fs::remove_file(local.capsule.path(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
