//! Pipes, filled; [`super::fifo`] makes those that are FIFOs.

use std::{
    cell::RefCell,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Gid, Mode, Uid},
    io::Errno,
    pipe::PipeFlags,
};

use super::{
    FilesError, fifo,
    object::{flags, reopen},
};
use crate::{
    image::{Fifo, JobImage, OpenFile, Pipe, PipeId},
    restore::mounts::Roots,
    sys::descriptor,
};

/// O_LARGEFILE, which only descriptions that were opened by a name have.
const O_LARGEFILE: i32 = 0o100_000;

/// All pipes. Both ends of each stay open here until the last description has
/// been made, so that no opening blocks and no contents are lost.
pub(super) struct Pipes {
    ends: Vec<Ends>,
}

pub(super) struct Ends {
    reader: OwnedFd,
    _writer: OwnedFd,
    /// The ends of pipe(2) itself, for the first description that is like them.
    fresh: RefCell<(Option<OwnedFd>, Option<OwnedFd>)>,
}

impl Pipes {
    pub(super) fn make(image: &JobImage, roots: Roots<'_>) -> Result<Self, FilesError> {
        let root = |fifo: &Fifo| {
            let root = roots.of(fifo.file.space);
            root.map_err(FilesError::make("a FIFO"))
        };
        let ends = image.pipes.iter().map(|pipe| match &pipe.fifo {
            None => anonymous(pipe),
            Some(fifo) if fifo.unlinked => fifo::nameless(pipe, fifo, root(fifo)?),
            Some(fifo) => fifo::named(pipe, fifo, root(fifo)?),
        });
        let ends = ends.collect::<Result<_, _>>()?;
        Ok(Self { ends })
    }

    /// A description of one end.
    pub(super) fn end(&self, pipe: PipeId, description: &OpenFile) -> Result<OwnedFd, FilesError> {
        let missing = FilesError::Malformed("such pipe");
        let ends = self.ends.get(pipe as usize).ok_or(missing)?;
        let access = description.flags & libc::O_ACCMODE;
        if description.flags & O_LARGEFILE == 0 {
            let mut fresh = ends.fresh.borrow_mut();
            let fresh = match access {
                libc::O_RDONLY => fresh.0.take(),
                libc::O_WRONLY => fresh.1.take(),
                _ => None,
            };
            if let Some(fresh) = fresh {
                return Ok(fresh);
            }
        }
        reopen(&ends.reader, flags(description.flags)).map_err(FilesError::make("a pipe"))
    }
}

impl Ends {
    /// Of a FIFO, all of whose descriptions are opened from these.
    pub(super) fn named(reader: OwnedFd, writer: OwnedFd) -> Self {
        Self {
            reader,
            _writer: writer,
            fresh: RefCell::default(),
        }
    }
}

fn anonymous(pipe: &Pipe) -> Result<Ends, FilesError> {
    let made = || FilesError::make::<Errno>("a pipe");
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(made())?;
    let (uid, gid, mode) = pipe.owner;
    // Whoever opens it by way of /dev/stdin is judged by its owner.
    rustix::fs::fchown(&reader, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .and_then(|()| rustix::fs::fchmod(&reader, Mode::from_raw_mode(mode & 0o7777)))
        .map_err(made())?;
    fill(pipe, &writer)?;
    let fresh = (
        reader.try_clone().map_err(FilesError::make("a pipe"))?,
        writer.try_clone().map_err(FilesError::make("a pipe"))?,
    );
    Ok(Ends {
        reader,
        _writer: writer,
        fresh: RefCell::new((Some(fresh.0), Some(fresh.1))),
    })
}

pub(super) fn fill(pipe: &Pipe, writer: &OwnedFd) -> Result<(), FilesError> {
    let made = || FilesError::make("the contents of a pipe");
    let total: usize = pipe.contents.iter().map(|piece| piece.len()).sum();
    enlarge(writer.as_fd(), pipe.capacity as usize, total)?;
    let before = descriptor::status_flags(writer).map_err(made())?;
    let mut filling = before | libc::O_NONBLOCK;
    if pipe.packets && !pipe.contents.is_empty() {
        filling |= libc::O_DIRECT;
    }
    descriptor::set_status_flags(writer, filling).map_err(made())?;
    for piece in &pipe.contents {
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let count = rustix::io::write(writer, rest)
                .map_err(FilesError::make("the contents of a pipe"))?;
            rest = &rest[count..];
        }
    }
    descriptor::set_status_flags(writer, before).map_err(made())
}

/// A pipe larger than fs.pipe-max-size becomes as large as may be, when its
/// contents still fit.
fn enlarge(pipe: BorrowedFd<'_>, capacity: usize, contents: usize) -> Result<(), FilesError> {
    let what = || FilesError::make::<Errno>(format!("a pipe of {capacity} bytes"));
    if rustix::pipe::fcntl_getpipe_size(pipe).map_err(what())? == capacity {
        return Ok(());
    }
    match rustix::pipe::fcntl_setpipe_size(pipe, capacity) {
        Ok(_) => Ok(()),
        Err(Errno::PERM) => {
            let most = fs::read_to_string("/proc/sys/fs/pipe-max-size")
                .ok()
                .and_then(|text| text.trim().parse::<usize>().ok())
                .filter(|most| *most >= contents)
                .ok_or(Errno::PERM)
                .map_err(what())?;
            rustix::pipe::fcntl_setpipe_size(pipe, most).map_err(what())?;
            Ok(())
        }
        Err(error) => Err(what()(error)),
    }
}
