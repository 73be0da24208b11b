//! What stays of an address space, and what does not.

use super::*;
use crate::{image::FilePath, restore::layout::MappedFile};

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

fn file(path: &str) -> MappedFile {
    MappedFile {
        file: FilePath {
            path: path.as_bytes().to_vec(),
            mode: 0o100_644,
            size: 9,
        },
        writable: false,
    }
}

#[test]
fn what_has_not_changed_stays() {
    let same = layout(&[map(0x1000, 0x3000), map(0x5000, 0x6000)]);
    let revision = revise(&same, &same, &|_, _| true);
    assert!(revision.unmap.is_empty() && revision.layout.maps.is_empty());
    assert!(revision.layout.before.is_empty());
}

#[test]
fn a_heap_grows_and_a_stack_too() {
    let before = layout(&[map(0x1000, 0x3000), map(0x8000, 0x9000)]);
    let now = layout(&[map(0x1000, 0x5000), map(0x7000, 0x9000)]);
    let revision = revise(&before, &now, &|_, _| true);
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
    let revision = revise(&before, &now, &|_, _| true);
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
    let revision = revise(&before, &now, &|_, _| true);
    assert!(revision.unmap.is_empty() && revision.layout.maps.is_empty());
    let protected = Touch::Protect {
        address: 0x2000,
        length: 0x1000,
        protection: 1,
    };
    assert_eq!(revision.layout.before, [protected]);
}

#[test]
fn a_file_is_the_same_only_at_the_same_place_and_by_the_same_name() {
    let with = |maps: &[Map], name: &str| Layout {
        files: vec![file(name)],
        ..layout(maps)
    };
    let before = with(&[of_file(0x1000, 0x4000, 0x5000)], "/a");
    let part = with(&[of_file(0x2000, 0x3000, 0x6000)], "/a");
    let revision = revise(&before, &part, &|_, _| true);
    assert_eq!(revision.unmap, [(0x1000, 0x1000), (0x3000, 0x1000)]);
    assert!(revision.layout.maps.is_empty());
    let shifted = with(&[of_file(0x1000, 0x4000, 0x6000)], "/a");
    let replaced = with(&[of_file(0x1000, 0x4000, 0x5000)], "/b");
    for other in [shifted, replaced] {
        let revision = revise(&before, &other, &|_, _| true);
        assert_eq!(revision.unmap, [(0x1000, 0x3000)]);
        assert_eq!(revision.layout.maps, other.maps);
    }
    let grown = with(&[of_file(0x1000, 0x6000, 0x5000)], "/a");
    let added = revise(&before, &grown, &|_, _| true).layout.maps;
    assert_eq!(added, [of_file(0x4000, 0x6000, 0x8000)]);
}

#[test]
fn advice_that_came_before_the_contents_makes_another_mapping() {
    let before = layout(&[map(0x1000, 0x4000)]);
    let advised = Touch::Advise {
        address: 0x1000,
        length: 0x3000,
        advice: libc::MADV_HUGEPAGE,
    };
    let mut now = before.clone();
    now.before.push(advised);
    let revision = revise(&before, &now, &|_, _| true);
    assert_eq!(revision.unmap, [(0x1000, 0x3000)]);
    assert_eq!(revision.layout.maps, now.maps);
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

#[test]
fn another_name_makes_another_mapping() {
    let before = layout(&[map(0x1000, 0x4000), map(0x6000, 0x7000)]);
    let renamed = |then: u64, now: u64| (then, now) != (0x1000, 0x1000);
    let revision = revise(&before, &before, &renamed);
    assert_eq!(revision.unmap, [(0x1000, 0x3000)]);
    assert_eq!(revision.layout.maps, [map(0x1000, 0x4000)]);
}
