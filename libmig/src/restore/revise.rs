//! From an address space that was laid out while the program ran to the one that it has
//! now: what of it stays, and keeps its contents. Pure.

use std::{iter, ops::Range};

use super::layout::{Layout, Map, Source, Touch};

/// What is to be done to an address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Addresses and lengths of what is no more, or is something else.
    pub unmap: Vec<(u64, u64)>,
    /// What is to be mapped, protected and advised besides. The rest is as in the layout
    /// that it was made from.
    pub layout: Layout,
}

/// What can be filled before the program stands still: memory of its own. What it
/// shares comes later.
#[must_use]
pub fn own(mut layout: Layout) -> Layout {
    layout.maps.retain(is_own);
    layout.attaches.clear();
    let maps = &layout.maps;
    let within = |touch: &Touch| {
        let Touch::Advise {
            address, length, ..
        } = *touch
        else {
            return false;
        };
        let mut at = maps.iter();
        at.any(|map| map.address == address && map.length == length)
    };
    layout.before.retain(within);
    layout
}

fn is_own(map: &Map) -> bool {
    let kind = i32::try_from(map.flags & 0xf).unwrap_or(0);
    kind == libc::MAP_PRIVATE && !matches!(map.source, Source::Shared(..))
}

/// What leads from `before`, which [`own`] has been made of, to `now`, where `lasting` goes on
/// ([`crate::image::MemoryImage::lasting`]).
#[must_use]
pub fn revise(before: &Layout, now: &Layout, lasting: &[Range<u64>]) -> Revision {
    let mut unmap = Vec::new();
    let mut layout = now.clone();
    let mut kept = Vec::new();
    for old in &before.maps {
        let mut from = old.address;
        let end = old.address + old.length;
        for range in clipped(lasting, from, end) {
            if range.start > from {
                unmap.push((from, range.start - from));
            }
            from = range.end;
            if let Some(protect) = protect(old, now, &range) {
                layout.before.push(protect);
            }
            kept.push(range);
        }
        if from < end {
            unmap.push((from, end - from));
        }
    }
    layout.maps = now
        .maps
        .iter()
        .flat_map(|map| without(map, &kept))
        .collect();
    Revision { unmap, layout }
}

/// What of `ranges`, which rise, lies between two addresses.
fn clipped(ranges: &[Range<u64>], start: u64, end: u64) -> impl Iterator<Item = Range<u64>> {
    let first = ranges.partition_point(|range| range.end <= start);
    let over = ranges[first..]
        .iter()
        .take_while(move |range| range.start < end);
    over.map(move |range| range.start.max(start)..range.end.min(end))
}

/// A range of one mapping, then and now, gets the protection of now.
fn protect(old: &Map, now: &Layout, range: &Range<u64>) -> Option<Touch> {
    let at = now
        .maps
        .partition_point(|new| new.address + new.length <= range.start);
    let protection = now.maps.get(at)?.protection;
    (protection != old.protection).then_some(Touch::Protect {
        address: range.start,
        length: range.end - range.start,
        protection,
    })
}

/// The pieces of a mapping that lie in none of `ranges`, which rise.
fn without(map: &Map, ranges: &[Range<u64>]) -> Vec<Map> {
    let end = map.address + map.length;
    let mut from = map.address;
    let mut pieces = Vec::new();
    let first = ranges.partition_point(|range| range.end <= map.address);
    let rest = ranges[first..].iter().take_while(|range| range.start < end);
    for range in rest.cloned().chain(iter::once(end..end)) {
        if range.start > from {
            pieces.push(Map {
                address: from,
                length: range.start - from,
                offset: match map.source {
                    Source::Anonymous => map.offset,
                    _ => map.offset + (from - map.address),
                },
                ..*map
            });
        }
        from = range.end.max(from);
    }
    pieces
}

#[cfg(test)]
#[path = "revise_tests.rs"]
mod tests;
