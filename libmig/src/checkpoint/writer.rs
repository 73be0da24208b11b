//! A stream -> blocks.

use std::io::{self, Write};

use super::{BLOCK, Block, END, Header, MAGIC, TAIL, VERSION, lengths, whole};
use crate::{transfer::Link, wire};

/// zstd's fastest: a disk is waited for, not a CPU.
const LEVEL: i32 = 1;

/// Writes a checkpoint. Complete only after [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    header: blake3::Hash,
    raw: Vec<u8>,
    index: Vec<Block>,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        let header = wire::named(header).map_err(io::Error::other)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(short(header.len())?.to_le_bytes());
        bytes.extend(header);
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        out.write_all(&bytes)?;
        Ok(Self {
            out,
            header: hash,
            raw: Vec::with_capacity(BLOCK),
            index: Vec::new(),
            written: bytes.len() as u64,
        })
    }

    /// Writes what is left, the index and what `seal` makes of the hash of all contents. The
    /// file is complete, though perhaps not on its disk. Returns its size in bytes.
    ///
    /// # Errors
    /// What the file or `seal` says.
    pub fn finish(
        mut self,
        seal: impl FnOnce(&[u8; 32]) -> io::Result<Vec<u8>>,
    ) -> io::Result<u64> {
        self.block()?;
        let index = postcard::to_stdvec(&self.index).map_err(io::Error::other)?;
        let contents = whole(&self.header, &index);
        let seal = seal(contents.as_bytes())?;
        self.out.write_all(&index)?;
        self.out.write_all(&seal)?;
        self.out.write_all(whole(&contents, &seal).as_bytes())?;
        self.out.write_all(&short(index.len())?.to_le_bytes())?;
        self.out.write_all(&short(seal.len())?.to_le_bytes())?;
        self.out.write_all(&END)?;
        self.out.flush()?;
        Ok(self.written + (index.len() + seal.len() + TAIL) as u64)
    }

    fn block(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(&self.raw, LEVEL)?;
        let block = Block {
            stored: short(packed.len())?,
            raw: short(self.raw.len())?,
            hash: *blake3::hash(&packed).as_bytes(),
        };
        self.out.write_all(&lengths(block.stored, block.raw))?;
        self.out.write_all(&packed)?;
        self.written += 8 + packed.len() as u64;
        self.index.push(block);
        self.raw.clear();
        Ok(())
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.raw.len());
        self.raw.extend_from_slice(&bytes[..taken]);
        if self.raw.len() == BLOCK {
            self.block()?;
        }
        Ok(taken)
    }

    /// A block is written when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nobody answers: see [`Link`].
impl<W: Write> io::Read for Writer<W> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl<W: Write> Link for Writer<W> {
    fn has_news(&mut self) -> bool {
        false
    }

    fn is_kept(&self) -> bool {
        true
    }
}

fn short(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}
