//! What this node and its jobs use: sampled here, told to peers, to `mig
//! nodes`, `mig ps` and the balancer.
//!
//! Invariant: nothing is polled inside a job; all of it is read from outside,
//! from its cgroup and /proc.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libmig::api::JobId;
use libmig::balance::{Load, LoadMeter};
use libmig::inspect::load::{JobMeter, LoadError, NodeMemory, NodeSampler};
use tracing::warn;

use crate::daemon::Daemon;

/// Between two samples of the node.
const SAMPLE: Duration = Duration::from_millis(250);
/// Samples of the node for one of the jobs, which cost more.
const JOBS_EVERY: u32 = 2;

/// What one job of this node uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU time on this node since it started or arrived here.
    pub(crate) cpu: Duration,
    /// Cores in use, averaged.
    pub(crate) cores: f64,
    /// Tasks that want a CPU, averaged.
    pub(crate) runnable: f64,
    /// Resident bytes.
    pub(crate) memory: u64,
}

/// Everything that is measured.
#[derive(Debug)]
pub(crate) struct Meters {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    node: LoadMeter,
    cores: u32,
    memory: Option<NodeMemory>,
    incoming: f64,
    accepts: bool,
    living: u32,
    jobs: HashMap<JobId, (PathBuf, JobMeter)>,
}

impl Meters {
    /// Nothing measured yet. `accepts`: takes jobs that balancers offer.
    pub(crate) fn new(accepts: bool) -> Meters {
        let state = State {
            accepts,
            ..State::default()
        };
        Meters {
            start: Instant::now(),
            state: Mutex::new(state),
        }
    }

    /// The clock of everything that is measured and decided: time since the
    /// daemon started.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Measures `job` by the processes in `cgroup` from now on.
    pub(crate) fn add(&self, job: &JobId, cgroup: PathBuf) {
        self.lock()
            .jobs
            .insert(job.clone(), (cgroup, JobMeter::new()));
    }

    /// Measures it from zero: it has just arrived.
    pub(crate) fn restart(&self, job: &JobId) {
        if let Some((_, meter)) = self.lock().jobs.get_mut(job) {
            *meter = JobMeter::new();
        }
    }

    /// How many jobs live here.
    pub(crate) fn set_living(&self, jobs: usize) {
        self.lock().living = u32::try_from(jobs).unwrap_or(u32::MAX);
    }

    /// No longer.
    pub(crate) fn remove(&self, job: &JobId) {
        self.lock().jobs.remove(job);
    }

    /// What a job of this node uses; nothing before its first sample.
    pub(crate) fn usage(&self, job: &JobId) -> Option<Usage> {
        let state = self.lock();
        let (_, meter) = state.jobs.get(job)?;
        let cpu = meter.cpu();
        let memory = meter.last().memory;
        Some(Usage {
            cpu,
            cores: meter.cores(),
            runnable: meter.runnable(),
            memory,
        })
    }

    /// What peers are told: rises at once, falls slowly.
    pub(crate) fn exported(&self) -> Load {
        let state = self.lock();
        let runnable = state.node.exported();
        self.load(&state, runnable)
    }

    /// What this node decides by: rises slowly, falls at once.
    pub(crate) fn local(&self) -> Load {
        let state = self.lock();
        let runnable = state.node.local();
        self.load(&state, runnable)
    }

    /// Runnable tasks of jobs that are on their way here.
    pub(crate) fn set_incoming(&self, runnable: f64) {
        self.lock().incoming = runnable;
    }

    fn load(&self, state: &State, runnable: f64) -> Load {
        let (available, total) = state
            .memory
            .as_ref()
            .map_or((0, 0), |memory| (memory.available, memory.total));
        Load {
            runnable,
            cores: state.cores,
            speed: None,
            memory_free: available.min(total),
            memory_total: total,
            jobs: state.living,
            incoming: state.incoming,
            accepts: state.accepts,
            age: state.node.age(self.now()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self, sampler: &mut NodeSampler, with_jobs: bool) -> Result<(), LoadError> {
        let runnable = sampler.runnable()?;
        let memory = sampler.memory()?;
        let now = self.now();
        let mut state = self.lock();
        state.node.sample(now, runnable);
        state.cores = sampler.cores();
        state.memory = Some(memory);
        if !with_jobs {
            return Ok(());
        }
        // Reading /proc takes its time: not under the lock.
        let leaves: Vec<(JobId, PathBuf)> = state
            .jobs
            .iter()
            .map(|(job, (leaf, _))| (job.clone(), leaf.clone()))
            .collect();
        drop(state);
        for (job, leaf) in leaves {
            let used = libmig::inspect::load::JobUse::of_cgroup(&leaf)?;
            let now = self.now();
            if let Some((_, meter)) = self.lock().jobs.get_mut(&job) {
                meter.sample(now, used);
            }
        }
        Ok(())
    }
}

/// Samples for ever, on a thread of its own: reading /proc blocks.
///
/// # Errors
/// When the node cannot be measured at all, or the thread cannot be made.
pub(crate) fn spawn(daemon: &Daemon) -> anyhow::Result<()> {
    let mut sampler = NodeSampler::new()?;
    let daemon = daemon.clone();
    let work = move || {
        let mut round = 0u32;
        let mut failing = false;
        while !daemon.draining() {
            round = round.wrapping_add(1);
            let result = daemon
                .meters
                .sample(&mut sampler, round.is_multiple_of(JOBS_EVERY));
            if let Err(error) = &result
                && !failing
            {
                warn!(%error, "the load cannot be measured");
            }
            failing = result.is_err();
            std::thread::sleep(SAMPLE);
        }
    };
    std::thread::Builder::new()
        .name("load".into())
        .spawn(work)?;
    Ok(())
}
