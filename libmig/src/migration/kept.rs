//! Contents in memory: of each byte the last that was said about it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use rangemap::{RangeMap, RangeSet};

use crate::{
    capture::BulkSink,
    image::{BulkTarget, Pid},
};

/// Runs of this size and above go into memory that is there before the freeze.
const PIECE: usize = 1 << 20;
/// Below this a run is not worth a whole piece.
const SMALL: usize = 64 << 10;

/// Contents of a job.
#[derive(Debug, Default)]
pub(super) struct Kept {
    runs: Vec<(BulkTarget, Vec<u8>)>,
    /// Where the memory of each process is: the run, and the address of its first byte.
    memory: BTreeMap<Pid, RangeMap<u64, (usize, u64)>>,
    spare: Vec<Vec<u8>>,
}

impl Kept {
    /// Touches as much memory as will be needed: to find and clear it would be a part of a pause.
    pub(super) fn make_room(&mut self, bytes: u64) {
        let pieces = bytes.div_ceil(PIECE as u64);
        // Zeros would be memory that is not there yet.
        self.spare = (0..pieces).map(|_| vec![1; PIECE]).collect();
    }

    /// Nothing of what has been said counts.
    pub(super) fn clear(&mut self) {
        let runs = std::mem::take(&mut self.runs);
        self.spare.extend(runs.into_iter().map(|(_, run)| run));
        self.memory.clear();
    }

    /// Forgets memory that no process has in these places any more.
    pub(super) fn keep_only(&mut self, places: &BTreeMap<Pid, RangeSet<u64>>) {
        self.memory.retain(|pid, _| places.contains_key(pid));
        for (pid, memory) in &mut self.memory {
            let elsewhere = places.get(pid).into_iter();
            for gap in elsewhere.flat_map(|places| places.gaps(&(0..u64::MAX))) {
                memory.remove(gap);
            }
        }
    }

    /// All of it, by process and address, then what is shared and what is in files.
    pub(super) fn send(&self, sink: &mut dyn BulkSink) -> io::Result<()> {
        for (pid, memory) in &self.memory {
            for (range, (run, start)) in memory.iter() {
                let target = BulkTarget::Memory {
                    pid: *pid,
                    address: range.start,
                };
                sink.bulk(target, &self.runs[*run].1[within(range, *start)])?;
            }
        }
        let other = |target: &BulkTarget| !matches!(target, BulkTarget::Memory { .. });
        for (target, bytes) in self.runs.iter().filter(|(target, _)| other(target)) {
            sink.bulk(*target, bytes)?;
        }
        Ok(())
    }

    fn push(&mut self, target: BulkTarget, bytes: &[u8]) -> usize {
        let spare = (bytes.len() >= SMALL).then(|| self.spare.pop()).flatten();
        let mut copy = spare.unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        self.runs.push((target, copy));
        self.runs.len() - 1
    }
}

impl BulkSink for Kept {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        let BulkTarget::Memory { pid, address } = target else {
            self.push(target, bytes);
            return Ok(());
        };
        let range = address..address + bytes.len() as u64;
        if range.is_empty() {
            return Ok(());
        }
        let memory = self.memory.entry(pid).or_default();
        let clip = |one: &Range<u64>| one.start.max(range.start)..one.end.min(range.end);
        for (there, (run, start)) in memory.overlapping(range.clone()) {
            let there = clip(there);
            let (into, from) = (within(&there, *start), within(&there, address));
            self.runs[*run].1[into].copy_from_slice(&bytes[from]);
        }
        let gaps: Vec<_> = memory.gaps(&range).map(|gap| clip(&gap)).collect();
        for gap in gaps {
            let (start, from) = (gap.start, within(&gap, address));
            let target = BulkTarget::Memory {
                pid,
                address: start,
            };
            let run = self.push(target, &bytes[from]);
            self.memory
                .entry(pid)
                .or_default()
                .insert(gap, (run, start));
        }
        Ok(())
    }

    fn absent(&mut self, pid: Pid, range: Range<u64>) -> io::Result<()> {
        if let Some(memory) = self.memory.get_mut(&pid)
            && !range.is_empty()
        {
            memory.remove(range);
        }
        Ok(())
    }
}

/// A range of addresses as offsets from `start`.
fn within(range: &Range<u64>, start: u64) -> Range<usize> {
    let offset = |address: u64| usize::try_from(address - start).expect("a piece of memory");
    offset(range.start)..offset(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was sent, page by page of one byte.
    #[derive(Default)]
    struct Seen(BTreeMap<u64, u8>);

    impl BulkSink for Seen {
        fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
            let BulkTarget::Memory { pid: 7, address } = target else {
                panic!("{target:?}");
            };
            for (address, byte) in (address..).zip(bytes) {
                assert!(self.0.insert(address, *byte).is_none(), "sent twice");
            }
            Ok(())
        }
    }

    #[test]
    fn the_last_word_counts() {
        let mut kept = Kept::default();
        let mut say = |address: u64, bytes: &[u8]| {
            let target = BulkTarget::Memory { pid: 7, address };
            kept.bulk(target, bytes).unwrap();
        };
        say(10, &[1; 10]);
        say(30, &[2; 10]);
        say(15, &[3; 20]);
        say(5, &[4; 7]);
        kept.absent(7, 8..11).unwrap();
        kept.absent(9, 8..11).unwrap();
        let mut seen = Seen::default();
        kept.send(&mut seen).unwrap();
        let wanted = (5..8)
            .map(|at| (at, 4))
            .chain([(11, 4)])
            .chain((12..15).map(|at| (at, 1)))
            .chain((15..35).map(|at| (at, 3)))
            .chain((35..40).map(|at| (at, 2)));
        assert_eq!(seen.0, wanted.collect());
        let mut places = BTreeMap::from([(7, [6..7, 14..16, 39..90].into_iter().collect())]);
        kept.keep_only(&places);
        let mut seen = Seen::default();
        kept.send(&mut seen).unwrap();
        let left = [(6, 4), (14, 1), (15, 3), (39, 2)];
        assert_eq!(seen.0, left.into_iter().collect());
        places.clear();
        kept.keep_only(&places);
        assert!(kept.memory.is_empty());
        // In the place of what was said before, and beside it.
        assert_eq!(kept.runs.len(), 4);
        kept.clear();
        let mut seen = Seen::default();
        kept.send(&mut seen).unwrap();
        assert!(seen.0.is_empty());
    }
}
