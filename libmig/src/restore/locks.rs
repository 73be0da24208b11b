//! Locks of the job, as far as they can be had before the source has let go:
//! read locks, and all on file systems of this node's own. A lock that the
//! frozen copy at the source holds is left to whoever releases the tree.

use std::collections::BTreeMap;

use super::{error::RestoreError, files::Opened};
use crate::{
    api::Obstacle,
    image::{FileLock, LockKind, Pid},
    sys::{
        lock::{self, Access},
        remote::{Batch, Outcome, Results, Slot},
    },
};

/// The locks of a tree that is being built.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Those of each process, which it must ask for itself.
    own: BTreeMap<Pid, Vec<FileLock>>,
    /// Those that somebody else has.
    waiting: Vec<FileLock>,
}

impl Locks {
    /// Takes those that belong to open file descriptions.
    pub(super) fn of_descriptions(
        locks: &[FileLock],
        opened: &Opened,
    ) -> Result<Self, RestoreError> {
        let mut found = Self::default();
        for lock in locks {
            if lock.kind == LockKind::Process {
                found.own.entry(lock.pid).or_default().push(*lock);
                continue;
            }
            let file = opened.file(lock.file).ok_or_else(|| unlockable(lock, 0))?;
            match lock::set(file, lock, Access::of(lock)) {
                Ok(true) => {}
                Ok(false) => found.waiting.push(*lock),
                Err(error) => {
                    return Err(unlockable(lock, error.raw_os_error().unwrap_or(0)).into());
                }
            }
        }
        Ok(found)
    }

    /// Has a process ask for its own. To be the last that it does to its
    /// descriptors: it loses them when it closes any of the file.
    pub(super) fn ask(&self, batch: &mut Batch, pid: Pid) -> Vec<Slot> {
        let own = self.own.get(&pid).into_iter().flatten();
        own.map(|lock| {
            let range = batch.data(&lock::argument(lock, Access::of(lock)));
            let set = [lock.number.into(), libc::F_SETLK.into(), range.into()];
            batch.attempt(libc::SYS_fcntl, &set)
        })
        .collect()
    }

    /// What came of it.
    pub(super) fn answered(
        &mut self,
        pid: Pid,
        slots: &[Slot],
        results: &Results,
    ) -> Result<(), RestoreError> {
        for (lock, slot) in self.own.remove(&pid).unwrap_or_default().iter().zip(slots) {
            match results.outcome(*slot) {
                Outcome::Value(_) => {}
                Outcome::Failed(errno) if lock::is_taken(errno) => self.waiting.push(*lock),
                Outcome::Failed(errno) => return Err(unlockable(lock, errno).into()),
                Outcome::NotRun => return Err(unlockable(lock, libc::ECANCELED).into()),
            }
        }
        Ok(())
    }

    /// Those that somebody else has, when every process has been asked.
    pub(super) fn waiting(self) -> Result<Vec<FileLock>, RestoreError> {
        let stray = self.own.values().flatten().next();
        match stray {
            Some(lock) => Err(unlockable(lock, libc::ESRCH).into()),
            None => Ok(self.waiting),
        }
    }
}

fn unlockable(lock: &FileLock, errno: i32) -> Obstacle {
    let error = std::io::Error::from_raw_os_error(errno);
    Obstacle {
        pid: Some(lock.pid),
        object: format!("fd {}", lock.number),
        reason: format!("its lock cannot be had at the destination: {error}"),
        remedy: "keep the file on a file system that has locks on every node".into(),
        transient: false,
    }
}
