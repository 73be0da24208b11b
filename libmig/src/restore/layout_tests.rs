//! The layout planner: what is mapped, in which order, and what is refused.

use super::*;
use crate::image::{FileMapping, Layout as Numbers, LockFuture};

fn mapping(start: u64, pages: u64, protection: u8, backing: Backing) -> Mapping {
    Mapping {
        start,
        end: start + pages * PAGE,
        protection,
        backing,
        flags: MappingFlags::default(),
        guards: Vec::new(),
        name: None,
        policy: None,
    }
}

fn library(offset: u64) -> FileMapping {
    FileMapping {
        file: FilePath {
            space: None,
            path: b"/lib/libm.so".to_vec(),
            mode: 0o100_644,
            size: 9000,
        },
        offset,
    }
}

pub(in crate::restore) fn memory(mappings: Vec<Mapping>) -> MemoryImage {
    MemoryImage {
        exe_object: None,
        layout: Numbers::default(),
        exe: library(0),
        mappings,
        vdso: None,
        membarrier: 0,
        lock_future: LockFuture::Not,
        merge_future: false,
    }
}

fn planned(mappings: Vec<Mapping>) -> Layout {
    plan(7, &memory(mappings)).unwrap()
}

#[test]
fn a_file_is_opened_once_and_relro_was_writable() {
    let mut relro = mapping(0x40_1000, 1, 1, Backing::FilePrivate(library(PAGE)));
    relro.flags.accounted = true;
    let layout = planned(vec![
        mapping(0x40_0000, 1, 5, Backing::FilePrivate(library(0))),
        relro,
    ]);
    assert_eq!(layout.files.len(), 1);
    assert_eq!(layout.maps[0].protection, 5);
    assert_eq!(layout.maps[1].protection, 3);
    assert_eq!(
        layout.after,
        [Touch::Protect {
            address: 0x40_1000,
            length: PAGE,
            protection: 1
        }]
    );
}

#[test]
fn shared_files_differ_by_how_they_were_opened() {
    let shared = |start, access| mapping(start, 1, 1, Backing::FileShared(library(0), access));
    let layout = planned(vec![
        shared(0x10_0000, SharedAccess::ReadOnly),
        shared(0x20_0000, SharedAccess::ReadWrite),
    ]);
    assert_eq!(
        layout
            .files
            .iter()
            .map(|file| file.writable)
            .collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(layout.maps[1].source, Source::File(1));
    assert!(
        layout.after.is_empty(),
        "shared memory is not made writable"
    );
}

#[test]
fn contents_come_between_huge_page_advice_and_guards_and_the_seal_is_last() {
    let mut stack = mapping(0x50_0000, 8, 3, Backing::Anonymous);
    stack.flags = MappingFlags {
        no_huge_page: true,
        sealed: true,
        locked: true,
        dont_fork: true,
        ..stack.flags
    };
    stack.guards = vec![(0x50_0000, 0x50_1000)];
    let layout = planned(vec![stack]);
    let (address, length) = (0x50_0000, 8 * PAGE);
    assert_eq!(
        layout.before,
        [Touch::Advise {
            address,
            length,
            advice: libc::MADV_NOHUGEPAGE
        }]
    );
    assert_eq!(
        layout.after,
        [
            Touch::Advise {
                address,
                length,
                advice: libc::MADV_DONTFORK
            },
            Touch::Advise {
                address,
                length: PAGE,
                advice: MADV_GUARD_INSTALL
            },
            Touch::Lock {
                address,
                length,
                on_fault: false
            },
            Touch::Seal { address, length },
        ]
    );
}

#[test]
fn the_vdso_is_a_group_that_starts_with_its_data() {
    let layout = planned(vec![
        mapping(0x10_0000, 4, 1, Backing::Vvar),
        mapping(0x10_4000, 2, 1, Backing::VvarClock),
        mapping(0x10_6000, 2, 5, Backing::Vdso),
    ]);
    assert_eq!(
        (layout.vdso_group, layout.vdso),
        (Some(0x10_0000), Some((0x10_6000, 2 * PAGE)))
    );
    assert!(layout.maps.is_empty());
}

#[test]
fn bad_mappings_are_named() {
    let mut guarded = mapping(0x10_0000, 1, 3, Backing::Anonymous);
    guarded.guards = vec![(0x10_0000, 0x20_0000)];
    let mut huge = mapping(0x10_0000, 512, 3, Backing::Anonymous);
    huge.flags.hugetlb_kib = 3000;
    for bad in [
        vec![mapping(0x10_0001, 1, 3, Backing::Anonymous)],
        vec![
            mapping(0x10_0000, 2, 3, Backing::Anonymous),
            mapping(0x10_1000, 1, 3, Backing::Anonymous),
        ],
        vec![mapping(ADDRESS_END, 1, 3, Backing::Anonymous)],
        vec![mapping(0x10_0000, 1, 1, Backing::FilePrivate(library(77)))],
        vec![guarded],
        vec![huge],
    ] {
        let obstacle = plan(7, &memory(bad)).unwrap_err();
        assert!(obstacle.object.starts_with("mapping 0x"), "{obstacle:?}");
    }
}

#[test]
fn huge_pages_carry_their_size() {
    assert_eq!(huge_page_flags(2048), Ok(libc::MAP_HUGETLB | 21 << 26));
    assert_eq!(huge_page_flags(0), Ok(0));
}

#[test]
fn the_hole_is_far_from_everything() {
    let occupied = vec![
        (0x5555_0000_0000, 0x5556_0000_0000),
        (0x7ff0_0000_0000, ADDRESS_END),
    ];
    let start = hole(occupied, 0x4000).unwrap();
    assert_eq!(start % PAGE, 0);
    assert!(start > MARGIN && start + 0x4000 + MARGIN < 0x5555_0000_0000);
    assert_eq!(hole(vec![(0, ADDRESS_END)], PAGE), None);
}
