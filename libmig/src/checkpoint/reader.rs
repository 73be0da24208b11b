//! Blocks -> the stream. Every byte is hostile until its hash is right.

use std::{
    error::Error,
    io::{self, Read, Seek, SeekFrom},
};

use thiserror::Error;

use super::{
    BLOCK, Base, Block, END, HEADER_MOST, Header, INDEX_MOST, MAGIC, OLDEST_STREAM, SEAL_MOST,
    TAIL, VERSION, lengths, whole,
};
use crate::{
    transfer::{Link, Place},
    wire,
};

/// What is wrong with a file, and where.
#[derive(Debug, Error)]
pub enum DamageError {
    /// It is something else.
    #[error("it is no checkpoint of mig")]
    Stranger,
    /// A layout of another release.
    #[error("it has version {0} of the layout, and this release reads {VERSION}")]
    Version(u32),
    /// A stream of another release.
    #[error("its stream has version {0}, and this release reads {OLDEST_STREAM} to {newest}", newest = wire::version::NEWEST)]
    Protocol(u16),
    /// Something that is not what was written.
    #[error("{what}, at byte {at}, is damaged")]
    Damaged {
        /// What lies there.
        what: String,
        /// Where it begins.
        at: u64,
    },
    /// A file that it builds on.
    #[error("checkpoint {0}, on which it builds: {1}")]
    InBase(String, Box<DamageError>),
    /// The end is missing.
    #[error("it is not complete: the end is missing, at byte {0}")]
    Incomplete(u64),
    /// The file cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

impl DamageError {
    /// The damage among the causes of an error of whoever read the stream.
    #[must_use]
    pub fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(error) = cause.downcast_ref::<io::Error>()
                && let Some(inner) = error.get_ref()
                && let Some(damage) = inner.downcast_ref()
            {
                return Some(damage);
            }
            next = cause.source();
        }
        None
    }
}

/// Why files are no chain.
#[derive(Debug, Error)]
pub enum ChainError {
    /// There are fewer or other files than it builds on.
    #[error("checkpoint {0}, on which it builds, is missing")]
    Missing(String),
    /// A file of that name, but another one.
    #[error("the file of checkpoint {0} is not the file on which it builds")]
    Other(String),
    /// More than it builds on.
    #[error("it does not build on checkpoint {0}")]
    Foreign(String),
}

/// What says who wrote a file: whoever wrote it knows what the bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The hash of the contents, which it is about.
    pub contents: [u8; 32],
    /// What [`super::Writer::finish`] was given.
    pub bytes: Vec<u8>,
}

fn damaged(what: impl Into<String>, at: u64) -> DamageError {
    DamageError::Damaged {
        what: what.into(),
        at,
    }
}

/// Reads a checkpoint: the header at once, then the stream.
#[derive(Debug)]
pub struct Reader<R> {
    file: R,
    header: Header,
    seal: Seal,
    digest: [u8; 32],
    index: Vec<Block>,
    /// Where each block begins: in the file, and in the stream.
    starts: Vec<(u64, u64)>,
    /// Blocks that have been read.
    next: usize,
    raw: Vec<u8>,
    taken: usize,
    /// Its length in bytes.
    length: u64,
    /// What it builds on, oldest first.
    bases: Vec<Self>,
    /// Which of them was read from last, since that was asked.
    recalled: Option<usize>,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads header and index.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn open(mut file: R) -> Result<Self, DamageError> {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let (header, hash, at) = read_header(&mut file)?;
        let (index, seal) = read_index(&mut file, &hash, at, length)?;
        let mut place = (at, 0);
        let starts = index.iter().map(|block| {
            let start = place;
            place.0 += 8 + u64::from(block.stored);
            place.1 += u64::from(block.raw);
            start
        });
        let starts = starts.collect();
        let digest = whole(&blake3::Hash::from_bytes(seal.contents), &seal.bytes);
        Ok(Self {
            file,
            header,
            seal,
            digest: *digest.as_bytes(),
            index,
            starts,
            next: 0,
            raw: Vec::new(),
            taken: 0,
            length,
            bases: Vec::new(),
            recalled: None,
        })
    }

    /// With the files that it builds on, oldest first.
    ///
    /// # Errors
    /// When they are not the very files that were meant.
    pub fn on(mut self, bases: Vec<Self>) -> Result<Self, ChainError> {
        for (at, wanted) in self.header.bases.iter().enumerate() {
            let uuid = || wanted.uuid.clone();
            let found = bases.get(at).ok_or_else(|| ChainError::Missing(uuid()))?;
            if found.header.uuid != wanted.uuid {
                return Err(ChainError::Missing(uuid()));
            }
            if found.digest != wanted.digest {
                return Err(ChainError::Other(uuid()));
            }
        }
        if let Some(beyond) = bases.get(self.header.bases.len()) {
            return Err(ChainError::Foreign(beyond.header.uuid.clone()));
        }
        self.bases = bases;
        Ok(self)
    }

    /// What it builds on, oldest first.
    pub fn bases(&self) -> &[Self] {
        &self.bases
    }

    /// Each by itself, the oldest first and this one last.
    pub(super) fn apart(mut self) -> Vec<Self> {
        let mut all = std::mem::take(&mut self.bases);
        all.push(self);
        all
    }

    /// What another file says of this one when it builds on it.
    pub fn as_base(&self) -> Base {
        Base {
            uuid: self.header.uuid.clone(),
            digest: self.digest,
        }
    }

    /// Its length in bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// What the file says of itself.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Who wrote it.
    pub const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Which of the bases has been read from since this was last asked.
    pub(super) fn last_recall(&mut self) -> Option<usize> {
        self.recalled.take()
    }

    /// Begins with the stream again.
    pub fn rewind(&mut self) {
        self.next = 0;
        self.taken = 0;
        self.raw.clear();
    }

    /// Where in the stream the next byte is that will be read.
    pub(super) fn position(&self) -> u64 {
        let ends = |at: usize| self.starts[at].1 + u64::from(self.index[at].raw);
        let loaded = self.next.checked_sub(1).map_or(0, ends);
        loaded - (self.raw.len() - self.taken) as u64
    }

    /// Takes block `at`.
    fn load(&mut self, at: usize) -> Result<(), DamageError> {
        let (block, start) = (self.index[at], self.starts[at].0);
        let bad = || {
            let name = format!("block {} of {}", at + 1, self.index.len());
            damaged(name, start)
        };
        self.file.seek(SeekFrom::Start(start))?;
        let mut head = [0; 8];
        self.file.read_exact(&mut head)?;
        let mut packed = vec![0; block.stored as usize];
        self.file.read_exact(&mut packed)?;
        let same = head == lengths(block.stored, block.raw)
            && *blake3::hash(&packed).as_bytes() == block.hash;
        if !same {
            return Err(bad());
        }
        let raw = zstd::bulk::decompress(&packed, block.raw as usize).map_err(|_| bad())?;
        if raw.len() != block.raw as usize {
            return Err(bad());
        }
        self.raw = raw;
        self.taken = 0;
        self.next = at + 1;
        Ok(())
    }

    /// Bytes of the stream from `at` on; what is read next is what follows them.
    fn read_at(&mut self, mut at: u64, mut into: &mut [u8]) -> Result<(), DamageError> {
        while !into.is_empty() {
            let block = self.starts.partition_point(|(_, start)| *start <= at);
            let block = block
                .checked_sub(1)
                .ok_or(DamageError::Incomplete(self.length))?;
            if self.next != block + 1 {
                self.load(block)?;
            }
            let from = usize::try_from(at - self.starts[block].1).unwrap_or(usize::MAX);
            let there = self.raw.get(from..).unwrap_or_default();
            let taken = there.len().min(into.len());
            if taken == 0 {
                return Err(DamageError::Incomplete(self.length));
            }
            let (now, rest) = into.split_at_mut(taken);
            now.copy_from_slice(&there[..taken]);
            self.taken = from + taken;
            at += taken as u64;
            into = rest;
        }
        Ok(())
    }
}

fn read_header(file: &mut impl Read) -> Result<(Header, blake3::Hash, u64), DamageError> {
    let mut start = [0; 16];
    file.read_exact(&mut start)
        .map_err(|_| DamageError::Stranger)?;
    if start[..8] != MAGIC {
        return Err(DamageError::Stranger);
    }
    let word =
        |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    if word(8) != VERSION {
        return Err(DamageError::Version(word(8)));
    }
    let broken = || damaged("the header", 0);
    if word(12) > HEADER_MOST {
        return Err(broken());
    }
    let mut bytes = start.to_vec();
    file.take(u64::from(word(12))).read_to_end(&mut bytes)?;
    let hash = blake3::hash(&bytes);
    let mut stored = [0; 32];
    file.read_exact(&mut stored).map_err(|_| broken())?;
    if hash != blake3::Hash::from_bytes(stored) {
        return Err(broken());
    }
    let header: Header = wire::decode_named(&bytes[16..]).map_err(|_| broken())?;
    let spoken = OLDEST_STREAM..=wire::version::NEWEST;
    if !spoken.contains(&header.protocol) {
        return Err(DamageError::Protocol(header.protocol));
    }
    Ok((header, hash, bytes.len() as u64 + 32))
}

/// The index and the seal, and a check that the blocks fill the file from `first` to where it begins.
fn read_index(
    file: &mut (impl Read + Seek),
    header: &blake3::Hash,
    first: u64,
    length: u64,
) -> Result<(Vec<Block>, Seal), DamageError> {
    let tail = length
        .checked_sub(TAIL as u64)
        .filter(|tail| *tail >= first)
        .ok_or(DamageError::Incomplete(length))?;
    let mut bytes = [0; TAIL];
    file.seek(SeekFrom::Start(tail))?;
    file.read_exact(&mut bytes)?;
    if bytes[40..] != END {
        return Err(DamageError::Incomplete(length));
    }
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (size, sealed) = (word(32), word(36));
    let start = tail
        .checked_sub(u64::from(size) + u64::from(sealed))
        .filter(|start| *start >= first && size <= INDEX_MOST && sealed <= SEAL_MOST)
        .ok_or_else(|| damaged("the length of the index", tail + 32))?;
    file.seek(SeekFrom::Start(start))?;
    let mut index = vec![0; size as usize];
    file.read_exact(&mut index)?;
    let mut seal = vec![0; sealed as usize];
    file.read_exact(&mut seal)?;
    let mut stored = [0; 32];
    stored.copy_from_slice(&bytes[..32]);
    let contents = whole(header, &index);
    if whole(&contents, &seal) != blake3::Hash::from_bytes(stored) {
        return Err(damaged("the index", start));
    }
    let index: Vec<Block> =
        postcard::from_bytes(&index).map_err(|_| damaged("the index", start))?;
    let fits = |block: &Block| block.raw as usize <= BLOCK && block.stored as usize <= 2 * BLOCK;
    let end = first
        + index
            .iter()
            .map(|block| 8 + u64::from(block.stored))
            .sum::<u64>();
    if !index.iter().all(fits) || end != start {
        return Err(damaged("the index", start));
    }
    let seal = Seal {
        contents: *contents.as_bytes(),
        bytes: seal,
    };
    Ok((index, seal))
}

impl<R: Read + Seek> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.raw.len() {
            if self.next == self.index.len() {
                return Ok(0);
            }
            self.load(self.next).map_err(io::Error::other)?;
        }
        let taken = buffer.len().min(self.raw.len() - self.taken);
        buffer[..taken].copy_from_slice(&self.raw[self.taken..self.taken + taken]);
        self.taken += taken;
        Ok(taken)
    }
}

/// Nothing is written to it: see [`Link`].
impl<R: Read + Seek> io::Write for Reader<R> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read + Seek> Link for Reader<R> {
    fn has_news(&mut self) -> bool {
        false
    }

    fn recall(&mut self, place: Place, into: &mut [u8]) -> io::Result<()> {
        self.recalled = usize::try_from(place.file).ok();
        let base = self.recalled.and_then(|file| self.bases.get_mut(file));
        let base = base.ok_or_else(|| io::Error::other("bytes of a file that is not there"))?;
        base.read_at(place.at, into).map_err(|error| {
            let uuid = base.header.uuid.clone();
            io::Error::other(DamageError::InBase(uuid, Box::new(error)))
        })
    }
}
