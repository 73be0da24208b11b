//! Cuts a batch into pieces that fit the data area, and lays out each: header,
//! records, buffers. Pure: bytes in, bytes out.

use std::collections::BTreeMap;

use super::{
    RemoteError,
    batch::{Arg, Batch, DataRef, Policy, Step},
    code::{header, record},
    results::{Outcome, Results},
};

/// A part of a batch that is run in one ptrace stop.
pub(super) struct Piece {
    /// Steps `first..end` of the batch.
    pub(super) first: usize,
    pub(super) end: usize,
    /// Offset in the data area of each buffer that the steps refer to.
    places: BTreeMap<usize, usize>,
    /// Bytes of the data area in use.
    pub(super) len: usize,
}

/// The longest piece from step `first` on that fits `capacity` bytes.
pub(super) fn cut(batch: &Batch, first: usize, capacity: usize) -> Result<Piece, RemoteError> {
    let mut segments = BTreeMap::new();
    let mut buffers = 0;
    let mut end = first;
    for step in &batch.steps[first..] {
        let mut added = Vec::new();
        for segment in referred(step) {
            close_over(batch, segment, &mut added);
        }
        added.retain(|segment| !segments.contains_key(segment));
        let more: usize = added
            .iter()
            .map(|segment| aligned(batch.segments[*segment].bytes.len()))
            .sum();
        let len = aligned(header::LEN + (end + 1 - first) * record::LEN) + buffers + more;
        if len > capacity {
            if end == first {
                return Err(RemoteError::TooLarge { len });
            }
            break;
        }
        segments.extend(added.into_iter().map(|segment| (segment, 0)));
        buffers += more;
        end += 1;
    }
    let mut at = aligned(header::LEN + (end - first) * record::LEN);
    for (segment, place) in &mut segments {
        *place = at;
        at += aligned(batch.segments[*segment].bytes.len());
    }
    Ok(Piece {
        first,
        end,
        places: segments,
        len: at,
    })
}

impl Piece {
    /// The data area for a run at address `base`, all but the saved registers.
    pub(super) fn image(&self, batch: &Batch, known: &Results, base: u64) -> Vec<u8> {
        let mut image = vec![0; self.len];
        let records = base + header::LEN as u64;
        put(&mut image, header::FIRST, records);
        put(
            &mut image,
            header::END,
            records + ((self.end - self.first) * record::LEN) as u64,
        );
        for (index, step) in batch.steps[self.first..self.end].iter().enumerate() {
            self.record(
                &mut image,
                header::LEN + index * record::LEN,
                step,
                known,
                base,
            );
        }
        for (segment, place) in &self.places {
            // What earlier pieces left in a buffer is there for the later ones.
            let bytes = &known.segments[*segment];
            image[*place..*place + bytes.len()].copy_from_slice(bytes);
            for link in &batch.segments[*segment].links {
                put(&mut image, place + link.at, self.address(link.to, base));
            }
        }
        image
    }

    /// Takes results and buffers out of the data area after a run.
    pub(super) fn collect(&self, image: &[u8], base: u64, results: &mut Results) {
        let cursor = word(image, header::CURSOR);
        let run = cursor.saturating_sub(base + header::LEN as u64) / record::LEN as u64;
        let run = usize::try_from(run)
            .unwrap_or(usize::MAX)
            .min(self.end - self.first);
        for index in 0..run {
            let rax = word(image, header::LEN + index * record::LEN + record::RESULT);
            results.outcomes[self.first + index] = Outcome::from_rax(rax);
        }
        for (segment, place) in &self.places {
            let bytes = &mut results.segments[*segment];
            let len = bytes.len();
            bytes.copy_from_slice(&image[*place..*place + len]);
        }
    }

    fn record(&self, image: &mut [u8], at: usize, step: &Step, known: &Results, base: u64) {
        let (number, args, mut flags) = match step {
            Step::Call {
                number,
                args,
                policy,
            } => {
                let flags = if *policy == Policy::Stop {
                    record::STOP_AT_ERROR
                } else {
                    0
                };
                (number.cast_unsigned(), *args, flags)
            }
            Step::Store { value, into } => {
                let mut args = [Arg::Value(0); 6];
                args[..2].copy_from_slice(&[Arg::Result(*value), Arg::Data(*into)]);
                (record::STORE, args, 0)
            }
        };
        for (index, arg) in args.into_iter().enumerate() {
            let value = match arg {
                Arg::Value(value) => value,
                Arg::Data(data) => self.address(data, base),
                Arg::Result(slot) if slot.0 >= self.first => {
                    flags |= 1 << index;
                    base + (header::LEN + (slot.0 - self.first) * record::LEN + record::RESULT)
                        as u64
                }
                Arg::Result(slot) => known.outcomes[slot.0].rax(),
            };
            put(image, at + record::ARGS + index * 8, value);
        }
        put(image, at + record::NUMBER, number);
        put(image, at + record::FLAGS, flags);
    }

    fn address(&self, data: DataRef, base: u64) -> u64 {
        base + (self.places[&data.segment] + data.offset) as u64
    }
}

/// Buffers that a step names.
fn referred(step: &Step) -> Vec<usize> {
    match step {
        Step::Call { args, .. } => args
            .iter()
            .filter_map(|arg| {
                if let Arg::Data(data) = arg {
                    Some(data.segment)
                } else {
                    None
                }
            })
            .collect(),
        Step::Store { into, .. } => vec![into.segment],
    }
}

/// Adds a buffer and those that it points to.
fn close_over(batch: &Batch, segment: usize, into: &mut Vec<usize>) {
    if into.contains(&segment) {
        return;
    }
    into.push(segment);
    for link in &batch.segments[segment].links {
        close_over(batch, link.to.segment, into);
    }
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// Writes a word of an image.
pub(super) fn put(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn word(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        *image[at..]
            .first_chunk()
            .expect("the image has a header and whole records"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::HostPid;

    fn known(batch: &Batch) -> Results {
        Results::new(HostPid::new(1), batch)
    }

    #[test]
    fn a_batch_is_cut_at_call_boundaries() {
        let mut batch = Batch::new();
        for _ in 0..10 {
            let buffer = batch.reserve(1000);
            batch.call(libc::SYS_getcwd, &[buffer.into(), 1000u64.into()]);
        }
        let capacity = 4096;
        let mut first = 0;
        let mut pieces = 0;
        while first < batch.len() {
            let piece = cut(&batch, first, capacity).unwrap();
            assert!(piece.len <= capacity && piece.end > first);
            first = piece.end;
            pieces += 1;
        }
        assert_eq!(pieces, 4);
    }

    #[test]
    fn a_call_that_never_fits_is_an_error() {
        let mut batch = Batch::new();
        let buffer = batch.reserve(5000);
        batch.call(libc::SYS_read, &[0.into(), buffer.into(), 5000u64.into()]);
        assert!(matches!(
            cut(&batch, 0, 4096),
            Err(RemoteError::TooLarge { len: 5384.. })
        ));
    }

    #[test]
    fn links_bring_their_buffers_along() {
        let mut batch = Batch::new();
        let inner = batch.data(b"inner");
        let outer = batch.reserve(16);
        batch.link(outer.at(8), inner);
        batch.call(1, &[outer.into()]);
        let piece = cut(&batch, 0, 4096).unwrap();
        let image = piece.image(&batch, &known(&batch), 0x1000);
        let outer_at = usize::try_from(word(&image, header::LEN + record::ARGS) - 0x1000).unwrap();
        let inner_at = usize::try_from(word(&image, outer_at + 8) - 0x1000).unwrap();
        assert_eq!(&image[inner_at..inner_at + 5], b"inner");
    }

    #[test]
    fn results_of_earlier_pieces_become_constants() {
        let mut batch = Batch::new();
        let first = batch.call(1, &[]);
        batch.call(2, &[first.into()]);
        let mut results = known(&batch);
        results.outcomes[0] = Outcome::Value(77);
        let apart = Piece {
            first: 1,
            end: 2,
            places: BTreeMap::new(),
            len: 4096,
        };
        let image = apart.image(&batch, &results, 0);
        assert_eq!(word(&image, header::LEN + record::ARGS), 77);
        assert_eq!(
            word(&image, header::LEN + record::FLAGS),
            record::STOP_AT_ERROR
        );
        let together = Piece {
            first: 0,
            end: 2,
            places: BTreeMap::new(),
            len: 4096,
        };
        let image = together.image(&batch, &results, 0);
        let second = header::LEN + record::LEN;
        assert_eq!(
            word(&image, second + record::FLAGS),
            record::STOP_AT_ERROR | 1
        );
        assert_eq!(
            word(&image, second + record::ARGS),
            (header::LEN + record::RESULT) as u64
        );
    }
}
