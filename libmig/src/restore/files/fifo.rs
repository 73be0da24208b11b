//! FIFOs: the pipe behind a name, or behind a name that is gone.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

use super::{
    FilesError,
    object::{find, reopen},
    pipe::{Ends, fill},
};
use crate::{
    image::{Fifo, Pipe},
    inspect::boot,
};

/// To open a FIFO like this neither blocks nor fails.
const BOTH: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Names that are tried before a directory is given up.
const NAMES: u32 = 100;

/// A FIFO that is here under its name.
///
/// Where both nodes run on one kernel and see one file system (containers, a
/// lab), this is the pipe that the stopped job holds: its contents are in it
/// already. To write them again would harm a job that stays where it is.
pub(super) fn named(pipe: &Pipe, fifo: &Fifo, root: BorrowedFd<'_>) -> Result<Ends, FilesError> {
    let path = &fifo.file.path;
    let made = || FilesError::make::<Errno>(String::from_utf8_lossy(path));
    let place = find(root, &fifo.file)?;
    let reader = reopen(&place, BOTH).map_err(made())?;
    if rustix::io::ioctl_fionread(&reader).map_err(made())? == 0 {
        fill(pipe, &reader)?;
    } else if !is_the_same(fifo, &reader)? {
        return Err(FilesError::differs(path, "somebody here uses this FIFO"));
    }
    let writer = reopen(&place, BOTH).map_err(made())?;
    Ok(Ends::named(reader, writer))
}

fn is_the_same(fifo: &Fifo, here: &OwnedFd) -> Result<bool, FilesError> {
    let name = || String::from_utf8_lossy(&fifo.file.path);
    let stat = rustix::fs::fstat(here).map_err(FilesError::make(name()))?;
    let boot = boot::id().map_err(FilesError::make(name()))?;
    Ok((&boot, stat.st_dev, stat.st_ino) == (&fifo.boot, fifo.device, fifo.inode))
}

/// A FIFO that has lost its name: made under one that nobody else uses, in the
/// same directory or else in /tmp, which it loses as soon as it is open.
pub(super) fn nameless(pipe: &Pipe, fifo: &Fifo, root: BorrowedFd<'_>) -> Result<Ends, FilesError> {
    let path = Path::new(OsStr::from_bytes(&fifo.file.path));
    let what = || FilesError::make::<Errno>(format!("the unlinked FIFO {}", path.display()));
    let place = path
        .parent()
        .ok_or(Errno::NOENT)
        .and_then(|directory| make(root, directory))
        .or_else(|_| make(root, Path::new("/tmp")))
        .map_err(what())?;
    let reader = reopen(&place, BOTH).map_err(what())?;
    let (uid, gid, mode) = pipe.owner;
    rustix::fs::fchown(&reader, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .and_then(|()| rustix::fs::fchmod(&reader, Mode::from_raw_mode(mode & 0o7777)))
        .map_err(what())?;
    fill(pipe, &reader)?;
    let writer = reopen(&place, BOTH).map_err(what())?;
    Ok(Ends::named(reader, writer))
}

/// Makes a FIFO, and takes its name away again.
fn make(root: BorrowedFd<'_>, directory: &Path) -> rustix::io::Result<OwnedFd> {
    let directory = rustix::fs::openat2(
        root,
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let directory = directory.as_fd();
    let own = Mode::RUSR | Mode::WUSR;
    for number in 0..NAMES {
        let name = format!(".mig-fifo-{}-{number}", std::process::id());
        match rustix::fs::mknodat(directory, &name, FileType::Fifo, own, 0) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(error) => return Err(error),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, &name, flags, Mode::empty());
        rustix::fs::unlinkat(directory, &name, AtFlags::empty())?;
        let opened = opened?;
        let stat = rustix::fs::fstat(&opened)?;
        // Whoever may write to the directory may have put something else there.
        let ours = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_nlink == 0;
        return if ours { Ok(opened) } else { Err(Errno::STALE) };
    }
    Err(Errno::EXIST)
}
