//! Frames: a fixed header, then a payload.
//!
//! ```text
//! offset  size
//!      0     1  kind: 1 message, 2 image, 3 memory, 4 shared object, 5 file,
//!               6 message in a file, 7 image in a file
//!      1     3  zero
//!      4     4  payload length, little-endian
//!      8     8  memory: pid; shared: object; file: description; else 0
//!     16     8  memory: address; shared and file: offset; else 0
//! ```
//!
//! The header can be read without postcard, and the length is checked against
//! its kind's limit before a byte is allocated. Bulk payloads are raw bytes. What
//! is in a file is read by later releases too: there, messages and images are CBOR with
//! the names of all fields, to which fields with a default can be added.

use std::{
    error::Error,
    io::{self, IoSlice, Read, Write},
};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::limits;
use crate::image::BulkTarget;

/// Length of a frame's header in bytes.
pub const FRAME_HEADER: usize = 24;

/// What can be wrong with a frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection broke, timed out or ended.
    #[error("connection to the other node")]
    Connection(#[source] io::Error),
    /// A kind that this version does not know, or reserved bytes that are not zero.
    #[error("frame of unknown kind {0:#x}")]
    UnknownKind(u32),
    /// Longer than its kind may be.
    #[error("frame of {length} bytes where {limit} are the most")]
    TooLong {
        /// What the header says.
        length: u32,
        /// The limit of its kind.
        limit: u32,
    },
    /// The payload is not what its kind says.
    #[error("payload that does not decode")]
    Payload(#[source] Box<dyn Error + Send + Sync>),
    /// Bytes are left over after the payload was decoded.
    #[error("{0} bytes left over behind a payload")]
    LeftOver(usize),
}

/// One frame as read.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<M, I> {
    /// A control message.
    Message(M),
    /// A job image.
    Image(I),
    /// Bulk bytes, left in the buffer that was passed to [`read_frame`].
    Bulk(BulkTarget),
}

/// What a value is, which says how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A control message.
    Message,
    /// A job image.
    Image,
}

/// Who is to read a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A node that speaks this version: postcard.
    Passing,
    /// Whoever reads the file, in this release or a later one: CBOR.
    Kept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Message = 1,
    Image = 2,
    Memory = 3,
    Shared = 4,
    File = 5,
    KeptMessage = 6,
    KeptImage = 7,
}

impl Kind {
    fn decode(word: u32) -> Result<Self, FrameError> {
        match word {
            1 => Ok(Self::Message),
            2 => Ok(Self::Image),
            3 => Ok(Self::Memory),
            4 => Ok(Self::Shared),
            5 => Ok(Self::File),
            6 => Ok(Self::KeptMessage),
            7 => Ok(Self::KeptImage),
            _ => Err(FrameError::UnknownKind(word)),
        }
    }

    const fn limit(self) -> u32 {
        match self {
            Self::Message | Self::KeptMessage => limits::MESSAGE,
            Self::Image | Self::KeptImage => limits::IMAGE,
            Self::Memory | Self::Shared | Self::File => limits::BULK,
        }
    }
}

/// Writes one value.
///
/// # Errors
/// [`FrameError::TooLong`] when the value outgrows its kind's limit, otherwise
/// what the connection says.
pub fn write_message<T: Serialize>(
    writer: &mut impl Write,
    value: &T,
    (class, form): (Class, Form),
) -> Result<u64, FrameError> {
    let (kind, payload) = match (class, form) {
        (Class::Message, Form::Passing) => (Kind::Message, compact(value)?),
        (Class::Image, Form::Passing) => (Kind::Image, compact(value)?),
        (Class::Message, Form::Kept) => (Kind::KeptMessage, named(value)?),
        (Class::Image, Form::Kept) => (Kind::KeptImage, named(value)?),
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if length > kind.limit() {
        return Err(FrameError::TooLong {
            length,
            limit: kind.limit(),
        });
    }
    write_parts(writer, &header(kind, length, 0, 0), &payload)
}

fn compact<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    postcard::to_stdvec(value).map_err(|error| FrameError::Payload(error.into()))
}

/// CBOR with the names of all fields.
///
/// # Errors
/// None that is known: there is memory for it.
pub fn named<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| FrameError::Payload(error.into()))?;
    Ok(bytes)
}

/// The reverse of [`named`].
///
/// # Errors
/// What is not such a value, or more.
pub fn decode_named<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, FrameError> {
    let value =
        ciborium::from_reader(&mut bytes).map_err(|error| FrameError::Payload(error.into()))?;
    if bytes.is_empty() {
        Ok(value)
    } else {
        Err(FrameError::LeftOver(bytes.len()))
    }
}

/// Writes bulk bytes without copying them.
///
/// # Errors
/// [`FrameError::TooLong`] above [`limits::BULK`], otherwise what the connection says.
pub fn write_bulk(
    writer: &mut impl Write,
    target: BulkTarget,
    bytes: &[u8],
) -> Result<u64, FrameError> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if length > limits::BULK {
        return Err(FrameError::TooLong {
            length,
            limit: limits::BULK,
        });
    }
    let (kind, id, offset) = match target {
        BulkTarget::Memory { pid, address } => {
            (Kind::Memory, u64::from(pid.cast_unsigned()), address)
        }
        BulkTarget::Shared { object, offset } => (Kind::Shared, u64::from(object), offset),
        BulkTarget::File { file, offset } => (Kind::File, u64::from(file), offset),
    };
    write_parts(writer, &header(kind, length, id, offset), bytes)
}

fn write_parts(writer: &mut impl Write, header: &[u8], payload: &[u8]) -> Result<u64, FrameError> {
    let mut parts = [IoSlice::new(header), IoSlice::new(payload)];
    let mut rest: &mut [IoSlice<'_>] = &mut parts;
    while rest.iter().any(|part| !part.is_empty()) {
        match writer.write_vectored(rest) {
            Ok(0) => return Err(FrameError::Connection(io::ErrorKind::WriteZero.into())),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Connection(error)),
        }
    }
    Ok((header.len() + payload.len()) as u64)
}

fn header(kind: Kind, length: u32, id: u64, offset: u64) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    header[0] = kind as u8;
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&id.to_le_bytes());
    header[16..24].copy_from_slice(&offset.to_le_bytes());
    header
}

/// Reads one frame. Bulk bytes land in `bulk`, whose memory is reused.
///
/// # Errors
/// Every [`FrameError`]; the connection is of no further use after one.
pub fn read_frame<M: DeserializeOwned, I: DeserializeOwned>(
    reader: &mut impl Read,
    bulk: &mut Vec<u8>,
) -> Result<Frame<M, I>, FrameError> {
    let mut header = [0; FRAME_HEADER];
    reader
        .read_exact(&mut header)
        .map_err(FrameError::Connection)?;
    let kind = Kind::decode(word(&header, 0))?;
    let length = word(&header, 4);
    if length > kind.limit() {
        return Err(FrameError::TooLong {
            length,
            limit: kind.limit(),
        });
    }
    let target = target(kind, long(&header, 8), long(&header, 16))?;
    read_payload(reader, bulk, length as usize)?;
    match kind {
        Kind::Message => decode(bulk).map(Frame::Message),
        Kind::Image => decode(bulk).map(Frame::Image),
        Kind::KeptMessage => decode_named(bulk).map(Frame::Message),
        Kind::KeptImage => decode_named(bulk).map(Frame::Image),
        Kind::Memory | Kind::Shared | Kind::File => {
            Ok(Frame::Bulk(target.expect("every bulk kind has a target")))
        }
    }
}

/// Grows the buffer as bytes arrive, so that a header alone cannot make us
/// allocate what its sender never sends.
fn read_payload(
    reader: &mut impl Read,
    buffer: &mut Vec<u8>,
    length: usize,
) -> Result<(), FrameError> {
    const STEP: usize = 1 << 20;
    buffer.clear();
    while buffer.len() < length {
        let start = buffer.len();
        buffer.resize(length.min(start + STEP), 0);
        reader
            .read_exact(&mut buffer[start..])
            .map_err(FrameError::Connection)?;
    }
    Ok(())
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    let taken = postcard::take_from_bytes(payload);
    let (value, rest) = taken.map_err(|error| FrameError::Payload(error.into()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(FrameError::LeftOver(rest.len()))
    }
}

fn target(kind: Kind, id: u64, offset: u64) -> Result<Option<BulkTarget>, FrameError> {
    let small = u32::try_from(id).map_err(|_| FrameError::UnknownKind(u32::MAX))?;
    Ok(match kind {
        Kind::Memory => Some(BulkTarget::Memory {
            pid: small.cast_signed(),
            address: offset,
        }),
        Kind::Shared => Some(BulkTarget::Shared {
            object: small,
            offset,
        }),
        Kind::File => Some(BulkTarget::File {
            file: small,
            offset,
        }),
        Kind::Message | Kind::Image | Kind::KeptMessage | Kind::KeptImage => None,
    })
}

fn word(bytes: &[u8; FRAME_HEADER], at: usize) -> u32 {
    u32::from_le_bytes(
        bytes[at..at + 4]
            .try_into()
            .expect("four bytes of a header"),
    )
}

fn long(bytes: &[u8; FRAME_HEADER], at: usize) -> u64 {
    u64::from_le_bytes(
        bytes[at..at + 8]
            .try_into()
            .expect("eight bytes of a header"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = Result<Frame<String, String>, FrameError>;

    const PASSING: (Class, Form) = (Class::Message, Form::Passing);

    fn read(bytes: &[u8]) -> (Read, Vec<u8>) {
        let mut bulk = Vec::new();
        (read_frame(&mut &bytes[..], &mut bulk), bulk)
    }

    #[test]
    fn messages_and_bulk_come_back_as_they_went() {
        let mut wire = Vec::new();
        write_message(&mut wire, &"hello", PASSING).unwrap();
        let target = BulkTarget::Memory {
            pid: 7,
            address: 0x7fff_0000,
        };
        write_bulk(&mut wire, target, &[9; 4096]).unwrap();
        let mut rest = &wire[..];
        let mut bulk = Vec::new();
        let first: Frame<String, String> = read_frame(&mut rest, &mut bulk).unwrap();
        assert_eq!(first, Frame::Message("hello".into()));
        let second: Frame<String, String> = read_frame(&mut rest, &mut bulk).unwrap();
        assert_eq!(second, Frame::Bulk(target));
        assert_eq!(bulk, [9; 4096]);
        assert!(rest.is_empty());
    }

    #[test]
    fn the_bytes_of_a_frame_are_pinned() {
        let mut wire = Vec::new();
        write_bulk(
            &mut wire,
            BulkTarget::Shared {
                object: 3,
                offset: 4096,
            },
            b"ab",
        )
        .unwrap();
        let expected: [u8; 26] = [
            4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, b'a', b'b',
        ];
        assert_eq!(wire, expected);
    }

    #[test]
    fn a_length_above_its_limit_is_refused_before_it_is_allocated() {
        let wire = header(Kind::Message, u32::MAX, 0, 0);
        assert!(matches!(read(&wire).0, Err(FrameError::TooLong { .. })));
        let wire = header(Kind::Image, limits::IMAGE, 0, 0);
        let (outcome, buffer) = read(&wire);
        assert!(matches!(outcome, Err(FrameError::Connection(_))));
        assert!(
            buffer.capacity() <= 2 << 20,
            "a header alone must not fill memory"
        );
    }

    #[test]
    fn noise_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000_usize {
            let mut bytes: Vec<u8> = (0..round % 96)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[0]
                })
                .collect();
            if round % 2 == 0 && bytes.len() > 8 {
                bytes[0] = 1 + bytes[0] % 7;
                bytes[1..4].fill(0);
                bytes[5..8].fill(0);
            }
            drop(read(&bytes));
        }
    }

    #[test]
    fn a_value_in_a_file_may_lack_what_has_a_default_and_have_what_is_not_known() {
        #[derive(Serialize)]
        struct Before {
            name: String,
            gone: u32,
        }
        #[derive(Debug, PartialEq, Eq, serde::Deserialize)]
        struct Now {
            name: String,
            #[serde(default)]
            new: u64,
        }
        let name = String::from("n1");
        let mut wire = Vec::new();
        let value = Before { name, gone: 3 };
        write_message(&mut wire, &value, (Class::Image, Form::Kept)).unwrap();
        let frame = read_frame::<String, Now>(&mut &wire[..], &mut Vec::new()).unwrap();
        let name = String::from("n1");
        assert_eq!(frame, Frame::Image(Now { name, new: 0 }));
    }

    #[test]
    fn leftovers_and_truncation_are_errors() {
        let mut wire = Vec::new();
        write_message(&mut wire, &"hello", PASSING).unwrap();
        assert!(matches!(
            read(&wire[..wire.len() - 1]).0,
            Err(FrameError::Connection(_))
        ));
        wire.push(0);
        wire[4] += 1;
        assert!(matches!(read(&wire).0, Err(FrameError::LeftOver(1))));
    }
}
