//! What only a process can tell of its address space: what becomes of mappings that it
//! makes later, and on which memory nodes its pages are placed.

use std::collections::BTreeMap;

use crate::{
    image::{LockFuture, MemoryPolicy},
    inspect::maps::Area,
    sys::remote::{Batch, DataRef, Outcome, RemoteError, Results, Slot},
};

const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;
/// Linux 6.4.
const PR_GET_MEMORY_MERGE: i32 = 68;
const MPOL_F_ADDR: u64 = 2;
const PAGE: u64 = 4096;
/// Bytes of struct { int mode; u64 nodes[]; }, as it lies in a buffer.
const NODES_AT: usize = 16;

/// Answers about an address space.
#[derive(Debug, Default)]
pub(super) struct SpaceAnswers {
    pub(super) membarrier: u32,
    pub(super) lock_future: LockFuture,
    pub(super) merge_future: bool,
    /// Of mappings that have one of their own, by first address.
    pub(super) policies: BTreeMap<u64, MemoryPolicy>,
}

/// Questions about an address space.
pub(super) struct SpaceQuestions {
    membarrier: Slot,
    merge: Slot,
    probe: Probe,
    /// By first address: where the mode is told.
    modes: Vec<(u64, Slot, DataRef)>,
}

/// A page that is mapped to see what becomes of it. Nothing in /proc tells.
struct Probe {
    page: Slot,
    discard: Slot,
    residency: Slot,
    resident: DataRef,
}

impl SpaceQuestions {
    pub(super) fn new(batch: &mut Batch, areas: &[Area]) -> Self {
        // Linux 6.3.
        let membarrier = batch.attempt(
            libc::SYS_membarrier,
            &[MEMBARRIER_CMD_GET_REGISTRATIONS.into()],
        );
        let merge = batch.attempt(libc::SYS_prctl, &[PR_GET_MEMORY_MERGE.into()]);
        let probe = Probe::new(batch);
        let own = areas.iter().filter(|area| !area.name.starts_with(b"[v"));
        let modes = own.map(|area| {
            let place = batch.reserve(4);
            let ask = [
                place.into(),
                0u64.into(),
                0u64.into(),
                area.start.into(),
                MPOL_F_ADDR.into(),
            ];
            let slot = batch.attempt(libc::SYS_get_mempolicy, &ask);
            (area.start, slot, place)
        });
        let modes = modes.collect();
        Self {
            membarrier,
            merge,
            probe,
            modes,
        }
    }

    /// The answers; `run` asks what follows from the first ones.
    pub(super) fn answers(
        &self,
        results: &Results,
        run: impl FnOnce(&Batch) -> Result<Results, RemoteError>,
    ) -> Result<SpaceAnswers, RemoteError> {
        let number = |slot: Slot| results.outcome(slot).value().unwrap_or(0);
        Ok(SpaceAnswers {
            membarrier: u32::try_from(number(self.membarrier)).unwrap_or(0),
            lock_future: self.probe.answer(results),
            merge_future: number(self.merge) == 1,
            policies: self.policies(results, run)?,
        })
    }

    /// Few mappings have one as a rule: only those are asked for all of it.
    fn policies(
        &self,
        results: &Results,
        run: impl FnOnce(&Batch) -> Result<Results, RemoteError>,
    ) -> Result<BTreeMap<u64, MemoryPolicy>, RemoteError> {
        let has_one = |(_, slot, place): &&(u64, Slot, DataRef)| {
            results.outcome(*slot).value().is_some() && results.half(*place) != 0
        };
        let mut batch = Batch::new();
        let asked: Vec<(u64, PolicyQuestion)> = self
            .modes
            .iter()
            .filter(has_one)
            .map(|(start, ..)| (*start, PolicyQuestion::new(&mut batch, Some(*start))))
            .collect();
        if asked.is_empty() {
            return Ok(BTreeMap::new());
        }
        let results = run(&batch)?;
        let answer =
            |(start, question): &(u64, PolicyQuestion)| Some((*start, question.answer(&results)?));
        Ok(asked.iter().filter_map(answer).collect())
    }
}

impl Probe {
    fn new(batch: &mut Batch) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let map = [
            0u64.into(),
            PAGE.into(),
            protection.into(),
            flags.into(),
            (-1).into(),
            0u64.into(),
        ];
        let page = batch.attempt(libc::SYS_mmap, &map);
        let resident = batch.reserve(1);
        let look = [page.into(), PAGE.into(), resident.into()];
        let residency = batch.attempt(libc::SYS_mincore, &look);
        let forget = [page.into(), PAGE.into(), libc::MADV_DONTNEED.into()];
        let discard = batch.attempt(libc::SYS_madvise, &forget);
        batch.attempt(libc::SYS_munmap, &[page.into(), PAGE.into()]);
        Self {
            page,
            discard,
            residency,
            resident,
        }
    }

    /// What is locked cannot be discarded; what is only locked once it is touched has no page yet.
    fn answer(&self, results: &Results) -> LockFuture {
        let mapped = results.outcome(self.page).value().is_some();
        let looked = results.outcome(self.residency).value().is_some();
        match results.outcome(self.discard) {
            Outcome::Failed(libc::EINVAL) if mapped && looked => {
                if results.data(self.resident)[0] & 1 == 0 {
                    LockFuture::OnFault
                } else {
                    LockFuture::Populated
                }
            }
            // RLIMIT_MEMLOCK leaves no room for the probe.
            _ if results.outcome(self.page) == Outcome::Failed(libc::EAGAIN) => {
                LockFuture::Populated
            }
            _ => LockFuture::Not,
        }
    }
}

/// get_mempolicy(2), of a mapping or of the thread that executes it.
pub(super) struct PolicyQuestion {
    slot: Slot,
    place: DataRef,
}

impl PolicyQuestion {
    pub(super) fn new(batch: &mut Batch, address: Option<u64>) -> Self {
        let place = batch.reserve(NODES_AT + 8 * MemoryPolicy::WORDS);
        let most = 64 * MemoryPolicy::WORDS as u64;
        let flags = if address.is_some() { MPOL_F_ADDR } else { 0 };
        let ask = [
            place.into(),
            place.at(NODES_AT).into(),
            most.into(),
            address.unwrap_or(0).into(),
            flags.into(),
        ];
        // Kernels without NUMA have no such call.
        let slot = batch.attempt(libc::SYS_get_mempolicy, &ask);
        Self { slot, place }
    }

    /// `None` for the default.
    pub(super) fn answer(&self, results: &Results) -> Option<MemoryPolicy> {
        results.outcome(self.slot).value()?;
        let mode = results.half(self.place).cast_signed();
        let word = |index| results.word(self.place.at(NODES_AT + 8 * index));
        let mut nodes: Vec<u64> = (0..MemoryPolicy::WORDS).map(word).collect();
        let used = nodes.iter().rposition(|word| *word != 0);
        nodes.truncate(used.map_or(0, |last| last + 1));
        (mode != 0).then_some(MemoryPolicy { mode, nodes })
    }
}
