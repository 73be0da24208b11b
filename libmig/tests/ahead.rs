//! Memory that is sent while a program changes it in every way: what the destination puts together of
//! the rounds and of what comes after the freeze is what the program has.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeMap, convert::Infallible, fs, io, ops::Range, os::unix::fs::FileExt};

use common::Victim;
use libmig::{
    capture::{BulkSink, Captured, Frozen, Tables, freeze},
    image::{Backing, BulkTarget, Draft, Mapping, MemoryImage, Pid, Process, ProcessKind},
    inspect::process,
    sys::{HostPid, process_vm},
};

const TIMES: usize = 12;

/// Pages, by process and address.
#[derive(Default)]
struct Pages(BTreeMap<(Pid, u64), Vec<u8>>);

impl BulkSink for Pages {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        if let BulkTarget::Memory { pid, address } = target {
            let pages = (address..).step_by(4096).zip(bytes.chunks(4096));
            self.0
                .extend(pages.map(|(page, bytes)| ((pid, page), bytes.to_vec())));
        }
        Ok(())
    }
}

fn capture(frozen: &mut Frozen) -> Captured {
    let empty = |sources: usize| Tables {
        descriptors: vec![Vec::new(); sources],
        ..Tables::default()
    };
    frozen
        .capture(|sources, _| Ok::<_, Infallible>(empty(sources.len())))
        .unwrap()
}

fn memory(process: &Process) -> &MemoryImage {
    match &process.kind {
        ProcessKind::Live(live) => &live.memory,
        ProcessKind::Zombie { .. } => panic!("a zombie"),
    }
}

/// What is left of the rounds when the address spaces are those of the image.
fn revised(pages: &Pages, draft: &Draft, captured: &Captured) -> Pages {
    let mut left = Pages::default();
    let (then, now) = (&draft.image.processes, &captured.image.processes);
    for (then, now) in then.iter().zip(now) {
        for range in memory(now).lasting(memory(then)) {
            let kept = pages.0.range((now.pid, range.start)..(now.pid, range.end));
            left.0.extend(kept.map(|(at, bytes)| (*at, bytes.clone())));
        }
    }
    left
}

/// What a mapping holds where nothing was sent, if that is known.
fn before(mapping: &Mapping, view: &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(mapping.end - mapping.start).unwrap();
    match mapping.backing {
        Backing::Anonymous => Some(vec![0; length]),
        Backing::Shared {
            private: true,
            offset,
            ..
        } => {
            let offset = usize::try_from(offset).unwrap();
            Some(view[offset..offset + length].to_vec())
        }
        _ => None,
    }
}

/// Each page that the destination has is that of the program, and so is each that it does not have.
fn assert_same(got: &Pages, host: HostPid, process: &Process, view: &[u8]) {
    let memory_of = process_vm::open_mem(host).unwrap();
    for mapping in &memory(process).mappings {
        let Some(mut arrived) = before(mapping, view) else {
            continue;
        };
        let mut is = vec![0; arrived.len()];
        memory_of.read_exact_at(&mut is, mapping.start).unwrap();
        let ends = (process.pid, mapping.start)..(process.pid, mapping.end);
        for ((_, page), bytes) in got.0.range(ends) {
            let at = usize::try_from(page - mapping.start).unwrap();
            arrived[at..at + 4096].copy_from_slice(bytes);
        }
        let wrong = arrived.chunks(4096).zip(is.chunks(4096));
        let wrong: Vec<usize> = (0..)
            .zip(wrong)
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at)
            .collect();
        assert!(wrong.is_empty(), "pages {wrong:?} of {mapping:x?}");
    }
}

/// One move, as far as memory goes.
fn once(victim: &Victim, view: &[u8]) {
    let mut frozen = freeze(victim.init()).unwrap();
    let draft = frozen.draft().unwrap().unwrap();
    let mut tracker = frozen.follow(&draft).unwrap();
    frozen.thaw();
    let mut ahead = Pages::default();
    for _ in 0..3 {
        tracker.round(&mut ahead).unwrap();
    }
    let mut frozen = freeze(victim.init()).unwrap();
    tracker.stopped(&mut frozen);
    let captured = capture(&mut frozen);
    assert!(!tracker.has_lost() && draft.fits(&captured.image));
    let mut last = Last {
        there: revised(&ahead, &draft, &captured),
        ..Last::default()
    };
    assert!(!last.there.0.is_empty(), "nothing was sent ahead");
    frozen
        .send_memory(&captured, Some(&mut tracker), &mut last)
        .unwrap();
    let host = frozen.processes().next().unwrap();
    assert_same(&last.finish(), host, &captured.image.processes[0], view);
    frozen.thaw();
}

/// What comes after the freeze, as a destination takes it: it forgets when all has come.
#[derive(Default)]
struct Last {
    there: Pages,
    came: Pages,
    absent: Vec<(Pid, Range<u64>)>,
}

impl Last {
    fn finish(mut self) -> Pages {
        self.there.0.extend(self.came.0);
        for (pid, range) in self.absent {
            self.there
                .0
                .retain(|(of, page), _| *of != pid || !range.contains(page));
        }
        self.there
    }
}

impl BulkSink for Last {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        self.came.bulk(target, bytes)
    }

    fn absent(&mut self, pid: Pid, range: Range<u64>) -> io::Result<()> {
        self.absent.push((pid, range));
        Ok(())
    }
}

#[test]
fn what_changes_while_it_is_sent_arrives_as_it_is_at_last() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let args = "--mode memory --forks 0 --size-mb 16 --dir";
    let args: Vec<&str> = args.split(' ').chain([folder]).collect();
    let mut victim = Victim::start_below_init("chaos", &args);
    let mut files = fs::read_dir(folder).unwrap();
    let view = fs::read(files.next().unwrap().unwrap().path()).unwrap();
    for _ in 0..TIMES {
        once(&victim, &view);
    }
    let program = process::children(victim.init()).unwrap()[0];
    nix::sys::signal::kill(program.into(), nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut line = victim.line();
    while line.starts_with("tick") || line.starts_with("gap_us") {
        line = victim.line();
    }
    assert_eq!(line, "PASS");
}
