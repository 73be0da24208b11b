//! The state of all jobs of this node, and every rule about who owns one.
//!
//! Invariant: what is in memory is what is on disk, changed only after the
//! disk has it; `leaving` alone is memory's own, since a source that restarts
//! without a `Committed` entry has aborted by definition.
//!
//! One thread owns a [`Registry`] (`actor`); nobody else ever sees it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use libmig::api::{Code, ExitRecord, ExitStatus, Failure, JobId, NodeName, Phase};
use libmig::image::FileLock;
use libmig::migration::Verdict;
use tokio::sync::oneshot;

use super::record::{
    Arrival, Change, Committed, JobRecord, NewJob, Place, Report, Restored, Stage, Waiting,
};
use super::store::{Store, StoreError};

/// Ended jobs that are remembered.
const EXITS_MAX: usize = 1000;
/// And for how long, in seconds.
const EXITS_AGE: u64 = 24 * 3600;
/// Settled arrivals that are remembered for a source that asks again.
const ARRIVALS_MAX: usize = 10_000;

/// A move away that is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// The destination.
    pub(crate) to: NodeName,
    /// The epoch of the attempt.
    pub(crate) epoch: u64,
    /// Where it is.
    pub(crate) phase: Phase,
}

/// One job as others see it.
#[derive(Debug, Clone)]
pub(crate) struct JobView {
    /// Its record.
    pub(crate) record: JobRecord,
    /// Its move away, if one is going on.
    pub(crate) leaving: Option<Leaving>,
    /// Ownership was given up and the answer is awaited.
    pub(crate) committed: bool,
}

/// The actor's state.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(super) node: NodeName,
    pub(super) max_jobs_in: usize,
    pub(super) store: Store,
    pub(super) last_number: u64,
    pub(super) records: BTreeMap<JobId, JobRecord>,
    pub(super) leaving: HashMap<JobId, Leaving>,
    pub(super) committed: BTreeMap<JobId, Committed>,
    pub(super) arrivals: BTreeMap<JobId, Arrival>,
    pub(super) waiting: BTreeMap<JobId, Waiting>,
    /// Arrivals that somebody is taking the locks of right now.
    pub(super) relocking: HashSet<JobId>,
    pub(super) exits: BTreeMap<JobId, ExitRecord>,
    pub(super) reports: BTreeMap<JobId, Report>,
    pub(super) waiters: HashMap<JobId, Vec<oneshot::Sender<ExitRecord>>>,
    /// Checkpoints that jobs of this home have come from, by their names.
    pub(super) restored: BTreeMap<String, Restored>,
    /// Jobs that are coming from a checkpoint right now.
    pub(super) reviving: HashSet<JobId>,
}

/// What an arrival waits for before it may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Relock {
    /// Nothing.
    Nothing,
    /// Locks that somebody else is taking already.
    Busy,
    /// These locks, which the caller is to take.
    Locks(Vec<FileLock>),
}

/// What any rule here returns.
pub(crate) type Ruled<T> = Result<T, Failure>;

impl Registry {
    /// Opens the store and counts this start of the daemon. Returns the
    /// registry and the count.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(
        node: NodeName,
        max_jobs_in: u32,
        store: Store,
    ) -> Result<(Registry, u64), StoreError> {
        let read = store.contents()?;
        let generation = read.generation + 1;
        store.commit(&[Change::Generation(generation)])?;
        let registry = Registry {
            node,
            max_jobs_in: max_jobs_in as usize,
            store,
            last_number: read.last_number,
            records: read
                .records
                .into_iter()
                .map(|r| (r.id.clone(), r))
                .collect(),
            leaving: HashMap::new(),
            committed: read
                .committed
                .into_iter()
                .map(|c| (c.job.clone(), c))
                .collect(),
            arrivals: read
                .arrivals
                .into_iter()
                .map(|a| (a.record.id.clone(), a))
                .collect(),
            waiting: read
                .waiting
                .into_iter()
                .map(|w| (w.job.clone(), w))
                .collect(),
            relocking: HashSet::new(),
            exits: read.exits.into_iter().map(|e| (e.job.clone(), e)).collect(),
            reports: read.reports.into_iter().collect(),
            waiters: HashMap::new(),
            restored: read
                .restored
                .into_iter()
                .map(|r| (r.uuid.clone(), r))
                .collect(),
            reviving: HashSet::new(),
        };
        Ok((registry, generation))
    }

    /// A new job, durable before its first process exists.
    pub(super) fn create(&mut self, new: NewJob) -> Ruled<JobRecord> {
        self.name_is_free(new.uid, new.name.as_deref())?;
        let number = self.last_number + 1;
        let now = unix_now();
        let record = JobRecord {
            id: JobId {
                home: self.node.clone(),
                number,
            },
            name: new.name,
            uid: new.uid,
            user: new.user,
            command: new.command,
            place: Place::Here,
            epoch: 0,
            last_attempt: 0,
            pinned: new.pinned,
            cpu_level: new.cpu_level,
            started_unix: now,
            arrived_unix: now,
            cpu_ms_elsewhere: 0,
        };
        self.durable(&[Change::LastNumber(number), Change::Record(record.clone())])?;
        self.last_number = number;
        self.records.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    /// Whether `uid` has no other job of that name.
    pub(super) fn name_is_free(&self, uid: u32, name: Option<&str>) -> Ruled<()> {
        let Some(name) = name else { return Ok(()) };
        let taken = |r: &&JobRecord| r.uid == uid && r.name.as_deref() == Some(name);
        match self.records.values().find(taken) {
            None => Ok(()),
            Some(other) => {
                let said = format!("your job {} has the name `{name}`", other.id);
                Err(Failure::new(Code::Usage, said).hint("choose another --name"))
            }
        }
    }

    /// A job that was created but whose program could not be started.
    pub(super) fn forget(&mut self, job: &JobId) -> Ruled<()> {
        self.durable(&[Change::NoRecord(job.clone())])?;
        self.records.remove(job);
        Ok(())
    }

    /// One job, as far as this node knows it.
    pub(super) fn view(&self, job: &JobId) -> Option<JobView> {
        let record = self.records.get(job)?.clone();
        let leaving = self.leaving.get(job).cloned();
        Some(JobView {
            record,
            leaving,
            committed: self.committed.contains_key(job),
        })
    }

    /// All jobs, as far as this node knows them.
    pub(super) fn views(&self) -> Vec<JobView> {
        self.records
            .keys()
            .filter_map(|job| self.view(job))
            .collect()
    }

    /// A move away begins: the job is here, stays nobody else's, and the
    /// attempt gets an epoch of its own.
    pub(super) fn leave(&mut self, job: &JobId, to: &NodeName) -> Ruled<(JobRecord, u64)> {
        let record = self.records.get(job).ok_or_else(|| no_such(job))?;
        if let Place::Away { node } = &record.place {
            return Err(Failure::new(
                Code::Busy,
                format!("job {job} is on node {node}"),
            ));
        }
        if let Some(other) = self.leaving.get(job) {
            let said = format!("job {job} is being moved to {} already", other.to);
            return Err(Failure::new(Code::Busy, said));
        }
        if let Some(entry) = self.committed.get(job) {
            let said = format!(
                "job {job} was given to {}, which has not answered",
                entry.destination
            );
            return Err(Failure::new(Code::Undecided, said));
        }
        let epoch = record.epoch.max(record.last_attempt) + 1;
        let record = JobRecord {
            last_attempt: epoch,
            ..record.clone()
        };
        self.durable(&[Change::Record(record.clone())])?;
        self.records.insert(job.clone(), record.clone());
        let leaving = Leaving {
            to: to.clone(),
            epoch,
            phase: Phase::Negotiate,
        };
        self.leaving.insert(job.clone(), leaving);
        Ok((record, epoch))
    }

    /// The move away enters a phase.
    pub(super) fn leaving_phase(&mut self, job: &JobId, phase: Phase) {
        if let Some(leaving) = self.leaving.get_mut(job) {
            leaving.phase = phase;
        }
    }

    /// The attempt failed before its commit: the job stays.
    pub(super) fn aborted(&mut self, job: &JobId, epoch: u64) {
        if self
            .leaving
            .get(job)
            .is_some_and(|leaving| leaving.epoch == epoch)
        {
            self.leaving.remove(job);
        }
    }

    /// THE COMMIT: after this is on disk the job is the destination's.
    pub(super) fn commit(&mut self, job: &JobId, epoch: u64) -> Ruled<()> {
        let leaving = self
            .leaving
            .get(job)
            .filter(|leaving| leaving.epoch == epoch);
        let Some(leaving) = leaving else {
            return Err(Failure::new(
                Code::Failed,
                format!("job {job} is not leaving in epoch {epoch}"),
            ));
        };
        let entry = Committed {
            job: job.clone(),
            epoch,
            destination: leaving.to.clone(),
        };
        self.durable(&[Change::Committed(entry.clone())])?;
        self.committed.insert(job.clone(), entry);
        Ok(())
    }

    /// The destination runs it and our frozen copy is destroyed.
    pub(super) fn gone(&mut self, job: &JobId, epoch: u64) -> Ruled<()> {
        let Some(entry) = self
            .committed
            .get(job)
            .filter(|entry| entry.epoch == epoch)
            .cloned()
        else {
            return Ok(()); // settled by another answer already
        };
        let mut changes = vec![Change::NoCommitted(job.clone())];
        let mut kept = self
            .records
            .get(job)
            .filter(|_| job.home == self.node)
            .cloned();
        if let Some(record) = &mut kept {
            // Home may have heard of a later move or of the exit before this.
            if record.is_here() || record.epoch < epoch {
                record.place = Place::Away {
                    node: entry.destination,
                };
                record.epoch = epoch;
            }
            changes.push(Change::Record(record.clone()));
        } else {
            changes.push(Change::NoRecord(job.clone()));
        }
        self.durable(&changes)?;
        self.committed.remove(job);
        self.leaving.remove(job);
        match kept {
            Some(record) => self.records.insert(job.clone(), record),
            None => self.records.remove(job),
        };
        Ok(())
    }

    /// The destination never had it: the job is ours again.
    pub(super) fn disowned(&mut self, job: &JobId, epoch: u64) -> Ruled<bool> {
        if self
            .committed
            .get(job)
            .is_none_or(|entry| entry.epoch != epoch)
        {
            return Ok(false);
        }
        self.durable(&[Change::NoCommitted(job.clone())])?;
        self.committed.remove(job);
        self.leaving.remove(job);
        Ok(true)
    }

    /// What a destination may do with what it built, in our name.
    pub(super) fn commit_state(&self, asker: &NodeName, job: &JobId, epoch: u64) -> Verdict {
        let ours = |entry: &&Committed| entry.epoch == epoch && &entry.destination == asker;
        if self.committed.get(job).filter(ours).is_some() {
            return Verdict::Committed;
        }
        let leaving = self.leaving.get(job);
        if leaving.is_some_and(|leaving| leaving.epoch == epoch && &leaving.to == asker) {
            return Verdict::Undecided;
        }
        match self.records.get(job) {
            // Settled long ago: it said Live, and lost its own journal's entry.
            Some(JobRecord {
                place: Place::Away { node },
                epoch: owner,
                ..
            }) if node == asker && *owner == epoch => Verdict::Committed,
            // What is not in the journal was not committed, and its epoch is
            // never used again.
            _ => Verdict::Aborted,
        }
    }

    /// Keeps room for an arrival.
    pub(super) fn reserve(&mut self, record: JobRecord, epoch: u64, source: NodeName) -> Ruled<()> {
        let job = record.id.clone();
        let coming = self
            .arrivals
            .values()
            .filter(|a| a.stage != Stage::Live)
            .count();
        if coming >= self.max_jobs_in {
            let said = format!("node {} is taking in {coming} jobs already", self.node);
            return Err(Failure::new(Code::Busy, said));
        }
        if self.committed.contains_key(&job) {
            let said = format!("node {} still has a copy of job {job} to end", self.node);
            return Err(Failure::new(Code::Undecided, said).hint("try again in a moment"));
        }
        if let Some(known) = self.records.get(&job)
            && (known.is_here() || known.epoch >= epoch)
        {
            let said = format!(
                "node {} owns job {job} with epoch {}",
                self.node, known.epoch
            );
            return Err(Failure::new(Code::Refused, said));
        }
        if let Some(entry) = self.arrivals.get(&job)
            && (entry.stage == Stage::Built || entry.epoch >= epoch)
        {
            let said = format!("job {job} has come here in epoch {} before", entry.epoch);
            return Err(Failure::new(Code::Undecided, said));
        }
        let arrival = Arrival {
            record,
            epoch,
            source,
            stage: Stage::Reserved,
        };
        self.put_arrival(arrival)
    }

    /// The arrival is complete and frozen. From now on it is destroyed only
    /// when the source says so.
    pub(super) fn built(&mut self, job: &JobId, epoch: u64, locks: Vec<FileLock>) -> Ruled<()> {
        let arrival = Arrival {
            stage: Stage::Built,
            ..self.arrival(job, epoch, Stage::Reserved)?
        };
        let mut changes = vec![Change::Arrival(arrival.clone())];
        let waiting = (!locks.is_empty()).then(|| Waiting {
            job: job.clone(),
            epoch,
            locks,
        });
        match &waiting {
            Some(waiting) => changes.push(Change::Waiting(waiting.clone())),
            None if self.waiting.contains_key(job) => changes.push(Change::NoWaiting(job.clone())),
            None => {}
        }
        self.durable(&changes)?;
        self.arrivals.insert(job.clone(), arrival);
        self.waiting.remove(job);
        self.waiting.extend(waiting.map(|w| (job.clone(), w)));
        Ok(())
    }

    /// Whether the arrival waits for locks. One caller at a time gets them, and
    /// says [`Registry::relocked`] in the end.
    pub(super) fn relock(&mut self, job: &JobId, epoch: u64) -> Relock {
        match self.waiting.get(job).filter(|w| w.epoch == epoch) {
            None => Relock::Nothing,
            Some(_) if !self.relocking.insert(job.clone()) => Relock::Busy,
            Some(waiting) => Relock::Locks(waiting.locks.clone()),
        }
    }

    /// The arrival runs: with its locks, or without.
    pub(super) fn relocked(&mut self, job: &JobId, epoch: u64) -> Ruled<()> {
        self.relocking.remove(job);
        if self.waiting.get(job).is_some_and(|w| w.epoch == epoch) {
            self.durable(&[Change::NoWaiting(job.clone())])?;
            self.waiting.remove(job);
        }
        Ok(())
    }

    /// The source has committed, or the job is complete that comes from the checkpoint
    /// `restored`: it is ours, durably, before it runs. True when it was not yet.
    pub(super) fn live(
        &mut self,
        job: &JobId,
        epoch: u64,
        restored: Option<String>,
    ) -> Ruled<bool> {
        if self
            .arrivals
            .get(job)
            .is_some_and(|a| a.epoch == epoch && a.stage == Stage::Live)
        {
            return Ok(false);
        }
        let arrival = self.arrival(job, epoch, Stage::Built)?;
        let arrival = Arrival {
            stage: Stage::Live,
            ..arrival
        };
        let mut record = arrival.record.clone();
        record.place = Place::Here;
        record.epoch = epoch;
        record.last_attempt = record.last_attempt.max(epoch);
        record.arrived_unix = unix_now();
        let mut changes = vec![
            Change::Arrival(arrival.clone()),
            Change::Record(record.clone()),
            // Of the same job, before it came from a checkpoint.
            Change::NoExit(job.clone()),
        ];
        let restored = restored.map(|uuid| Restored {
            uuid,
            job: job.clone(),
            unix: record.arrived_unix,
        });
        changes.extend(restored.clone().map(Change::Restored));
        let report = (job.home != self.node).then_some(Report::Located { epoch });
        changes.extend(
            report
                .clone()
                .map(|report| Change::Report(job.clone(), report)),
        );
        self.durable(&changes)?;
        self.arrivals.insert(job.clone(), arrival);
        self.records.insert(job.clone(), record);
        self.exits.remove(job);
        if let Some(report) = report {
            self.reports.insert(job.clone(), report);
        }
        self.restored.extend(restored.map(|r| (r.uuid.clone(), r)));
        self.prune_arrivals();
        Ok(true)
    }

    /// The arrival failed or the source took it back; its pieces are destroyed.
    pub(super) fn arrival_gone(&mut self, job: &JobId, epoch: u64) -> Ruled<()> {
        let gone = |a: &Arrival| a.epoch == epoch && a.stage != Stage::Live;
        if self.arrivals.get(job).is_some_and(gone) {
            self.durable(&[
                Change::NoArrival(job.clone()),
                Change::NoWaiting(job.clone()),
            ])?;
            self.arrivals.remove(job);
            self.waiting.remove(job);
        }
        Ok(())
    }

    /// What to tell a source that repeats its commit.
    pub(super) fn commit_answer(&self, asker: &NodeName, job: &JobId, epoch: u64) -> Verdict {
        match self.arrivals.get(job) {
            Some(entry) if &entry.source == asker && entry.epoch == epoch => match entry.stage {
                Stage::Live => Verdict::Live,
                Stage::Built | Stage::Reserved => Verdict::Built,
            },
            // A later arrival here means that this one has long been settled.
            Some(entry) if entry.epoch > epoch => Verdict::Live,
            _ => match self.records.get(job) {
                Some(record) if record.epoch >= epoch => Verdict::Live,
                _ => Verdict::Absent,
            },
        }
    }

    /// Home hears where its job lives. The higher epoch wins.
    pub(super) fn located(&mut self, job: &JobId, epoch: u64, node: &NodeName) -> Ruled<()> {
        let Some(record) = self.records.get(job) else {
            return Ok(());
        };
        if record.epoch >= epoch {
            return Ok(());
        }
        // Also while our own commit is unanswered: a later move may be heard of
        // first. The frozen copy is `gone`'s affair.
        let place = Place::Away { node: node.clone() };
        let record = JobRecord {
            place,
            epoch,
            ..record.clone()
        };
        self.durable(&[Change::Record(record.clone())])?;
        self.records.insert(job.clone(), record);
        Ok(())
    }

    /// A job ended: here, or elsewhere and home hears of it.
    pub(super) fn exited(&mut self, exit: &ExitRecord) -> Ruled<()> {
        let job = &exit.job;
        let (owner, epoch) = match (self.records.get(job), self.exits.get(job)) {
            (Some(record), _) => (Some(record.uid), record.epoch),
            // Its end is heard from its capsule here and from where it was, in any order.
            (None, earlier) => (earlier.map(|earlier| earlier.uid), u64::MAX),
        };
        let exit = &ExitRecord {
            uid: owner.unwrap_or(exit.uid),
            ..exit.clone()
        };
        let mut changes = vec![Change::NoRecord(job.clone()), Change::Exit(exit.clone())];
        let into_file = self.ends_in_file(job);
        if into_file {
            changes.push(Change::NoCommitted(job.clone()));
        }
        let report = (job.home != self.node).then(|| Report::Ended {
            exit: exit.clone(),
            epoch,
        });
        changes.extend(
            report
                .clone()
                .map(|report| Change::Report(job.clone(), report)),
        );
        let dropped = self.old_exits();
        changes.extend(dropped.iter().cloned().map(Change::NoExit));
        self.durable(&changes)?;
        self.records.remove(job);
        self.leaving.remove(job);
        if into_file {
            self.committed.remove(job);
        }
        self.exits.insert(job.clone(), exit.clone());
        for old in dropped {
            self.exits.remove(&old);
        }
        if let Some(report) = report {
            self.reports.insert(job.clone(), report);
        }
        for waiter in self.waiters.remove(job).unwrap_or_default() {
            drop(waiter.send(exit.clone())); // a waiter may have given up
        }
        Ok(())
    }

    /// Home hears that a job ended elsewhere. One that has come from a checkpoint since then
    /// has a higher epoch, and lives.
    pub(super) fn exited_elsewhere(&mut self, exit: &ExitRecord, epoch: u64) -> Ruled<()> {
        match self.records.get(&exit.job) {
            Some(record) if record.epoch <= epoch => self.exited(exit),
            None if !self.exits.contains_key(&exit.job) => self.exited(exit),
            _ => Ok(()),
        }
    }

    /// Whether the job has been given up to a file: this node is its own destination then.
    fn ends_in_file(&self, job: &JobId) -> bool {
        let entry = self.committed.get(job);
        entry.is_some_and(|entry| entry.destination == self.node)
    }

    /// The epoch of a guest that has ended on this node.
    pub(super) fn ended_here(&self, job: &JobId) -> Option<u64> {
        let arrival = self.arrivals.get(job).filter(|a| a.stage == Stage::Live)?;
        self.exits.contains_key(job).then_some(arrival.epoch)
    }

    /// Home has the report.
    pub(super) fn reported(&mut self, job: &JobId, report: &Report) -> Ruled<()> {
        if self.reports.get(job) == Some(report) {
            self.durable(&[Change::NoReport(job.clone())])?;
            self.reports.remove(job);
        }
        Ok(())
    }

    fn old_exits(&self) -> Vec<JobId> {
        let oldest = unix_now().saturating_sub(EXITS_AGE);
        let mut by_age: Vec<&ExitRecord> = self.exits.values().collect();
        by_age.sort_by_key(|exit| exit.ended_unix);
        let over = by_age.len().saturating_sub(EXITS_MAX - 1);
        let old = |(at, exit): &(usize, &&ExitRecord)| *at < over || exit.ended_unix < oldest;
        by_age
            .iter()
            .enumerate()
            .filter(old)
            .map(|(_, exit)| exit.job.clone())
            .collect()
    }

    fn prune_arrivals(&mut self) {
        while self.arrivals.len() > ARRIVALS_MAX {
            let settled = self.arrivals.values().filter(|a| a.stage == Stage::Live);
            let oldest = settled
                .min_by_key(|a| a.record.arrived_unix)
                .map(|a| a.record.id.clone());
            let Some(oldest) = oldest else { return };
            // Forgetting is only housekeeping: a full disk may keep it.
            if self.durable(&[Change::NoArrival(oldest.clone())]).is_err() {
                return;
            }
            self.arrivals.remove(&oldest);
        }
    }

    fn arrival(&self, job: &JobId, epoch: u64, stage: Stage) -> Ruled<Arrival> {
        let found = self
            .arrivals
            .get(job)
            .filter(|a| a.epoch == epoch && a.stage == stage);
        found.cloned().ok_or_else(|| {
            let said = format!("job {job} is not {stage:?} here in epoch {epoch}");
            Failure::new(Code::Failed, said)
        })
    }

    fn put_arrival(&mut self, arrival: Arrival) -> Ruled<()> {
        self.durable(&[Change::Arrival(arrival.clone())])?;
        self.arrivals.insert(arrival.record.id.clone(), arrival);
        Ok(())
    }

    pub(super) fn durable(&self, changes: &[Change]) -> Ruled<()> {
        self.store.commit(changes).map_err(|error| {
            Failure::from_error(Code::Host, "the journal cannot be written", &error)
                .hint("is there room on the disk of state_dir?")
        })
    }
}

/// How a job ended that ended now. Its record says whose it was.
pub(crate) fn ended_now(job: JobId, status: ExitStatus) -> ExitRecord {
    const ROOT: u32 = 0;
    ExitRecord {
        job,
        uid: ROOT,
        status,
        ended_unix: unix_now(),
    }
}

/// A job that nobody here knows.
pub(crate) fn no_such(job: &JobId) -> Failure {
    Failure::new(Code::NotFound, format!("there is no job {job}"))
        .hint("`mig ps --all` lists the jobs")
}

/// Seconds since 1970; 0 on a clock before it.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
