//! The jobs of this node: an actor on a thread of its own.
//!
//! Invariant: only the actor's thread touches the state and the disk; every
//! call here is a message to it, and returns when what it changed outlives the
//! daemon. The `_blocking` half is for movers, which are plain threads; the
//! asynchronous half for everything on the runtime.
//!
//! | file | what it holds |
//! |---|---|
//! | `registry` | the rules of ownership |
//! | `record`, `versions`, `store`, `disk` | what is on disk, and how it gets there |
//! | `settle` | moves that a crash or a cut left undecided |
//! | `watch` | capsules: found again, waited for |
//! | `report` | telling home |
//! | `revival` | jobs that come from checkpoints |

mod disk;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod report;
pub(crate) mod revival;
pub(crate) mod settle;
pub(crate) mod store;
#[cfg(test)]
mod tests;
mod versions;
pub(crate) mod watch;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use libmig::api::{Code, ExitRecord, Failure, JobId, NodeName, Phase};
use libmig::image::FileLock;
use libmig::migration::Verdict;
use tokio::sync::{Notify, oneshot};

use crate::balancer::Balance;
use crate::load::Meters;
use record::{Arrival, Committed, JobRecord, NewJob, Report};
use registry::{JobView, Registry, Relock, Ruled};
use revival::Revival;

/// How long a job that comes back may have to wait for the end of the copy that it left
/// behind: the source asks the destination every half second, once they are connected.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

type Message = Box<dyn FnOnce(&mut Registry) + Send>;

/// Speaks to the actor. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Jobs {
    inbox: mpsc::Sender<Message>,
    meters: Arc<Meters>,
    balance: Arc<Balance>,
    /// Wakes the reporter: there is something to tell home, or home is back.
    pub(crate) to_report: Arc<Notify>,
}

impl Jobs {
    /// Starts the actor's thread.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(crate) fn spawn(
        mut registry: Registry,
        meters: Arc<Meters>,
        balance: Arc<Balance>,
    ) -> std::io::Result<Jobs> {
        let (inbox, messages) = mpsc::channel::<Message>();
        let work = move || {
            for message in messages {
                message(&mut registry);
            }
        };
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(work)?;
        Ok(Jobs {
            inbox,
            meters,
            balance,
            to_report: Arc::new(Notify::new()),
        })
    }

    fn post<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Registry) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        let message = move |registry: &mut Registry| drop(done.send(work(registry)));
        // A dead actor drops `done`, which the receiver sees.
        drop(self.inbox.send(Box::new(message)));
        result
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Registry) -> T + Send + 'static,
    ) -> T {
        self.post(work)
            .await
            .expect("the actor lives as long as its handles")
    }

    fn call_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Registry) -> T + Send + 'static,
    ) -> T {
        self.post(work)
            .blocking_recv()
            .expect("the actor lives as long as its handles")
    }
}

/// For requests and tasks on the runtime.
impl Jobs {
    /// A new job, durable before its first process exists.
    pub(crate) async fn create(&self, new: NewJob) -> Ruled<JobRecord> {
        self.call(move |r| r.create(new)).await
    }

    /// A job whose program could not be started.
    pub(crate) async fn forget(&self, job: JobId) -> Ruled<()> {
        self.call(move |r| r.forget(&job)).await
    }

    /// One job, as far as this node knows it.
    pub(crate) async fn view(&self, job: JobId) -> Option<JobView> {
        self.call(move |r| r.view(&job)).await
    }

    /// All jobs, as far as this node knows them.
    pub(crate) async fn views(&self) -> Vec<JobView> {
        self.call(|r| r.views()).await
    }

    /// How a job ended, if this node remembers.
    pub(crate) async fn exit_of(&self, job: JobId) -> Option<ExitRecord> {
        self.call(move |r| r.exits.get(&job).cloned()).await
    }

    /// How a job ends, now or later.
    ///
    /// # Errors
    /// When this node does not know it.
    pub(crate) async fn wait(&self, job: JobId) -> Ruled<ExitRecord> {
        let (done, ended) = oneshot::channel();
        let asked = job.clone();
        let known = self.call(move |r| {
            if let Some(exit) = r.exits.get(&asked) {
                drop(done.send(exit.clone()));
                return true;
            }
            if !r.records.contains_key(&asked) {
                return false;
            }
            let waiters = r.waiters.entry(asked).or_default();
            waiters.retain(|waiter| !waiter.is_closed());
            waiters.push(done);
            true
        });
        if !known.await {
            return Err(registry::no_such(&job));
        }
        ended
            .await
            .map_err(|_| Failure::new(Code::Failed, "the daemon is stopping"))
    }

    /// A job ended here, or its deputy knows that it ended.
    pub(crate) async fn exited(&self, exit: ExitRecord) -> Ruled<()> {
        let result = self.call(move |r| r.exited(&exit)).await;
        self.to_report.notify_one();
        result
    }

    /// Home hears that a job ended elsewhere, which had that epoch there.
    pub(crate) async fn exited_elsewhere(&self, exit: ExitRecord, epoch: u64) -> Ruled<()> {
        self.call(move |r| r.exited_elsewhere(&exit, epoch)).await
    }

    /// Home hears where its job lives.
    pub(crate) async fn located(&self, job: JobId, epoch: u64, node: NodeName) -> Ruled<()> {
        self.call(move |r| r.located(&job, epoch, &node)).await
    }

    /// What a destination may do with what it built, in our name.
    pub(crate) async fn commit_state(&self, asker: NodeName, job: JobId, epoch: u64) -> Verdict {
        self.call(move |r| r.commit_state(&asker, &job, epoch))
            .await
    }

    /// What to tell a source that repeats its commit.
    pub(crate) async fn commit_answer(&self, asker: NodeName, job: JobId, epoch: u64) -> Verdict {
        self.call(move |r| r.commit_answer(&asker, &job, epoch))
            .await
    }

    /// Entries of the source journal.
    pub(crate) async fn committed(&self) -> Vec<Committed> {
        self.call(|r| r.committed.values().cloned().collect()).await
    }

    /// The epoch of a guest that has ended on this node.
    pub(crate) async fn ended_here(&self, job: JobId) -> Option<u64> {
        self.call(move |r| r.ended_here(&job)).await
    }

    /// Entries of the destination journal.
    pub(crate) async fn arrivals(&self) -> Vec<Arrival> {
        self.call(|r| r.arrivals.values().cloned().collect()).await
    }

    /// Whether an arrival waits for locks.
    pub(crate) async fn waits(&self, job: JobId, epoch: u64) -> bool {
        self.call(move |r| r.waiting.get(&job).is_some_and(|w| w.epoch == epoch))
            .await
    }

    /// One entry of the destination journal.
    pub(crate) async fn arrival(&self, job: JobId) -> Option<Arrival> {
        self.call(move |r| r.arrivals.get(&job).cloned()).await
    }

    /// What home must be told.
    pub(crate) async fn reports(&self) -> Vec<(JobId, Report)> {
        self.call(|r| {
            r.reports
                .iter()
                .map(|(job, report)| (job.clone(), report.clone()))
                .collect()
        })
        .await
    }

    /// Home has the report.
    pub(crate) async fn reported(&self, job: JobId, report: Report) -> Ruled<()> {
        self.call(move |r| r.reported(&job, &report)).await
    }

    /// A peer can be talked to again.
    pub(crate) fn peer_came_up(&self) {
        self.to_report.notify_one();
    }
}

/// For movers: plain threads. Every call returns after the disk has it.
///
/// The order at the source: [`Jobs::leave`], [`Jobs::leaving_phase`]...,
/// [`Jobs::journal_committed`], then [`Jobs::journal_gone`] or
/// [`Jobs::journal_disowned`]; [`Jobs::aborted`] at any point before the
/// commit. At the destination: [`Jobs::reserve`], [`Jobs::journal_built`],
/// [`Jobs::journal_live`]; [`Jobs::arrival_gone`] at any point before `live`.
impl Jobs {
    /// As [`Jobs::create`], for a process that runs already.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn create_blocking(&self, new: NewJob) -> Ruled<JobRecord> {
        self.call_blocking(move |r| r.create(new))
    }

    /// As [`Jobs::forget`].
    ///
    /// # Errors
    /// When the disk fails: it is listed still.
    pub(crate) fn forget_blocking(&self, job: &JobId) -> Ruled<()> {
        let job = job.clone();
        self.call_blocking(move |r| r.forget(&job))
    }

    /// A move away begins: returns the record that travels and the epoch.
    ///
    /// # Errors
    /// When the job is not here or is leaving already.
    pub(crate) fn leave(&self, job: &JobId, to: &NodeName) -> Ruled<(JobRecord, u64)> {
        let (mine, to) = (job.clone(), to.clone());
        let (mut record, epoch) = self.call_blocking(move |r| r.leave(&mine, &to))?;
        let here = self.meters.usage(job).unwrap_or_default().cpu;
        record.cpu_ms_elsewhere += u64::try_from(here.as_millis()).unwrap_or(0);
        Ok((record, epoch))
    }

    /// The move away enters a phase.
    pub(crate) fn leaving_phase(&self, job: &JobId, phase: Phase) {
        let job = job.clone();
        drop(self.post(move |r| r.leaving_phase(&job, phase)));
    }

    /// The attempt failed before its commit: the job stays.
    pub(crate) fn aborted(&self, job: &JobId, epoch: u64) {
        let job = job.clone();
        self.call_blocking(move |r| r.aborted(&job, epoch));
    }

    /// Source: ownership is given up. Only then may `Commit` be sent.
    ///
    /// # Errors
    /// When the job is not leaving with that epoch, or the disk fails: the
    /// job is ours still.
    pub(crate) fn journal_committed(&self, job: &JobId, epoch: u64) -> Ruled<()> {
        let job = job.clone();
        self.call_blocking(move |r| r.commit(&job, epoch))
    }

    /// Source: the destination runs it and our frozen copy is destroyed.
    ///
    /// # Errors
    /// When the disk fails; repeat it.
    pub(crate) fn journal_gone(&self, job: &JobId, epoch: u64) -> Ruled<()> {
        let job = job.clone();
        self.call_blocking(move |r| r.gone(&job, epoch))
    }

    /// Source: whether the copy that was given up in this epoch is still to be ended.
    pub(crate) fn is_committed(&self, job: &JobId, epoch: u64) -> bool {
        let job = job.clone();
        self.call_blocking(move |r| r.committed.get(&job).is_some_and(|c| c.epoch == epoch))
    }

    /// Source: the destination says that it never had it. True when the job
    /// is ours again by this very call: then thaw it.
    ///
    /// # Errors
    /// When the disk fails; repeat it.
    pub(crate) fn journal_disowned(&self, job: &JobId, epoch: u64) -> Ruled<bool> {
        let job = job.clone();
        self.call_blocking(move |r| r.disowned(&job, epoch))
    }

    /// Destination: keeps room for an arrival. What is left here of the job from before is
    /// waited for: its end would be the end of the new copy.
    ///
    /// # Errors
    /// When the node is full, or owns the job already.
    pub(crate) fn reserve(&self, record: JobRecord, epoch: u64, source: NodeName) -> Ruled<()> {
        let job = record.id.clone();
        let deadline = Instant::now() + LEFT_BEHIND;
        while Instant::now() < deadline {
            let asked = job.clone();
            if !self.call_blocking(move |r| r.committed.contains_key(&asked)) {
                break;
            }
            std::thread::sleep(LEFT_BEHIND / 100);
        }
        self.call_blocking(move |r| r.reserve(record, epoch, source))?;
        self.balance.begun(self.meters.now(), &job);
        Ok(())
    }

    /// Destination: complete, detached and frozen, but for the `locks` that the
    /// source's copy holds; sent to the source as `Built`.
    ///
    /// # Errors
    /// When nothing is reserved with that epoch, or the disk fails.
    pub(crate) fn journal_built(&self, job: &JobId, epoch: u64, locks: Vec<FileLock>) -> Ruled<()> {
        let job = job.clone();
        self.call_blocking(move |r| r.built(&job, epoch, locks))
    }

    /// Destination: whether a job that is ours waits for locks before it may
    /// run. Whoever gets them says [`Jobs::relocked`] when it runs.
    pub(crate) fn relock(&self, job: &JobId, epoch: u64) -> Relock {
        let job = job.clone();
        self.call_blocking(move |r| r.relock(&job, epoch))
    }

    /// Destination: the job runs, with its locks or without.
    ///
    /// # Errors
    /// When the disk fails; a restarted daemon then finds that the job runs.
    pub(crate) fn relocked(&self, job: &JobId, epoch: u64) -> Ruled<()> {
        let job = job.clone();
        self.call_blocking(move |r| r.relocked(&job, epoch))
    }

    /// Destination: the source has committed, or there is none but the checkpoint `restored`;
    /// thaw after this. True when the job became ours by this very call, false when it was already.
    ///
    /// # Errors
    /// When nothing was built with that epoch, or the disk fails.
    pub(crate) fn journal_live(
        &self,
        job: &JobId,
        epoch: u64,
        restored: Option<String>,
    ) -> Ruled<bool> {
        let mine = job.clone();
        let fresh = self.call_blocking(move |r| r.live(&mine, epoch, restored))?;
        if fresh {
            self.meters.restart(job);
            self.balance.arrived(self.meters.now(), job);
        }
        self.to_report.notify_one();
        Ok(fresh)
    }

    /// Destination: the attempt failed or was taken back; its pieces are
    /// destroyed.
    ///
    /// # Errors
    /// When the disk fails; repeat it.
    pub(crate) fn arrival_gone(&self, job: &JobId, epoch: u64) -> Ruled<()> {
        let mine = job.clone();
        self.call_blocking(move |r| r.arrival_gone(&mine, epoch))?;
        self.balance.cancelled(job);
        Ok(())
    }

    /// A job is about to come from a checkpoint: its ID and its epoch. To be followed by
    /// [`Jobs::revived`], whatever comes of it.
    ///
    /// # Errors
    /// When it lives, or has come from there before, or the disk fails.
    pub(crate) fn revive(&self, wanted: &Revival) -> Ruled<(JobId, u64)> {
        let wanted = wanted.clone();
        self.call_blocking(move |r| r.revive(&wanted))
    }

    /// It runs, or does not come.
    pub(crate) fn revived(&self, job: &JobId) {
        let job = job.clone();
        self.call_blocking(move |r| r.revived(&job));
    }

    /// Like [`Jobs::exited`].
    ///
    /// # Errors
    /// When the disk fails; repeat it.
    pub(crate) fn exited_blocking(&self, exit: &ExitRecord) -> Ruled<()> {
        let exit = exit.clone();
        let result = self.call_blocking(move |r| r.exited(&exit));
        self.to_report.notify_one();
        result
    }

    /// One job, as far as this node knows it.
    pub(crate) fn view_blocking(&self, job: &JobId) -> Option<JobView> {
        let job = job.clone();
        self.call_blocking(move |r| r.view(&job))
    }

    /// One entry of the destination journal.
    pub(crate) fn arrival_blocking(&self, job: &JobId) -> Option<Arrival> {
        let job = job.clone();
        self.call_blocking(move |r| r.arrivals.get(&job).cloned())
    }
}
