//! The rules about jobs that come from checkpoints: each lives once, and each file is
//! restored once, unless it is to be a new job.

use libmig::api::{Code, Failure, JobId};

use super::record::Change;
use super::registry::{Registry, Ruled, unix_now};

/// Checkpoints of which it is remembered that they have been restored.
const RESTORED_MAX: usize = 10_000;

/// What a job from a checkpoint is to be.
#[derive(Debug, Clone)]
pub(crate) struct Revival {
    /// The job that it was.
    pub(crate) was: JobId,
    /// The checkpoint's own name.
    pub(crate) uuid: String,
    /// The epoch under which it was taken.
    pub(crate) epoch: u64,
    /// The job's owner.
    pub(crate) uid: u32,
    /// The name that it is to have.
    pub(crate) name: Option<String>,
    /// It is to be a job of its own.
    pub(crate) new_job: bool,
}

impl Registry {
    /// A job is about to come from a checkpoint: the ID and the epoch that it will have.
    /// [`Registry::revived`] says that the attempt is over.
    pub(super) fn revive(&mut self, wanted: &Revival) -> Ruled<(JobId, u64)> {
        self.forget_old_restores()?;
        if wanted.new_job {
            self.name_is_free(wanted.uid, wanted.name.as_deref())?;
            return self.new_job();
        }
        self.may_live(wanted)?;
        self.name_is_free(wanted.uid, wanted.name.as_deref())?;
        let job = &wanted.was;
        let known = self.arrivals.get(job).map_or(0, |arrival| arrival.epoch);
        // Above all that any node has ever heard of this job, whose record has been forgotten.
        let clock = unix_now().saturating_mul(1000);
        let epoch = wanted.epoch.max(known).max(clock).saturating_add(1);
        self.reviving.insert(job.clone());
        Ok((job.clone(), epoch))
    }

    fn new_job(&mut self) -> Ruled<(JobId, u64)> {
        let number = self.last_number + 1;
        self.durable(&[Change::LastNumber(number)])?;
        self.last_number = number;
        let home = self.node.clone();
        let job = JobId { home, number };
        self.reviving.insert(job.clone());
        Ok((job, 1))
    }

    /// That attempt is over.
    pub(super) fn revived(&mut self, job: &JobId) {
        self.reviving.remove(job);
    }

    fn may_live(&self, wanted: &Revival) -> Ruled<()> {
        let job = &wanted.was;
        let refuse = |said: String| {
            let hint = "`mig restore --new-job` makes another job of it, with an ID of its own";
            Err(Failure::new(Code::Refused, said).hint(hint))
        };
        if let Some(record) = self.records.get(job) {
            let place = match &record.place {
                super::record::Place::Here => self.node.to_string(),
                super::record::Place::Away { node } => node.to_string(),
            };
            return refuse(format!("job {job} lives, on node {place}"));
        }
        if self.reviving.contains(job) || self.committed.contains_key(job) {
            return refuse(format!("job {job} is being restored or ended right now"));
        }
        match self.restored.get(&wanted.uuid) {
            Some(earlier) => refuse(format!(
                "checkpoint {} has been restored before, as job {}",
                wanted.uuid, earlier.job
            )),
            None => Ok(()),
        }
    }

    fn forget_old_restores(&mut self) -> Ruled<()> {
        while self.restored.len() >= RESTORED_MAX {
            let oldest = self.restored.values().min_by_key(|entry| entry.unix);
            let Some(uuid) = oldest.map(|entry| entry.uuid.clone()) else {
                break;
            };
            self.durable(&[Change::NotRestored(uuid.clone())])?;
            self.restored.remove(&uuid);
        }
        Ok(())
    }
}
