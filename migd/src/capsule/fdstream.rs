//! Frames with descriptors over a unix stream socket: the birth socket and the ctl socket.
//!
//! A frame is a length (u32, little endian), a count of descriptors (u8) and
//! postcard; the descriptors ride on its first byte. Works on blocking sockets
//! (the daemon's end) and on non-blocking ones (the init's end) alike.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest frame: a departing job's blob with full relay buffers, or a
/// program's arguments and environment.
const MAX_FRAME: usize = 16 << 20;
/// Most descriptors on one frame.
const MAX_FDS: usize = 16;
/// Length and count.
const HEAD: usize = 5;

/// A socket that carries frames, with what has been read and not yet been
/// taken, and what has been sent and not yet been written.
#[derive(Debug)]
pub(crate) struct FdStream {
    socket: UnixStream,
    input: Vec<u8>,
    input_fds: VecDeque<OwnedFd>,
    output: VecDeque<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    fds: Vec<OwnedFd>,
}

impl FdStream {
    pub(crate) fn new(socket: UnixStream) -> FdStream {
        FdStream {
            socket,
            input: Vec::new(),
            input_fds: VecDeque::new(),
            output: VecDeque::new(),
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Queues a frame; [`FdStream::flush`] writes it.
    pub(crate) fn queue<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) {
        let body = postcard::to_stdvec(message).expect("plain data always encodes");
        let length = u32::try_from(body.len()).expect("bounded by what the caller holds");
        let count = u8::try_from(fds.len()).expect("a handful");
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(count);
        bytes.extend_from_slice(&body);
        self.output.push_back(Outgoing {
            bytes,
            written: 0,
            fds,
        });
    }

    /// Whether there is anything left to write.
    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Writes what the socket takes. WouldBlock is no error.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(frame) = self.output.front_mut() {
            match send_some(&self.socket, frame) {
                Ok(()) if frame.written == frame.bytes.len() => drop(self.output.pop_front()),
                Ok(()) => (),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads once; `Ok(false)` when the other side has hung up.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = vec![0; 64 << 10];
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.input_fds.extend(fds);
            }
        }
        self.input.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole frame among what was read.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.input.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [a, b, c, d, count] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME || usize::from(count) > MAX_FDS {
            return Err(malformed("a frame is too long"));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = postcard::from_bytes(body).map_err(|e| malformed(e.to_string()))?;
        if self.input_fds.len() < usize::from(count) {
            return Err(malformed("descriptors are missing"));
        }
        self.input.drain(..HEAD + length);
        let fds = self.input_fds.drain(..usize::from(count)).collect();
        Ok(Some((message, fds)))
    }

    /// Writes one frame on a blocking socket.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.queue(message, fds);
        self.flush()?;
        if self.wants_write() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Reads one frame from a blocking socket.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<(T, Vec<OwnedFd>)> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            match self.fill() {
                Ok(true) => (),
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for FdStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Writes part of a frame; its descriptors go with its first byte.
fn send_some(socket: &UnixStream, frame: &mut Outgoing) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = frame.fds.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(malformed("too many descriptors"));
    }
    let rest = [IoSlice::new(&frame.bytes[frame.written..])];
    frame.written += sendmsg(socket, &rest, &mut control, SendFlags::NOSIGNAL)?;
    frame.fds.clear();
    Ok(())
}

fn malformed(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn descriptors_stay_with_their_frame() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (FdStream::new(a), FdStream::new(b));
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        a.send(&1u32, vec![]).unwrap();
        a.send(&2u32, vec![reader.into()]).unwrap();
        a.send(&vec![7u8; 100_000], vec![]).unwrap();
        let (one, fds) = b.receive::<u32>().unwrap();
        assert_eq!((one, fds.len()), (1, 0));
        let (two, mut fds) = b.receive::<u32>().unwrap();
        assert_eq!((two, fds.len()), (2, 1));
        let mut byte = [0];
        io::PipeReader::from(fds.remove(0))
            .read_exact(&mut byte)
            .unwrap();
        assert_eq!(byte, *b"x");
        assert_eq!(b.receive::<Vec<u8>>().unwrap().0.len(), 100_000);
        drop(a);
        assert_eq!(
            b.receive::<u32>().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[255; 5]).unwrap();
        let error = FdStream::new(b).receive::<u32>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
