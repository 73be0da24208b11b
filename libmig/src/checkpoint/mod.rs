//! A job in a file: the stream of a move ([`crate::transfer`]), cut into
//! blocks that are compressed and hashed one by one.
//!
//! ```text
//!   magic      8 bytes
//!   version    u32, little-endian, of this layout
//!   length     u32 of the header
//!   header     CBOR: what can be said without reading on
//!   hash       32 bytes, BLAKE3 of all before
//!   blocks     u32 stored length, u32 raw length, the zstd frame
//!   index      postcard: both lengths and the hash of each block
//!   seal       who wrote it: the caller's bytes about the contents' hash
//!   hash       32 bytes, BLAKE3 of the contents' hash and the seal
//!   length     u32 of the index
//!   length     u32 of the seal
//!   end        8 bytes
//! ```
//!
//! The contents' hash is BLAKE3 of the header's hash and the index, which has
//! the hashes of all blocks. Knows bytes and no processes. What is damaged is
//! named with its place, and nothing is parsed before its hash is right; that
//! says that a file is as it was written. By whom, the seal says.
//!
//! A file may build on others of the same job ([`Header::bases`]): where its stream has
//! [`crate::transfer::Message::Recall`], bytes of theirs are read. It names each by the hash
//! that ends it, and lists all that it needs, so that no file but the ones that were
//! meant is ever read.

mod header;
mod known;
mod reader;
mod summary;
mod writer;

pub use header::{Base, Header};
pub use known::{Known, Page};
pub use reader::{ChainError, DamageError, Reader, Seal};
pub use summary::{LinkSummary, MemorySummary, ProcessSummary, Summary, summarize};
pub use writer::Writer;

use serde::{Deserialize, Serialize};

/// Version of the layout; that of the stream inside is [`Header::protocol`].
pub const VERSION: u32 = 3;

/// Oldest version of the stream inside that is read: from it on, a field is only added with
/// `#[serde(default)]`, a variant only added, and nothing gets another name or meaning.
pub const OLDEST_STREAM: u16 = 33;

const MAGIC: [u8; 8] = *b"\x89mig\r\n\x1a\n";
const END: [u8; 8] = *b"\nend mig";
/// Bytes of the stream in one block.
const BLOCK: usize = 1 << 20;
/// Longest header and longest index that are read: an index of 64 MiB is one of a terabyte.
const HEADER_MOST: u32 = 1 << 20;
const INDEX_MOST: u32 = 64 << 20;
/// Longest seal: a signature and a chain of certificates.
const SEAL_MOST: u32 = 1 << 20;
/// Bytes between the seal and the end of the file: hash, two lengths, end.
const TAIL: usize = 32 + 4 + 4 + 8;

/// One block as the index has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    stored: u32,
    raw: u32,
    hash: [u8; 32],
}

/// A block's header in the file.
fn lengths(stored: u32, raw: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&stored.to_le_bytes());
    bytes[4..].copy_from_slice(&raw.to_le_bytes());
    bytes
}

/// The hash of `hash` and what is beside it. Over header and index, which have the hash of
/// everything else in them, that of the contents; with the seal, that of the whole file.
fn whole(hash: &blake3::Hash, beside: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(hash.as_bytes());
    hasher.update(beside);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Write};

    use super::*;
    use crate::transfer::{Link, Place};

    fn header() -> Header {
        Header {
            uuid: "0b7c9c1e-8f2d-4f3e-9a53-000000000001".into(),
            protocol: crate::wire::version::NEWEST,
            node: "n1".into(),
            release: "0.1.0".into(),
            kernel: "6.18".into(),
            cpu: vec![1, 2, 3],
            job: "n1-7".into(),
            name: None,
            epoch: 3,
            uid: 1000,
            terminal: false,
            piped: true,
            captured_unix: 1_790_000_000,
            memory_bytes: 3 << 20,
            bases: Vec::new(),
        }
    }

    /// Two blocks and a piece, of which the second cannot be made smaller.
    fn contents() -> Vec<u8> {
        let mut bytes = vec![7; BLOCK];
        let mut noise = blake3::Hasher::new().finalize_xof();
        let mut block = vec![0; BLOCK];
        noise.fill(&mut block);
        bytes.extend(block);
        bytes.extend(b"the end");
        bytes
    }

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &header()).unwrap();
        for piece in contents().chunks(70_001) {
            writer.write_all(piece).unwrap();
        }
        let written = writer.finish(|_| Ok(b"by me".to_vec())).unwrap();
        assert_eq!(written, bytes.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Header, Vec<u8>), String> {
        let mut reader = Reader::open(Cursor::new(bytes)).map_err(|error| error.to_string())?;
        let mut contents = Vec::new();
        reader
            .read_to_end(&mut contents)
            .map_err(|error| error.to_string())?;
        Ok((reader.header().clone(), contents))
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(&file()), Ok((header(), contents())));
    }

    #[test]
    fn bytes_of_a_base_are_read_where_they_are() {
        let base = file();
        let opened = Reader::open(Cursor::new(&base[..])).unwrap();
        let on = Header {
            bases: vec![opened.as_base()],
            uuid: "another".into(),
            ..header()
        };
        let mut head = Vec::new();
        let writer = Writer::new(&mut head, &on).unwrap();
        writer.finish(|_| Ok(Vec::new())).unwrap();
        let head = || Reader::open(Cursor::new(&head[..])).unwrap();
        let mut chain = head().on(vec![opened]).unwrap();
        for (at, length) in [(0, 10), (BLOCK - 5, 10), (5, 2 * BLOCK), (2 * BLOCK, 7)] {
            let mut bytes = vec![0; length];
            let place = Place {
                file: 0,
                at: at as u64,
            };
            chain.recall(place, &mut bytes).unwrap();
            assert!(bytes == contents()[at..at + length], "{length} at {at}");
        }
        let mut bytes = [0; 8];
        for (file, at) in [(1, 0), (0, 2 * BLOCK as u64), (0, u64::MAX), (9, 1)] {
            assert!(chain.recall(Place { file, at }, &mut bytes).is_err());
        }
        let missing = head().on(Vec::new()).unwrap_err();
        assert!(missing.to_string().contains("is missing"), "{missing}");
        // Of the same name, but another one.
        let mut other = Vec::new();
        let writer = Writer::new(&mut other, &header()).unwrap();
        writer.finish(|_| Ok(Vec::new())).unwrap();
        let other = Reader::open(Cursor::new(&other[..])).unwrap();
        let wrong = head().on(vec![other]).unwrap_err();
        assert!(wrong.to_string().contains("is not the file"), "{wrong}");
    }

    #[test]
    fn a_reader_can_begin_again() {
        let bytes = file();
        let mut reader = Reader::open(Cursor::new(&bytes)).unwrap();
        reader.read_exact(&mut vec![0; BLOCK + 7]).unwrap();
        reader.rewind();
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        assert!(found == contents());
    }

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let whole = file();
        let near_the_ends = (0..400).chain(whole.len() - 400..whole.len());
        for at in near_the_ends.chain((0..whole.len()).step_by(9973)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(read(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_file_that_ends_too_early_or_late_is_found() {
        let whole = file();
        for length in (0..whole.len())
            .step_by(9973)
            .chain(whole.len() - 60..whole.len())
        {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(read(&[&whole[..], b"x"].concat()).is_err());
    }

    #[test]
    fn damage_has_a_place() {
        let mut bytes = file();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        let error = read(&bytes).unwrap_err();
        assert!(error.starts_with("block 2 of 3, at byte "), "{error}");
        let error = read(b"\x7fELF and so on, for long enough to be read").unwrap_err();
        assert_eq!(error, "it is no checkpoint of mig");
        let mut newer = file();
        newer[8] = 9;
        let error = read(&newer).unwrap_err();
        assert!(error.contains("version 9"), "{error}");
    }

    #[test]
    fn noise_never_panics() {
        let whole = file();
        let mut noise = blake3::Hasher::new().finalize_xof();
        for _ in 0..2000 {
            let mut dice = [0; 12];
            noise.fill(&mut dice);
            let place = usize::from(u16::from_le_bytes([dice[0], dice[1]]));
            let mut bytes = whole[..400].to_vec();
            bytes.extend(&whole[whole.len() - 300..]);
            let place = place % (bytes.len() - 8);
            bytes[place..place + 8].copy_from_slice(&dice[4..]);
            assert!(read(&bytes).is_err());
        }
    }
}
