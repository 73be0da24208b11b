//! Watches of inotify(7): set when all else is done, so that nothing that a restore
//! does to the files is an event.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::fs::inotify::{WatchFlags, add_watch};

use super::{FilesError, Opened};
use crate::restore::mounts::Roots;
use crate::{
    image::{FileObject, InotifyWatch, JobImage},
    inspect::manifest,
    sys::descriptor,
};

impl Opened {
    /// Sets all watches, with the numbers that they had.
    ///
    /// # Errors
    /// [`FilesError::Refused`] names a file that is not here.
    pub(in crate::restore) fn watch(
        &self,
        image: &JobImage,
        roots: Roots<'_>,
    ) -> Result<(), FilesError> {
        for (opened, description) in self.files.iter().zip(&image.files) {
            if let FileObject::Inotify(watches) = &description.object {
                for watch in watches {
                    let root = roots.of(watch.file.space);
                    set(opened, watch, root.map_err(FilesError::make("a watch"))?)?;
                }
            }
        }
        Ok(())
    }
}

fn set(inotify: &impl AsFd, watch: &InotifyWatch, root: BorrowedFd<'_>) -> Result<(), FilesError> {
    let path = &watch.file.path;
    let failed = || FilesError::make(format!("watch {}", String::from_utf8_lossy(path)));
    let place = manifest::place(root, &watch.file).map_err(|error| {
        if manifest::is_absent(&error) {
            FilesError::differs(path, manifest::ABSENT)
        } else {
            failed()(error)
        }
    })?;
    let stat = rustix::fs::fstat(&place)
        .map_err(io::Error::from)
        .map_err(failed())?;
    if let Some(reason) = manifest::difference(&stat, &watch.file, false) {
        return Err(FilesError::differs(path, reason));
    }
    descriptor::set_next_watch(inotify, watch.wd).map_err(failed())?;
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    let mask = WatchFlags::from_bits_retain(watch.mask);
    let wd = add_watch(inotify, link, mask)
        .map_err(io::Error::from)
        .map_err(failed())?;
    if wd == watch.wd {
        Ok(())
    } else {
        // Two names of the source are one file here.
        Err(FilesError::differs(
            path,
            "another watch is on the same file",
        ))
    }
}
