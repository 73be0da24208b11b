//! Pages that are in files already, by their hashes: what the next file of a chain need
//! not hold. Contents decide and nothing else: a page counts as the same wherever it was.

use std::collections::HashMap;
use std::io::{self, Read, Seek, Write};

use super::{Base, Reader};
use crate::transfer::{Connection, Incoming, Link, Message, Place, TransferError};

/// Bytes that are compared, and referred to, as one.
const PAGE: usize = 4096;
/// Most pages that are taken from another node: of 1 TiB.
const MOST: u64 = 1 << 28;
/// Longest list of files.
const ABOUT_MOST: u32 = 1 << 16;

/// Where the pages of a job are, in files of earlier times.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Known {
    /// The files, oldest first.
    pub bases: Vec<Base>,
    pages: HashMap<[u8; 32], Place>,
}

/// What is to be written for a piece of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Its bytes.
    New,
    /// Where they are.
    Old(Place),
}

impl Known {
    /// Reads all of `head` and of what it builds on.
    ///
    /// # Errors
    /// What is damaged.
    pub fn of<R: Read + Seek>(head: Reader<R>) -> Result<Self, TransferError> {
        let mut known = Self::default();
        for (file, mut reader) in (0..).zip(head.apart()) {
            known.bases.push(reader.as_base());
            reader.rewind();
            known.add(file, reader)?;
        }
        Ok(known)
    }

    fn add<R: Read + Seek>(&mut self, file: u32, reader: Reader<R>) -> Result<(), TransferError> {
        let mut stream = Connection::new(Own {
            reader,
            elsewhere: false,
        });
        loop {
            match stream.receive()? {
                Incoming::Bulk(_) => {
                    let bytes = stream.bulk_bytes().len() as u64;
                    let own = stream.link();
                    // What only refers to other files is read there.
                    if !std::mem::take(&mut own.elsewhere) {
                        let at = own.reader.position() - bytes;
                        self.add_pages(Place { file, at }, stream.bulk_bytes());
                    }
                }
                Incoming::Message(Message::End { .. }) => return Ok(()),
                _ => {}
            }
        }
    }

    fn add_pages(&mut self, first: Place, bytes: &[u8]) {
        for (at, page) in (first.at..).step_by(PAGE).zip(bytes.chunks_exact(PAGE)) {
            let place = Place { at, ..first };
            self.pages.entry(hash(page)).or_insert(place);
        }
    }

    /// Cuts a run of contents into pieces that are there already and pieces that are not.
    pub fn pieces<'a>(&self, bytes: &'a [u8]) -> Vec<(Page, &'a [u8])> {
        let mut pieces = Vec::<(Page, &[u8])>::new();
        let mut start = 0;
        for page in bytes.chunks(PAGE) {
            let found = (page.len() == PAGE).then(|| self.pages.get(&hash(page)));
            let kind = found.flatten().map_or(Page::New, |place| Page::Old(*place));
            let end = start + page.len();
            match pieces.last_mut() {
                Some((last, run)) if goes_on(*last, run.len(), kind) => {
                    *run = &bytes[end - page.len() - run.len()..end];
                }
                _ => pieces.push((kind, &bytes[start..end])),
            }
            start = end;
        }
        pieces
    }

    /// For another node.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        let about = (&self.bases, self.pages.len() as u64);
        let about = postcard::to_stdvec(&about).map_err(io::Error::other)?;
        let length = u32::try_from(about.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&about)?;
        for (hash, place) in &self.pages {
            out.write_all(hash)?;
            out.write_all(&place.file.to_le_bytes())?;
            out.write_all(&place.at.to_le_bytes())?;
        }
        Ok(())
    }

    /// From another node.
    ///
    /// # Errors
    /// What `from` says, or more than there can be.
    pub fn read(mut from: impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let bad = || io::Error::other("a list of pages that is none");
        let length = u32::from_le_bytes(length);
        if length > ABOUT_MOST {
            return Err(bad());
        }
        let mut about = vec![0; length as usize];
        from.read_exact(&mut about)?;
        let (bases, count): (Vec<Base>, u64) = postcard::from_bytes(&about).map_err(|_| bad())?;
        if bases.len() > Base::MOST || count > MOST {
            return Err(bad());
        }
        let mut pages = HashMap::new();
        for _ in 0..count {
            let (mut hash, mut file, mut at) = ([0; 32], [0; 4], [0; 8]);
            from.read_exact(&mut hash)?;
            from.read_exact(&mut file)?;
            from.read_exact(&mut at)?;
            let (file, at) = (u32::from_le_bytes(file), u64::from_le_bytes(at));
            if file as usize >= bases.len() {
                return Err(bad());
            }
            pages.insert(hash, Place { file, at });
        }
        Ok(Self { bases, pages })
    }
}

fn hash(page: &[u8]) -> [u8; 32] {
    *blake3::hash(page).as_bytes()
}

/// Whether a page of this kind continues a run of `length` bytes.
fn goes_on(last: Page, length: usize, next: Page) -> bool {
    match (last, next) {
        (Page::New, Page::New) => true,
        (Page::Old(last), Page::Old(next)) => {
            last.file == next.file && last.at.checked_add(length as u64) == Some(next.at)
        }
        _ => false,
    }
}

/// A file by itself.
#[derive(Debug)]
struct Own<R> {
    reader: Reader<R>,
    /// The last bulk is in another file.
    elsewhere: bool,
}

impl<R: Read + Seek> Read for Own<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Nothing is written to it.
impl<R> Write for Own<R> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read + Seek> Link for Own<R> {
    fn has_news(&mut self) -> bool {
        false
    }

    fn recall(&mut self, _: Place, _: &mut [u8]) -> io::Result<()> {
        self.elsewhere = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pages: &[(u8, u32, u64)]) -> Known {
        let pages = pages.iter().map(|&(fill, file, at)| {
            let page = [fill; PAGE];
            (hash(&page), Place { file, at })
        });
        let base = |file: u8| Base {
            uuid: file.to_string(),
            digest: [file; 32],
        };
        Known {
            bases: vec![base(0), base(1)],
            pages: pages.collect(),
        }
    }

    #[test]
    fn runs_are_as_long_as_they_lie_together() {
        let page = PAGE as u64;
        let known = known(&[(1, 0, 500), (2, 0, 500 + page), (3, 1, 500 + 2 * page)]);
        let mut bytes = Vec::new();
        for fill in [9, 1, 2, 3, 8, 8, 2] {
            bytes.extend([fill; PAGE]);
        }
        bytes.extend(b"a rest");
        let old = |file, at| Page::Old(Place { file, at });
        let found = known.pieces(&bytes);
        let kinds: Vec<_> = found.iter().map(|(kind, run)| (*kind, run.len())).collect();
        let wanted = [
            (Page::New, PAGE),
            (old(0, 500), 2 * PAGE),
            (old(1, 500 + 2 * page), PAGE),
            (Page::New, 2 * PAGE),
            (old(0, 500 + page), PAGE),
            (Page::New, 6),
        ];
        assert_eq!(kinds, wanted);
        let runs: Vec<u8> = found.iter().flat_map(|(_, run)| run.to_vec()).collect();
        assert!(runs == bytes);
    }

    #[test]
    fn a_list_survives_the_trip_and_a_bad_one_is_an_error() {
        let known = known(&[(1, 0, 500), (2, 1, 7)]);
        let mut bytes = Vec::new();
        known.write(&mut bytes).unwrap();
        assert_eq!(Known::read(&bytes[..]).unwrap(), known);
        assert!(Known::read(&bytes[..bytes.len() - 1]).is_err());
        assert!(Known::read(&[255; 64][..]).is_err());
        let mut beyond = known;
        beyond.bases.pop();
        let mut bytes = Vec::new();
        beyond.write(&mut bytes).unwrap();
        assert!(Known::read(&bytes[..]).is_err());
    }
}
