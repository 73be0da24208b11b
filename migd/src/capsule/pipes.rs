//! The job's standard streams that are pipes, as far as an init has to do with them.
//!
//! At home the program holds the pipes of `mig exec` themselves and the init
//! has nothing (`Pump::Nothing`). Away from home it has a pipe of its init's,
//! and the bytes go through the link. Back home, if bytes were still on their
//! way, it keeps such a pipe, and the init pumps between that and the original.
//!
//! A pipe that came from outside is never made non-blocking: O_NONBLOCK
//! belongs to the open file description, which the shell shares. It is opened
//! again through /proc/self/fd instead.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use libmig::image::Stdio;
use rustix::{
    event::PollFlags,
    fs::{FileType, Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use super::{
    ctl::PipeId,
    relay::{Control, Link, Stream},
};

/// Bytes moved in one go.
const CHUNK: usize = 32 << 10;

/// One standard stream.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// The end that `mig exec` was given; held only while the program cannot hold it.
    pub(crate) original: Option<OwnedFd>,
    /// What is pumped.
    pub(crate) pump: Pump,
}

/// What the init does with a stream.
#[derive(Debug, Default)]
pub(crate) enum Pump {
    /// Nothing: the program holds the original, or no one does.
    #[default]
    Nothing,
    /// Reads it into the link.
    Source(OwnedFd),
    /// Writes into it what comes out of the link.
    Sink(OwnedFd),
    /// Copies between the original and the program's pipe.
    Local(Local),
}

/// A copier with a buffer.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) from: OwnedFd,
    pub(crate) to: OwnedFd,
    pub(crate) buffer: VecDeque<u8>,
    pub(crate) from_ended: bool,
}

/// The stream of a standard descriptor.
pub(crate) fn stream_of(which: Stdio) -> Stream {
    match which {
        Stdio::In => Stream::In,
        Stdio::Out => Stream::Out,
        Stdio::Err => Stream::Err,
    }
}

/// Descriptors 0, 1 and 2.
pub(crate) const STDIO: [Stdio; 3] = [Stdio::In, Stdio::Out, Stdio::Err];

/// Which pipe it is, if it is one.
pub(crate) fn pipe_id(fd: impl AsFd) -> Option<PipeId> {
    let stat = rustix::fs::fstat(fd).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Fifo).then_some(PipeId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// A second, non-blocking open file description of a pipe end. ENXIO: no one
/// reads it any more.
pub(crate) fn reopen(fd: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A new pipe for the program: its end (blocking), and ours (not).
pub(crate) fn make(which: Stdio) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (theirs, ours) = match which {
        Stdio::In => (reader, writer),
        Stdio::Out | Stdio::Err => (writer, reader),
    };
    let flags = rustix::fs::fcntl_getfl(&ours)?;
    rustix::fs::fcntl_setfl(&ours, flags | OFlags::NONBLOCK)?;
    Ok((theirs, ours))
}

/// All that a non-blocking pipe end holds now; `true` when its end was reached.
pub(crate) fn read_all(fd: impl AsFd) -> (Vec<u8>, bool) {
    let (mut all, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        match rustix::io::read(&fd, &mut chunk) {
            Ok(0) => return (all, true),
            Ok(length) => all.extend_from_slice(&chunk[..length]),
            Err(Errno::INTR) => (),
            Err(_) => return (all, false),
        }
    }
}

impl Pipe {
    /// Moves what can be moved.
    pub(crate) fn flow(&mut self, stream: Stream, link: &mut Link) {
        match &mut self.pump {
            Pump::Nothing => link.consume(stream, link.waiting(stream)),
            Pump::Source(fd) => {
                if read_into_link(fd, stream, link) {
                    // The end of a pipe is final: the original has nothing more to give either.
                    link.end(stream);
                    self.close();
                }
            }
            Pump::Sink(fd) => {
                let open = write_from_link(fd, stream, link);
                if !open {
                    link.say(Control::Broken(stream));
                    link.consume(stream, link.waiting(stream));
                }
                if !open || link.at_end(stream) {
                    self.close();
                }
            }
            Pump::Local(local) => {
                if !local.flow() {
                    self.close();
                }
            }
        }
    }

    /// Nobody at this end has to do with the stream any more.
    pub(crate) fn close(&mut self) {
        *self = Pipe::default();
    }

    /// What to wait for.
    pub(crate) fn interest(
        &self,
        stream: Stream,
        link: &Link,
    ) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.pump {
            Pump::Nothing => None,
            Pump::Source(fd) => (link.room(stream) > 0).then_some((fd.as_fd(), PollFlags::IN)),
            Pump::Sink(fd) => (link.waiting(stream) > 0).then_some((fd.as_fd(), PollFlags::OUT)),
            Pump::Local(local) if local.buffer.is_empty() => {
                Some((local.from.as_fd(), PollFlags::IN))
            }
            Pump::Local(local) => Some((local.to.as_fd(), PollFlags::OUT)),
        }
    }
}

impl Local {
    /// Copies; `false` when it is over.
    fn flow(&mut self) -> bool {
        loop {
            while !self.buffer.is_empty() {
                match rustix::io::write(&self.to, self.buffer.as_slices().0) {
                    Ok(length) => drop(self.buffer.drain(..length)),
                    Err(Errno::AGAIN | Errno::INTR) => return true,
                    Err(_) => return false,
                }
            }
            if self.from_ended {
                return false;
            }
            let mut chunk = vec![0; CHUNK];
            match rustix::io::read(&self.from, &mut chunk) {
                Ok(0) => self.from_ended = true,
                Ok(length) => self.buffer.extend(&chunk[..length]),
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// Reads within the link's credit; `true` at the end.
fn read_into_link(fd: &OwnedFd, stream: Stream, link: &mut Link) -> bool {
    while link.room(stream) > 0 {
        let mut chunk = vec![0; CHUNK.min(link.room(stream))];
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => return true,
            Ok(length) => link.send(stream, &chunk[..length]),
            Err(Errno::INTR) => (),
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
    false
}

/// Writes what has arrived; `false` when no one reads it.
fn write_from_link(fd: &OwnedFd, stream: Stream, link: &mut Link) -> bool {
    while link.waiting(stream) > 0 {
        match rustix::io::write(fd, link.arrived(stream)) {
            Ok(length) => link.consume(stream, length),
            Err(Errno::INTR) => (),
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
