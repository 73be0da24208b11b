//! Whether what counts as unchanged since it was sent is what was sent: looked at by the tests,
//! in builds with the feature `failpoints`. A release trusts the kernel's notes.

use std::io;

use rangemap::RangeSet;

use super::pages::Source;

/// Of each page that was sent, a hash.
#[derive(Debug, Default)]
pub(super) struct Proof {
    #[cfg(feature = "failpoints")]
    pages: std::collections::HashMap<u64, u64>,
}

#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unused_self, reason = "a release has nothing to prove")]
impl Proof {
    pub(super) fn note(&mut self, _address: u64, _bytes: &[u8]) {}

    #[expect(clippy::unnecessary_wraps, reason = "as above")]
    pub(super) fn check(&self, _source: &Source, _ranges: &RangeSet<u64>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
impl Proof {
    /// Whole pages have been sent.
    pub(super) fn note(&mut self, address: u64, bytes: &[u8]) {
        for (page, bytes) in (address..).step_by(PAGE).zip(bytes.chunks(PAGE)) {
            self.pages.insert(page, hash(bytes));
        }
    }

    /// Compares the pages of `ranges`; the process stands still.
    pub(super) fn check(&self, source: &Source, ranges: &RangeSet<u64>) -> io::Result<()> {
        let mut buffer = super::pages::buffer();
        for piece in ranges.iter().cloned().flat_map(super::pages::pieces) {
            let length = usize::try_from(piece.end - piece.start).map_err(io::Error::other)?;
            let bytes = &mut buffer[..length];
            source.read(piece.start, bytes)?;
            for (page, bytes) in piece.step_by(PAGE).zip(bytes.chunks(PAGE)) {
                if self.pages.get(&page) != Some(&hash(bytes)) {
                    return Err(io::Error::other(format!(
                        "page {page:#x} is not what was sent, and nothing has noted a write"
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
const PAGE: usize = 4096;

#[cfg(feature = "failpoints")]
fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
