//! The first thing that is said: the offer, and the files that the job needs.

use super::{Connection, Link, Message, Offer, TransferError};
use crate::image::NeededFile;

/// What the destination judges before anything is made or frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The job.
    pub offer: Offer,
    /// The files that it uses by name.
    pub files: Vec<NeededFile>,
}

/// Bytes of names in one message: far below `wire::limits::MESSAGE` with all that is beside them.
const PIECE: usize = 256 << 10;
/// Files in one message.
const PIECE_FILES: usize = 4096;

impl<S: Link> Connection<S> {
    /// Sends a proposal; `offer.files` is set here.
    ///
    /// # Errors
    /// What the stream says.
    pub fn propose(&mut self, proposal: &Proposal) -> Result<(), TransferError> {
        let files = u32::try_from(proposal.files.len()).unwrap_or(u32::MAX);
        let offer = Offer {
            files,
            ..proposal.offer.clone()
        };
        self.send(&Message::Offer(Box::new(offer)))?;
        for piece in pieces(&proposal.files) {
            self.send(&Message::Files(piece.to_vec()))?;
        }
        Ok(())
    }

    /// Receives a proposal, bounded by [`NeededFile::MOST`] and [`NeededFile::MOST_BYTES`].
    ///
    /// # Errors
    /// What the stream says, or a list that is not as long as it was announced.
    pub fn proposal(&mut self) -> Result<Proposal, TransferError> {
        let offer = self.expect("an offer", |message| match message {
            Message::Offer(offer) => Ok(*offer),
            other => Err(other),
        })?;
        let announced = offer.files as usize;
        if announced > NeededFile::MOST {
            return Err(out_of_phase("a list that is too long"));
        }
        let (mut files, mut bytes) = (Vec::new(), 0);
        while files.len() < announced {
            let piece = self.expect("a list of files", |message| match message {
                Message::Files(piece) => Ok(piece),
                other => Err(other),
            })?;
            bytes += piece
                .iter()
                .map(|needed| needed.file.path.len())
                .sum::<usize>();
            files.extend(piece);
            if files.len() > announced || bytes > NeededFile::MOST_BYTES {
                return Err(out_of_phase("a list that is longer than announced"));
            }
            if files.is_empty() {
                return Err(out_of_phase("an empty list"));
            }
        }
        Ok(Proposal { offer, files })
    }
}

fn out_of_phase(got: &'static str) -> TransferError {
    TransferError::OutOfPhase {
        expected: "a list of files",
        got,
    }
}

/// Cuts a list so that each piece fits into a message.
fn pieces(files: &[NeededFile]) -> impl Iterator<Item = &[NeededFile]> {
    let mut rest = files;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(PIECE_FILES).take_while(|needed| {
            bytes += needed.file.path.len();
            bytes <= PIECE
        });
        // A name of a megabyte has no place in any message.
        let (piece, tail) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}
