//! A connection of `mig exec` or `mig attach`.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use anyhow::Result;
use libmig::api::terminal::{self, Decoder, FromJob, MAX_DATA, Role, ToJob};

/// Above this many unsent bytes the job's terminal is not read.
const HIGH_WATER: usize = 64 << 10;

/// What a user's `mig` is told and has said.
#[derive(Debug)]
pub(crate) struct Face {
    socket: UnixStream,
    decoder: Decoder,
    output: Vec<u8>,
    sent: usize,
    /// Known after its hello.
    pub(crate) role: Option<Role>,
    /// It was told to go: to be closed once all is sent.
    pub(crate) closing: bool,
}

impl Face {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Face> {
        socket.set_nonblocking(true)?;
        Ok(Face {
            socket,
            decoder: Decoder::default(),
            output: Vec::new(),
            sent: 0,
            role: None,
            closing: false,
        })
    }

    /// Queues a message.
    pub(crate) fn say(&mut self, message: &FromJob) {
        terminal::encode(message, &mut self.output);
    }

    /// Queues terminal output.
    pub(crate) fn show(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_DATA) {
            self.say(&FromJob::Output(piece.to_vec()));
        }
    }

    /// Whether more output would only pile up.
    pub(crate) fn is_full(&self) -> bool {
        self.output.len() - self.sent > HIGH_WATER
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.wants_write() {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads once; the messages that are complete, and whether it is still there.
    pub(crate) fn listen(&mut self) -> Result<(Vec<ToJob>, bool)> {
        let mut buffer = [0; 32 << 10];
        let open = match self.socket.read(&mut buffer) {
            Ok(length) => {
                self.decoder.push(&buffer[..length]);
                length > 0
            }
            Err(e) => matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        };
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.take()? {
            messages.push(message);
        }
        Ok((messages, open))
    }
}

impl AsFd for Face {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
