//! What a tree looks like while it runs: enough to make its processes elsewhere and to
//! fill their memory, before it is stopped for good.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Backing, JobImage, Mapping, MemoryImage, Pid, Process, ProcessKind};

/// A tree that goes on running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its processes and their memory; nothing else is in it.
    pub image: JobImage,
    /// The job's own terminal, when a session has it.
    pub console: Option<Seat>,
}

/// A session and its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// /dev/pts/INDEX of the capsule.
    pub index: u32,
    /// The session's leader.
    pub session: Pid,
}

impl Draft {
    /// Whether a tree that was made by this draft can become `image`: the same processes
    /// with the same relations. Their memory may have changed.
    #[must_use]
    pub fn fits(&self, image: &JobImage) -> bool {
        let mut pairs = self.image.processes.iter().zip(&image.processes);
        self.image.processes.len() == image.processes.len()
            && pairs.all(|(before, now)| place(before) == place(now) && fits(before, now))
    }
}

impl MemoryImage {
    /// Where the mappings of now are those of `then`, by rising address: there, and only there,
    /// what was sent ahead stays at the destination. The source sends everything else once more.
    #[must_use]
    pub fn lasting(&self, then: &Self) -> Vec<Range<u64>> {
        let pairs = then.mappings.iter().flat_map(|old| {
            let first = self.mappings.partition_point(|new| new.end <= old.start);
            let over = self.mappings[first..]
                .iter()
                .take_while(|new| new.start < old.end);
            over.map(move |new| (old, new))
        });
        pairs
            .filter(|(old, new)| is_same(old, new))
            .map(|(old, new)| old.start.max(new.start)..old.end.min(new.end))
            .collect()
    }
}

impl Mapping {
    /// Whether its contents can be sent while they are written to. A page of a file's view, or
    /// of huge pages, that has been taken away may be back as if it had not been
    /// written to since: there the kernel leaves a marker that outlives its page.
    #[must_use]
    pub fn can_be_followed(&self) -> bool {
        let of_others = self.flags.droppable || self.flags.hugetlb_kib != 0;
        self.backing == Backing::Anonymous && !of_others
    }
}

/// Whether nothing but its ends and its protection can have changed of a mapping.
fn is_same(old: &Mapping, new: &Mapping) -> bool {
    let backing = match (&old.backing, &new.backing) {
        (Backing::Anonymous, Backing::Anonymous) => !new.flags.droppable,
        (Backing::FilePrivate(a), Backing::FilePrivate(b)) => {
            let (then, now) = (
                a.offset.wrapping_sub(old.start),
                b.offset.wrapping_sub(new.start),
            );
            a.file == b.file && then == now
        }
        _ => false,
    };
    backing && old.flags == new.flags && old.name == new.name && old.policy == new.policy
}

fn place(process: &Process) -> [Pid; 4] {
    [process.pid, process.ppid, process.pgid, process.sid]
}

/// A program that was exec'd has another memory altogether. One that has come to want its pages merged
/// (KSM) gets that before its mappings.
fn fits(before: &Process, now: &Process) -> bool {
    match (&before.kind, &now.kind) {
        (ProcessKind::Live(before), ProcessKind::Live(now)) => {
            let (before, now) = (&before.memory, &now.memory);
            before.exe == now.exe
                && before.exe_object == now.exe_object
                && before.merge_future == now.merge_future
        }
        (ProcessKind::Zombie { .. }, ProcessKind::Zombie { .. }) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{FileMapping, FilePath, MappingFlags, MemoryPolicy};

    fn of_file(path: &[u8], offset: u64) -> Backing {
        let file = FilePath {
            space: None,
            path: path.to_vec(),
            mode: 0o100_644,
            size: 9,
        };
        Backing::FilePrivate(FileMapping { file, offset })
    }

    fn mapping(start: u64, end: u64, backing: Backing) -> Mapping {
        Mapping {
            start,
            end,
            protection: 3,
            backing,
            flags: MappingFlags::default(),
            guards: Vec::new(),
            name: None,
            policy: None,
        }
    }

    #[test]
    fn ends_and_protection_may_change_and_nothing_else() {
        let old = mapping(0x2000, 0x5000, Backing::Anonymous);
        let changed = |change: &dyn Fn(&mut Mapping)| {
            let mut new = old.clone();
            change(&mut new);
            new
        };
        assert!(is_same(&old, &changed(&|new| new.start = 0x1000)));
        assert!(is_same(&old, &changed(&|new| new.protection = 0)));
        let named = |new: &mut Mapping| new.name = Some(b"name".to_vec());
        let bound = |new: &mut Mapping| {
            new.policy = Some(MemoryPolicy {
                mode: 2,
                nodes: vec![1],
            });
        };
        let others: [&dyn Fn(&mut Mapping); 6] = [
            &named,
            &bound,
            &|new| new.flags.huge_page = true,
            &|new| new.flags.accounted = true,
            &|new| new.backing = of_file(b"/a", 0x2000),
            &|new| new.backing = Backing::Vvar,
        ];
        for other in others {
            assert!(!is_same(&old, &changed(other)), "{:?}", changed(other));
        }
    }

    #[test]
    fn a_file_is_the_same_only_at_the_same_place_and_by_the_same_name() {
        let old = mapping(0x1000, 0x4000, of_file(b"/a", 0x5000));
        let same = |start, file| is_same(&old, &mapping(start, 0x6000, file));
        assert!(same(0x2000, of_file(b"/a", 0x6000)));
        assert!(!same(0x2000, of_file(b"/a", 0x5000)));
        assert!(!same(0x2000, of_file(b"/b", 0x6000)));
    }

    #[test]
    fn only_what_leaves_no_markers_is_followed() {
        let anonymous = mapping(0x1000, 0x2000, Backing::Anonymous);
        assert!(anonymous.can_be_followed());
        assert!(!mapping(0x1000, 0x2000, of_file(b"/a", 0)).can_be_followed());
        let mut huge = anonymous;
        huge.flags.hugetlb_kib = 2048;
        assert!(!huge.can_be_followed());
    }
}
