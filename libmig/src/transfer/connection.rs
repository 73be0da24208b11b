//! One connection on which one job moves: counted, bounded, in phase.

use std::{
    io::{self, ErrorKind::UnexpectedEof, Read, Write},
    ops::Range,
};

use thiserror::Error;

use super::{Message, Place, Refusal};
use crate::{
    capture::BulkSink,
    image::{BulkTarget, Draft, JobImage, Pid},
    wire::{self, Class, Form, Frame, FrameError},
};

/// Small frames are gathered: each write is an encrypted record and a system call.
const GATHERED: usize = 64 * 1024;

/// What can go wrong between the two ends of a move.
#[derive(Debug, Error)]
pub enum TransferError {
    /// Bytes that are no frame, or no connection at all.
    #[error("talking to the other node")]
    Frame(#[from] FrameError),
    /// A frame that may not come now.
    #[error("the other node sent {got} where {expected} was due")]
    OutOfPhase {
        /// What the phase asks for.
        expected: &'static str,
        /// What came.
        got: &'static str,
    },
    /// The other side ended the move before the commit point.
    #[error("the other node refused: {0}")]
    Refused(Refusal),
    /// The other side has closed the connection and given no reason.
    #[error("the other node closed the connection without a word: its daemon may have ended")]
    Silent,
    /// Bytes were lost or made up on the way.
    #[error("{got} bytes of bulk arrived, {sent} were sent")]
    Incomplete {
        /// What the source counted.
        sent: u64,
        /// What the destination counted.
        got: u64,
    },
}

/// What may arrive.
#[derive(Debug)]
pub enum Incoming {
    /// A control message.
    Message(Message),
    /// The image of the job.
    Image(Box<JobImage>),
    /// Bulk bytes; they are in [`Connection::bulk_bytes`].
    Bulk(BulkTarget),
}

impl Incoming {
    fn name(&self) -> &'static str {
        match self {
            Self::Message(message) => match message {
                Message::Offer(_) => "an offer",
                Message::Accepted => "an acceptance",
                Message::Refused(_) => "a refusal",
                Message::Ping => "a ping",
                Message::Pong => "a pong",
                Message::State(_) => "the capsule's state",
                Message::End { .. } => "the end of the bulk",
                Message::Built { .. } => "'built'",
                Message::Commit { .. } => "a commit",
                Message::Files(_) => "a list of files",
                Message::Released { .. } => "'released'",
                Message::Owned => "'owned'",
                Message::Lent => "'lent'",
                Message::Taken => "'taken'",
                Message::Gone => "'gone'",
                Message::Draft { .. } => "a draft",
                Message::Drafted { .. } => "'drafted'",
                Message::Round => "the end of a round",
                Message::InPlace => "'in place'",
                Message::Afresh => "'afresh'",
                Message::Absent { .. } => "what is absent",
                Message::Recall { .. } => "bytes of a file",
            },
            Self::Image(_) => "an image",
            Self::Bulk(_) => "bulk",
        }
    }

    /// The error for something that came out of its turn; a refusal keeps its reasons.
    #[must_use]
    pub fn instead_of(self, expected: &'static str) -> TransferError {
        match self {
            Self::Message(Message::Refused(refusal)) => TransferError::Refused(refusal),
            other => TransferError::OutOfPhase {
                expected,
                got: other.name(),
            },
        }
    }
}

/// A stream to the other node. What has arrived can be read also when writing fails.
pub trait Link: Read + Write {
    /// Whether the other node has said something that has not been read, or has
    /// closed its end. Never blocks.
    fn has_news(&mut self) -> bool;

    /// Whether what is written is a file, for later releases too.
    fn is_kept(&self) -> bool {
        false
    }

    /// Bytes that are elsewhere: see [`Message::Recall`].
    ///
    /// # Errors
    /// There is no such place, or it cannot be read. A node has none.
    fn recall(&mut self, _place: Place, _into: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other("bytes of a file in a move"))
    }
}

impl<L: Link + ?Sized> Link for &mut L {
    fn has_news(&mut self) -> bool {
        (**self).has_news()
    }

    fn is_kept(&self) -> bool {
        (**self).is_kept()
    }

    fn recall(&mut self, place: Place, into: &mut [u8]) -> io::Result<()> {
        (**self).recall(place, into)
    }
}

/// A stream to the other node, and what has gone over it.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    /// Written, but not to the stream yet.
    gathered: Vec<u8>,
    buffer: Vec<u8>,
    sent: u64,
    bulk: u64,
    /// The other side has spoken out of its turn, or reads no more.
    interrupted: bool,
}

impl<S: Link> Connection<S> {
    /// Wraps an authenticated stream on which nothing of the move has been said.
    pub const fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            buffer: Vec::new(),
            sent: 0,
            bulk: 0,
            interrupted: false,
        }
    }

    /// The stream, when nothing more is to be said.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// The stream, between two frames.
    pub const fn link(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Bytes written so far, headers included.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of bulk that went (source) or came (destination).
    pub const fn bulk(&self) -> u64 {
        self.bulk
    }

    /// The bytes that came with the last [`Incoming::Bulk`].
    pub fn bulk_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Writes a message and flushes.
    ///
    /// # Errors
    /// What the stream says.
    pub fn send(&mut self, message: &Message) -> Result<(), TransferError> {
        self.sent += self.write(message)?;
        self.flush()
    }

    fn write(&mut self, message: &Message) -> Result<u64, FrameError> {
        let class = self.form(Class::Message);
        wire::write_message(&mut self.gathered, message, class)
    }

    fn form(&self, class: Class) -> (Class, Form) {
        let form = if self.stream.is_kept() {
            Form::Kept
        } else {
            Form::Passing
        };
        (class, form)
    }

    /// Writes the state of the capsule's init and the image, and flushes: the
    /// other side lays the job out while its memory is read here.
    ///
    /// # Errors
    /// What the stream says, or an image above [`wire::limits::IMAGE`].
    pub fn send_image(&mut self, state: Vec<u8>, image: &JobImage) -> Result<(), TransferError> {
        self.sent += self.write(&Message::State(state))?;
        let class = self.form(Class::Image);
        self.sent += wire::write_message(&mut self.gathered, image, class)?;
        self.flush()
    }

    /// Writes a draft, and flushes.
    ///
    /// # Errors
    /// As [`Connection::send_image`].
    pub fn send_draft(&mut self, draft: &Draft) -> Result<(), TransferError> {
        let message = Message::Draft {
            console: draft.console,
        };
        self.sent += self.write(&message)?;
        let class = self.form(Class::Image);
        self.sent += wire::write_message(&mut self.gathered, &draft.image, class)?;
        self.flush()
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// What the stream or the decoder says; end of stream is an error.
    pub fn receive(&mut self) -> Result<Incoming, TransferError> {
        let read = wire::read_frame(&mut self.stream, &mut self.buffer);
        match read.map_err(|error| match error {
            FrameError::Connection(error) if error.kind() == UnexpectedEof => TransferError::Silent,
            other => TransferError::Frame(other),
        })? {
            Frame::Message(Message::Recall {
                target,
                place,
                length,
            }) => self.recalled(target, place, length),
            Frame::Message(message) => Ok(Incoming::Message(message)),
            Frame::Image(image) => Ok(Incoming::Image(image)),
            Frame::Bulk(target) => {
                self.bulk += self.buffer.len() as u64;
                Ok(Incoming::Bulk(target))
            }
        }
    }

    fn recalled(
        &mut self,
        target: BulkTarget,
        place: Place,
        length: u32,
    ) -> Result<Incoming, TransferError> {
        let limit = wire::limits::BULK;
        if length > limit {
            return Err(FrameError::TooLong { length, limit }.into());
        }
        self.buffer.resize(length as usize, 0);
        self.stream
            .recall(place, &mut self.buffer)
            .map_err(FrameError::Connection)?;
        self.bulk += u64::from(length);
        Ok(Incoming::Bulk(target))
    }

    /// Writes where bulk is to be found.
    ///
    /// # Errors
    /// What the stream says.
    pub fn refer(&mut self, target: BulkTarget, place: Place, length: u32) -> io::Result<()> {
        let message = Message::Recall {
            target,
            place,
            length,
        };
        self.sent += self.write(&message).map_err(io_error)?;
        self.bulk += u64::from(length);
        self.flush_if_much()
    }

    /// Reads a message that must be the one named.
    ///
    /// # Errors
    /// [`TransferError::Refused`], [`TransferError::OutOfPhase`], or the stream's.
    pub fn expect<T>(
        &mut self,
        expected: &'static str,
        pick: impl FnOnce(Message) -> Result<T, Message>,
    ) -> Result<T, TransferError> {
        match self.receive()? {
            Incoming::Message(message) => {
                pick(message).map_err(|other| Incoming::Message(other).instead_of(expected))
            }
            other => Err(other.instead_of(expected)),
        }
    }

    /// Sends a refusal on its best effort: the connection may be what failed.
    pub fn refuse(&mut self, refusal: Refusal) {
        if let Err(error) = self.send(&Message::Refused(refusal)) {
            tracing::debug!(%error, "could not tell the other node why the move ends");
        }
    }

    fn flush(&mut self) -> Result<(), TransferError> {
        let flushed = self.write_gathered().and_then(|()| self.stream.flush());
        flushed.map_err(|error| self.note(FrameError::Connection(error)).into())
    }

    /// What could not be written is not written again: the stream is of no use then.
    fn write_gathered(&mut self) -> io::Result<()> {
        let written = self.stream.write_all(&self.gathered);
        self.gathered.clear();
        written
    }

    /// Why the other side has interrupted us, if it has: the refusal of a node
    /// that gives up while it is being sent to waits behind the error of a write.
    /// Never blocks on a connection that works.
    pub fn last_words(&mut self) -> Option<TransferError> {
        if !self.interrupted {
            return None;
        }
        Some(match self.receive() {
            Ok(words) => words.instead_of("no word while it is being sent to"),
            Err(_) => TransferError::Silent,
        })
    }

    fn note(&mut self, error: FrameError) -> FrameError {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        if let FrameError::Connection(error) = &error {
            let kind = error.kind();
            self.interrupted |= matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset);
        }
        error
    }
}

impl<S: Link> BulkSink for Connection<S> {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        let written = if bytes.len() < GATHERED {
            wire::write_bulk(&mut self.gathered, target, bytes)
        } else {
            self.listen()?;
            let before = self.write_gathered().map_err(FrameError::Connection);
            before.and_then(|()| wire::write_bulk(&mut self.stream, target, bytes))
        };
        self.sent += written.map_err(|error| io_error(self.note(error)))?;
        self.bulk += bytes.len() as u64;
        self.flush_if_much()
    }

    fn absent(&mut self, pid: Pid, range: Range<u64>) -> io::Result<()> {
        let message = Message::Absent {
            pid,
            start: range.start,
            end: range.end,
        };
        self.sent += self.write(&message).map_err(io_error)?;
        self.flush_if_much()
    }
}

impl<S: Link> Connection<S> {
    /// Bulk is not flushed with every frame.
    fn flush_if_much(&mut self) -> io::Result<()> {
        if self.gathered.len() >= GATHERED {
            self.listen()?;
            let written = self.write_gathered().map_err(FrameError::Connection);
            written.map_err(|error| io_error(self.note(error)))?;
        }
        Ok(())
    }

    /// Before much is written: the other side may have something to say.
    fn listen(&mut self) -> io::Result<()> {
        if self.stream.has_news() {
            self.interrupted = true;
            return Err(io::Error::other("the other node interrupts"));
        }
        Ok(())
    }
}

fn io_error(error: FrameError) -> io::Error {
    match error {
        FrameError::Connection(error) => error,
        other => io::Error::other(other),
    }
}
