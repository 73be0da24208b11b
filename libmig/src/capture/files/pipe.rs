//! Pipes and FIFOs. The contents are copied with tee(2): a reader that was to
//! find them still does.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags},
};

use super::{
    FilesError, object,
    table::{Found, Table},
};
use crate::{
    image::{Fifo, FilePath, Pipe},
    inspect::{
        boot,
        fd::Kind,
        files::other_end_closed,
        refusal::{self, Refusal},
    },
};

pub(super) fn capture(table: &Table, found: &Found) -> Result<Pipe, FilesError> {
    let stat = &found.seen.stat;
    let ends: Vec<&Found> = table
        .files
        .iter()
        .filter(|other| {
            matches!(other.kind, Kind::Pipe | Kind::Fifo)
                && (other.seen.stat.st_dev, other.seen.stat.st_ino) == (stat.st_dev, stat.st_ino)
        })
        .collect();
    let reader = ends.iter().find(|end| end.access() != libc::O_WRONLY);
    let writer = ends.iter().find(|end| end.access() != libc::O_RDONLY);
    let alone = reader.is_none() || writer.is_none();
    if alone && !other_end_closed(&found.copy) {
        return Err(found.refused(&refusal::foreign_pipe(&found.seen.name())));
    }
    let capacity = rustix::pipe::fcntl_getpipe_size(&found.copy).map_err(found.host("the size"))?;
    // Without a reader nobody will ever see the contents.
    let contents = match reader {
        Some(reader) => contents(reader, capacity)?,
        None => Contents::default(),
    };
    let direct = ends
        .iter()
        .any(|end| end.access() != libc::O_RDONLY && end.seen.info.flags & libc::O_DIRECT != 0);
    Ok(Pipe {
        fifo: fifo(found)?,
        capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
        packets: contents.packets || direct,
        contents: contents.pieces,
        owner: (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777),
    })
}

fn fifo(found: &Found) -> Result<Option<Fifo>, FilesError> {
    if found.kind != Kind::Fifo {
        return Ok(None);
    }
    let seen = &found.seen;
    let file = object::path(seen);
    let boot = boot::id().map_err(found.host("the ID of this boot"))?;
    Ok(Some(Fifo {
        file: match seen.deleted() {
            true => FilePath {
                path: seen.path_before_unlink().to_vec(),
                ..file
            },
            false => file,
        },
        unlinked: seen.deleted(),
        boot,
        device: seen.stat.st_dev,
        inode: seen.stat.st_ino,
    }))
}

#[derive(Default)]
struct Contents {
    pieces: Vec<serde_bytes::ByteBuf>,
    packets: bool,
}

fn contents(reader: &Found, capacity: usize) -> Result<Contents, FilesError> {
    let unreadable = || reader.host::<Errno>("the contents");
    let waiting = rustix::io::ioctl_fionread(&reader.copy).map_err(unreadable())?;
    let waiting = usize::try_from(waiting).unwrap_or(usize::MAX).min(capacity);
    if waiting == 0 {
        return Ok(Contents::default());
    }
    let packets = first_is_packet(&reader.copy).map_err(unreadable())?;
    let (from, to) = spare().map_err(unreadable())?;
    // Above fs.pipe-max-size we may not go; then a full copy may not be possible.
    let enlarged = rustix::pipe::fcntl_setpipe_size(&to, capacity);
    let flags = SpliceFlags::NONBLOCK;
    let copied = rustix::pipe::tee(&reader.copy, &to, waiting, flags).map_err(unreadable())?;
    drop(to);
    if copied < waiting {
        enlarged.map_err(unreadable())?;
        return Err(reader.refused(&too_full()));
    }
    let mut pieces = Vec::new();
    let mut left = copied;
    while left > 0 {
        let mut piece = vec![0; left];
        let count = rustix::io::read(&from, &mut piece).map_err(unreadable())?;
        if count == 0 {
            break;
        }
        piece.truncate(count);
        left -= count;
        pieces.push(serde_bytes::ByteBuf::from(piece));
    }
    Ok(Contents {
        packets: packets || pieces.len() > 1,
        pieces,
    })
}

/// Whether the next read ends with its buffer (packet mode): of two bytes of a
/// packet, a read of one throws the other away.
fn first_is_packet(reader: &OwnedFd) -> rustix::io::Result<bool> {
    let (from, to) = spare()?;
    if rustix::pipe::tee(reader, &to, 2, SpliceFlags::NONBLOCK)? < 2 {
        return Ok(false);
    }
    rustix::io::read(&from, &mut [0])?;
    Ok(rustix::io::ioctl_fionread(&from)? == 0)
}

fn spare() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

fn too_full() -> Refusal {
    Refusal {
        what: "pipe".to_owned(),
        reason: "it holds more than can be copied at once".to_owned(),
        remedy: "try again when its reader has caught up".to_owned(),
        transient: true,
    }
}
