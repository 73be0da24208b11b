//! What the processes of a job call each other: the image speaks of all by their
//! IDs in the capsule, a process below it by those of its own pid namespace.

use std::collections::BTreeMap;

use crate::image::{Pid, Process, ProcessKind};

/// IDs in the pid namespaces below the capsule's, by ID in the capsule.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    inner: BTreeMap<Pid, Vec<Pid>>,
}

impl Numbers {
    /// All IDs of an image: of processes, threads, groups and sessions.
    pub(super) fn of(processes: &[Process]) -> Self {
        let mut all = Self::default();
        for process in processes {
            all.note(process.pid, &process.inner.pid);
            all.note(process.pgid, &process.inner.group);
            all.note(process.sid, &process.inner.session);
            if let ProcessKind::Live(live) = &process.kind {
                for thread in &live.threads {
                    all.note(thread.tid, &thread.inner);
                }
            }
        }
        all
    }

    /// A deep process may not see what it names: then its list ends with zeros.
    fn note(&mut self, id: Pid, inner: &[Pid]) {
        let seen: Vec<Pid> = inner.iter().copied().take_while(|id| *id != 0).collect();
        let known = self.inner.entry(id).or_default();
        if known.len() < seen.len() {
            *known = seen;
        }
    }

    fn below(&self, id: Pid) -> &[Pid] {
        self.inner.get(&id).map_or(&[], Vec::as_slice)
    }

    /// For clone3(2), the innermost first.
    pub(super) fn birth(&self, id: Pid) -> Vec<Pid> {
        self.below(id).iter().rev().copied().chain([id]).collect()
    }

    /// How many namespaces below the capsule's a process is in.
    pub(super) fn depth(&self, id: Pid) -> usize {
        self.below(id).len()
    }

    /// What `actor` calls `id`; `None` when it cannot see it.
    pub(super) fn seen_by(&self, actor: Pid, id: Pid) -> Option<Pid> {
        match self.depth(actor).checked_sub(1) {
            None => Some(id),
            Some(index) => self.below(id).get(index).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::InnerIds;

    fn process(pid: Pid, pgid: Pid, inner: &[Pid], group: &[Pid]) -> Process {
        Process {
            pid,
            ppid: 1,
            pgid,
            sid: 1,
            inner: InnerIds {
                space: None,
                pid: inner.to_vec(),
                group: group.to_vec(),
                session: vec![0; inner.len()],
            },
            kind: ProcessKind::Zombie {
                status: 0,
                comm: Vec::new(),
            },
        }
    }

    #[test]
    fn each_calls_the_others_by_the_ids_of_its_own_namespace() {
        let all = Numbers::of(&[
            process(10, 10, &[], &[]),
            process(11, 10, &[1], &[0]),
            process(12, 13, &[2], &[3]),
            process(14, 13, &[4, 1], &[3, 0]),
        ]);
        assert_eq!(all.birth(10), [10]);
        assert_eq!(all.birth(14), [1, 4, 14]);
        assert_eq!(all.seen_by(10, 12), Some(12));
        assert_eq!(all.seen_by(11, 12), Some(2));
        assert_eq!(all.seen_by(11, 10), None);
        assert_eq!(all.seen_by(12, 13), Some(3), "a leader that is dead");
        assert_eq!(all.seen_by(14, 12), None);
        assert_eq!(all.seen_by(4_000_000, 11), Some(11), "the zygote");
    }
}
