//! pidfds: opened when those that they name exist.

use std::os::fd::OwnedFd;

use rustix::{
    fs::OFlags,
    process::{Pid as RustixPid, PidfdFlags, pidfd_open},
};

use super::{
    FilesError, Opened,
    object::{finish, flags, reopen},
};
use crate::{
    image::{FileId, FileObject, INIT, JobImage, LiveProcess, OpenFile, Pid, PidFile},
    inspect::pidfd::THREAD,
    sys::HostPid,
};

/// Those who have been waited for: pidfds of one and the same, and its wait status.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::restore) struct Ended {
    pub(in crate::restore) files: Vec<FileId>,
    pub(in crate::restore) status: i32,
}

/// Everybody who has been waited for and is still named by a pidfd.
pub(in crate::restore) fn ended(image: &JobImage) -> Vec<Ended> {
    let mut groups: Vec<(FileId, Ended)> = Vec::new();
    for (file, description) in (0..).zip(&image.files) {
        let FileObject::Pid(PidFile::Ended { first, status }) = description.object else {
            continue;
        };
        match groups.iter_mut().find(|(known, _)| *known == first) {
            Some((_, group)) => group.files.push(file),
            None => {
                let status = status.unwrap_or(0);
                let files = vec![file];
                groups.push((first, Ended { files, status }));
            }
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Whether a pidfd names a thread: descriptors are then given when there are threads.
pub(in crate::restore) fn names_threads(image: &JobImage) -> bool {
    let mut named = tasks(image);
    named.any(|(_, pid)| is_thread(image, pid))
}

/// Whether one of the descriptors of a process is such a pidfd.
pub(in crate::restore) fn has_thread(image: &JobImage, process: &LiveProcess) -> bool {
    let has = |file: FileId| process.descriptors.iter().any(|one| one.file == file);
    tasks(image).any(|(file, pid)| is_thread(image, pid) && has(file))
}

impl Opened {
    /// Opens the pidfds of processes. To be called when these exist and the zombies are dead,
    /// before any descriptor is on its way.
    ///
    /// # Errors
    /// [`FilesError::Malformed`] for somebody who is not part of the image.
    pub(in crate::restore) fn open_processes(
        &mut self,
        image: &JobImage,
        host: impl Fn(Pid) -> Option<HostPid>,
    ) -> Result<(), FilesError> {
        for (file, pid) in tasks(image).filter(|(_, pid)| !is_thread(image, *pid)) {
            self.name(image, file, host(pid))?;
        }
        Ok(())
    }

    /// Opens the pidfds of threads. To be called when these exist.
    ///
    /// # Errors
    /// As [`Opened::open_processes`].
    pub(in crate::restore) fn open_threads(
        &mut self,
        image: &JobImage,
        host: impl Fn(Pid) -> Option<HostPid>,
    ) -> Result<(), FilesError> {
        for (file, pid) in tasks(image).filter(|(_, pid)| is_thread(image, *pid)) {
            self.name(image, file, host(pid))?;
        }
        Ok(())
    }

    /// Has a pidfd name somebody, who may be about to end.
    pub(in crate::restore) fn name(
        &mut self,
        image: &JobImage,
        file: FileId,
        host: Option<HostPid>,
    ) -> Result<(), FilesError> {
        const WHOM: FilesError = FilesError::Malformed("such process or thread of a pidfd");
        let index = usize::try_from(file).unwrap_or(usize::MAX);
        let description = image.files.get(index).ok_or(WHOM)?;
        let pid = host.and_then(|host| RustixPid::from_raw(host.raw()));
        let opened = open(pid.ok_or(WHOM)?, description)?;
        *self.files.get_mut(index).ok_or(WHOM)? = opened;
        Ok(())
    }
}

fn tasks(image: &JobImage) -> impl Iterator<Item = (FileId, Pid)> {
    let files = (0..).zip(&image.files);
    files.filter_map(|(file, description)| match description.object {
        FileObject::Pid(PidFile::Task(pid)) => Some((file, pid)),
        _ => None,
    })
}

fn is_thread(image: &JobImage, pid: Pid) -> bool {
    pid != INIT && !image.processes.iter().any(|process| process.pid == pid)
}

fn open(pid: RustixPid, description: &OpenFile) -> Result<OwnedFd, FilesError> {
    let made = || FilesError::make("a pidfd");
    let which = (description.flags & THREAD).cast_unsigned();
    let opened = pidfd_open(pid, PidfdFlags::from_bits_retain(which)).map_err(made())?;
    let how = flags(description.flags);
    // Where the program has opened it again, by /proc/self/fd.
    let opened = match how & (OFlags::RWMODE | OFlags::PATH) {
        OFlags::RDWR => opened,
        _ => reopen(&opened, how).map_err(made())?,
    };
    finish(&opened, description)?;
    Ok(opened)
}
