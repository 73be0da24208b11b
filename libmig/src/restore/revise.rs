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
        let Some((address, length, _)) = advice(touch) else {
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

/// What leads from `before`, which [`own`] has been made of, to `now`. `alike` says whether
/// the mappings at two addresses, one then, one now, have the same name and policy.
pub fn revise(before: &Layout, now: &Layout, alike: &dyn Fn(u64, u64) -> bool) -> Revision {
    let mut unmap = Vec::new();
    let mut layout = now.clone();
    let mut kept = Vec::new();
    for old in &before.maps {
        let mut from = old.address;
        for (new, range) in counterparts((before, old), now, alike) {
            if range.start > from {
                unmap.push((from, range.start - from));
            }
            from = range.end;
            if old.protection != new.protection {
                layout.before.push(Touch::Protect {
                    address: range.start,
                    length: range.end - range.start,
                    protection: new.protection,
                });
            }
            kept.push(range);
        }
        if from < old.address + old.length {
            unmap.push((from, old.address + old.length - from));
        }
    }
    layout.maps = now
        .maps
        .iter()
        .flat_map(|map| without(map, &kept))
        .collect();
    Revision { unmap, layout }
}

/// The mappings of now that go on from an old one, with the addresses where they do.
fn counterparts<'a>(
    (before, old): (&'a Layout, &'a Map),
    now: &'a Layout,
    alike: &'a dyn Fn(u64, u64) -> bool,
) -> impl Iterator<Item = (&'a Map, Range<u64>)> {
    // Mappings rise: most have their counterpart at once.
    let first = now
        .maps
        .partition_point(|new| new.address + new.length <= old.address);
    now.maps[first..]
        .iter()
        .take_while(|new| new.address < old.address + old.length)
        .filter(move |new| is_same(before, old, now, new) && alike(old.address, new.address))
        .map(|new| {
            let start = old.address.max(new.address);
            let end = (old.address + old.length).min(new.address + new.length);
            (new, start..end)
        })
}

/// Whether two mappings differ in nothing but their ends and their protection.
fn is_same(before: &Layout, old: &Map, now: &Layout, new: &Map) -> bool {
    let same_source = match (old.source, new.source) {
        (Source::Anonymous, Source::Anonymous) => true,
        (Source::File(a), Source::File(b)) => {
            let origin = |map: &Map| map.offset.wrapping_sub(map.address);
            before.files.get(a) == now.files.get(b) && origin(old) == origin(new)
        }
        _ => false,
    };
    same_source && old.flags == new.flags && advices(before, old) == advices(now, new)
}

/// What had to be said of a mapping before its contents came cannot be unsaid.
fn advices(layout: &Layout, map: &Map) -> Vec<i32> {
    let own = layout.before.iter().filter_map(advice);
    own.filter(|(address, length, _)| (*address, *length) == (map.address, map.length))
        .map(|(_, _, advice)| advice)
        .collect()
}

fn advice(touch: &Touch) -> Option<(u64, u64, i32)> {
    match *touch {
        Touch::Advise {
            address,
            length,
            advice,
        } => Some((address, length, advice)),
        _ => None,
    }
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
