//! What stays of an address space, and what does not.

use super::*;
use crate::{
    image::{Backing, FileMapping, FilePath, Mapping, MappingFlags, MemoryImage, MemoryPolicy},
    restore::layout::{self, MappedFile},
};

const RW: u64 = 3;
const PRIVATE: u64 = 0x22;

fn map(address: u64, end: u64) -> Map {
    Map {
        address,
        length: end - address,
        protection: RW,
        flags: PRIVATE,
        source: Source::Anonymous,
        offset: 0,
    }
}

fn layout(maps: &[Map]) -> Layout {
    Layout {
        maps: maps.to_vec(),
        ..Layout::default()
    }
}

fn of_file(address: u64, end: u64, offset: u64) -> Map {
    Map {
        flags: 2,
        source: Source::File(0),
        offset,
        ..map(address, end)
    }
}

#[test]
fn what_has_not_changed_stays() {
    let same = layout(&[map(0x1000, 0x3000), map(0x5000, 0x6000)]);
    let revision = revise(&same, &same, &[0x1000..0x3000, 0x5000..0x6000]);
    assert!(revision.unmap.is_empty() && revision.layout.maps.is_empty());
    assert!(revision.layout.before.is_empty());
}

#[test]
fn a_heap_grows_and_a_stack_too() {
    let before = layout(&[map(0x1000, 0x3000), map(0x8000, 0x9000)]);
    let now = layout(&[map(0x1000, 0x5000), map(0x7000, 0x9000)]);
    let revision = revise(&before, &now, &[0x1000..0x3000, 0x8000..0x9000]);
    assert!(revision.unmap.is_empty());
    assert_eq!(
        revision.layout.maps,
        [map(0x3000, 0x5000), map(0x7000, 0x8000)]
    );
}

#[test]
fn a_hole_and_what_came_into_it() {
    let before = layout(&[map(0x1000, 0x9000)]);
    let filled = of_file(0x4000, 0x5000, 0);
    let now = layout(&[map(0x1000, 0x3000), filled, map(0x6000, 0x9000)]);
    let revision = revise(&before, &now, &[0x1000..0x3000, 0x6000..0x9000]);
    assert_eq!(revision.unmap, [(0x3000, 0x3000)]);
    assert_eq!(revision.layout.maps, [filled]);
}

#[test]
fn a_part_that_was_protected_keeps_its_contents() {
    let before = layout(&[map(0x1000, 0x4000)]);
    let guarded = Map {
        protection: 1,
        ..map(0x2000, 0x3000)
    };
    let now = layout(&[map(0x1000, 0x2000), guarded, map(0x3000, 0x4000)]);
    let lasting = [0x1000..0x2000, 0x2000..0x3000, 0x3000..0x4000];
    let revision = revise(&before, &now, &lasting);
    assert!(revision.unmap.is_empty() && revision.layout.maps.is_empty());
    let protected = Touch::Protect {
        address: 0x2000,
        length: 0x1000,
        protection: 1,
    };
    assert_eq!(revision.layout.before, [protected]);
}

#[test]
fn only_own_memory_is_made_ahead() {
    let shared = Map {
        source: Source::Shared(0, true),
        flags: 1,
        ..map(0x5000, 0x6000)
    };
    let private_view = Map {
        source: Source::Shared(0, false),
        flags: 2,
        ..map(0x7000, 0x8000)
    };
    let file_shared = Map {
        flags: 1,
        ..of_file(0x9000, 0xa000, 0)
    };
    let advice = |address: u64| Touch::Advise {
        address,
        length: 0x1000,
        advice: libc::MADV_RANDOM,
    };
    let mut all = layout(&[map(0x1000, 0x2000), shared, private_view, file_shared]);
    all.before = vec![advice(0x1000), advice(0x5000)];
    let ahead = own(all);
    assert_eq!(ahead.maps, [map(0x1000, 0x2000)]);
    assert_eq!(ahead.before, [advice(0x1000)]);
}

/// An address space of a few mappings, each of some kind, at places that follow from `seed`.
fn arbitrary(seed: &mut u64) -> MemoryImage {
    let mut draw = |below: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 33) % below
    };
    let mut mappings = Vec::new();
    let mut at = 0x10_0000;
    while mappings.len() < 6 {
        at += 0x1000 * (draw(6) / 4);
        let end = at + 0x1000 * (1 + draw(3));
        mappings.push(Mapping {
            start: at,
            end,
            protection: [3, 3, 1][usize::try_from(draw(3)).unwrap()],
            backing: backing(draw(8), draw(2), at),
            flags: flags(draw(24)),
            guards: Vec::new(),
            name: (draw(8) == 0).then(|| b"name".to_vec()),
            policy: (draw(8) == 0).then(|| MemoryPolicy {
                mode: 2,
                nodes: vec![1],
            }),
        });
        at = end;
    }
    layout::tests::memory(mappings)
}

fn backing(kind: u64, file: u64, at: u64) -> Backing {
    let file = FileMapping {
        file: FilePath {
            space: None,
            path: vec![b'/', b'a' + u8::try_from(file).unwrap()],
            mode: 0o100_644,
            size: 9,
        },
        offset: at - 0x10_0000,
    };
    match kind {
        0 => Backing::Shared {
            object: 0,
            offset: 0,
            private: true,
            read_only: false,
        },
        1 | 2 => Backing::FilePrivate(file),
        _ => Backing::Anonymous,
    }
}

fn flags(kind: u64) -> MappingFlags {
    MappingFlags {
        grows_down: kind == 0,
        no_reserve: kind == 1,
        accounted: kind == 2,
        huge_page: kind == 3,
        mergeable: kind == 4,
        locked: kind == 5,
        random: kind == 6,
        droppable: kind == 7,
        hugetlb_kib: if kind == 8 { 4 } else { 0 },
        ..MappingFlags::default()
    }
}

/// The flags of mmap(2), what of which file, and advice.
type Mapped = (u64, Option<(MappedFile, u64)>, Vec<i32>);

/// What is mapped at an address, whatever its ends.
fn at(layout: &Layout, address: u64) -> Option<Mapped> {
    let over = |start: u64, length: u64| (start..start + length).contains(&address);
    let mut maps = layout.maps.iter();
    let map = maps.find(|map| over(map.address, map.length))?;
    let file = match map.source {
        Source::File(index) => {
            let origin = map.offset.wrapping_sub(map.address);
            Some((layout.files[index].clone(), origin))
        }
        _ => None,
    };
    let advice = layout.before.iter().filter_map(|touch| match *touch {
        Touch::Advise {
            address,
            length,
            advice,
        } => over(address, length).then_some(advice),
        _ => None,
    });
    Some((map.flags, file, advice.collect()))
}

#[test]
fn what_the_source_takes_for_lasting_stays_and_is_as_it_should_be() {
    let mut seed = 1;
    let (mut stayed, mut came) = (0, 0);
    for _ in 0..2000 {
        let (then, mut now) = (arbitrary(&mut seed), arbitrary(&mut seed));
        // Some are as they were.
        for (index, old) in then.mappings.iter().enumerate() {
            let mut others = now.mappings.iter().enumerate();
            if !others
                .any(|(other, new)| other != index && new.start < old.end && old.start < new.end)
            {
                now.mappings[index] = old.clone();
            }
        }
        now.mappings.sort_by_key(|mapping| mapping.start);
        let plan = |memory: &MemoryImage| layout::plan(1, memory).unwrap();
        let (before, after) = (own(plan(&then)), plan(&now));
        let lasting = now.lasting(&then);
        let revision = revise(&before, &after, &lasting);
        let unmapped = |page: u64| {
            let mut all = revision.unmap.iter();
            all.any(|(start, length)| (*start..start + length).contains(&page))
        };
        for page in (0x10_0000..0x14_0000).step_by(0x1000) {
            let stays = at(&before, page).is_some() && !unmapped(page);
            assert_eq!(stays, lasting.iter().any(|range| range.contains(&page)));
            let mapped = at(
                &Layout {
                    maps: revision.layout.maps.clone(),
                    ..after.clone()
                },
                page,
            );
            if stays {
                assert_eq!(at(&before, page), at(&after, page), "{page:#x}");
                assert_eq!(mapped, None);
                stayed += 1;
            } else {
                assert_eq!(mapped, at(&after, page));
                came += u32::from(mapped.is_some());
            }
        }
    }
    assert!(stayed > 1000 && came > 1000, "{stayed} {came}");
}
