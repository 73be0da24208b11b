//! The contents of two captures, compared.

use std::collections::BTreeSet;
use std::ops::Range;

use libmig::image::{Backing, JobImage, LiveProcess, ProcessKind};
use libmig::sys::ptrace::reg;
use libmig::sys::remote::rewait;

use crate::snapshot::{Place, Snapshot};

/// Where the first difference of every page is, and how it reads.
pub(super) fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let written = written_by_the_kernel(&before.image);
    let places: BTreeSet<&Place> = before.pages.keys().chain(after.pages.keys()).collect();
    let mut found = Vec::new();
    for place in places {
        let (a, b) = (before.pages.get(place), after.pages.get(place));
        match (a, b) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => {
                let differs =
                    |at: &usize| a.get(*at) != b.get(*at) && !covers(&written, place, *at);
                if let Some(at) = (0..a.len().max(b.len())).find(differs) {
                    let (from, to) = (hex(a, at), hex(b, at));
                    found.push(format!(
                        "{}: {from} -> {to}",
                        name(&before.image, place, at)
                    ));
                }
            }
            (Some(page), None) | (None, Some(page)) => {
                let empty = page.iter().all(|byte| *byte == 0);
                if !(empty && reads_as_zeros(&before.image, place)) {
                    let side = if a.is_some() { "before" } else { "after" };
                    found.push(format!("{}: only {side}", name(&before.image, place, 0)));
                }
            }
            (None, None) => {}
        }
    }
    found
}

/// Memory that the kernel writes as it likes: in which an interrupted sleep leaves the time that remains (the restored
/// sleep was interrupted later), and the parts of struct rseq that say on which CPU the thread is. Also what a wait that
/// was made again has below the red zone.
fn written_by_the_kernel(image: &JobImage) -> Vec<(i32, Range<u64>)> {
    const TIMESPEC: u64 = 16;
    let mut written = Vec::new();
    for (pid, process) in live(image) {
        for thread in &process.threads {
            if let Some(rseq) = thread.rseq {
                // cpu_id_start, cpu_id; rseq_cs and flags are the program's; node_id, mm_cid.
                written.push((pid, rseq.address..rseq.address + 8));
                written.push((pid, rseq.address + 20..rseq.address + 28));
            }
            let number = thread.sleep.map(|sleep| sleep.number.cast_signed());
            if number.is_some_and(|number| rewait::timeout_of(number).is_some()) {
                written.push((pid, rewait::frame(thread.registers[reg::RSP])));
            }
            let place = match number {
                Some(35) => thread.registers[reg::RSI],
                Some(230) => thread.registers[reg::R10],
                _ => continue,
            };
            written.push((pid, place..place + TIMESPEC));
        }
    }
    written
}

fn covers(written: &[(i32, Range<u64>)], place: &Place, at: usize) -> bool {
    let Place::Memory(pid, page) = place else {
        return false;
    };
    let address = page + at as u64;
    written
        .iter()
        .any(|(of, range)| of == pid && range.contains(&address))
}

/// Whether a page that is not there is the same as one of zeros.
fn reads_as_zeros(image: &JobImage, place: &Place) -> bool {
    let Place::Memory(pid, address) = place else {
        return true;
    };
    backing(image, *pid, *address).is_some_and(|backing| *backing == Backing::Anonymous)
}

fn backing(image: &JobImage, pid: i32, address: u64) -> Option<&Backing> {
    let (_, process) = live(image).find(|(of, _)| *of == pid)?;
    let mappings = process.memory.mappings.iter();
    let mapping = mappings
        .into_iter()
        .find(|m| (m.start..m.end).contains(&address))?;
    Some(&mapping.backing)
}

fn name(image: &JobImage, place: &Place, at: usize) -> String {
    let at = at as u64;
    match place {
        Place::Memory(pid, page) => {
            let backing = backing(image, *pid, *page);
            format!("memory of process {pid} at {:#x} ({backing:x?})", page + at)
        }
        Place::Shared(object, offset) => format!("shared object {object} at {:#x}", offset + at),
        Place::File(file, offset) => format!("unlinked file {file} at {:#x}", offset + at),
    }
}

fn hex(page: &[u8], at: usize) -> String {
    const WORD: usize = 8;
    let word = &page[(at / WORD * WORD).min(page.len())..page.len().min(at / WORD * WORD + WORD)];
    word.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The live processes of an image.
pub(super) fn live(image: &JobImage) -> impl Iterator<Item = (i32, &LiveProcess)> {
    image
        .processes
        .iter()
        .filter_map(|process| match &process.kind {
            ProcessKind::Live(live) => Some((process.pid, &**live)),
            ProcessKind::Zombie { .. } => None,
        })
}
