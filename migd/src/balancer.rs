//! Drives `libmig::balance`: once a second asks it what should move, gets the
//! destinations' word for it, and moves by the same path as `mig move`.
//!
//! Invariant: the balancer decides by numbers alone and never touches a job;
//! a decision that is refused anywhere leaves the job as it is.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libmig::api::{JobId, MoveMode, MoveReport};
use libmig::balance::{
    Balancer, Decision, Inflow, JobView, PeerView, Refusal, Reservation, Settings,
};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use crate::config::Config;
use crate::control::{self, Events};
use crate::daemon::Daemon;
use crate::jobs::registry::unix_now;
use crate::peer::message::{Answer, Question};

/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// Longest that a move is believed to be on its way.
const MOVE_MAX: Duration = Duration::from_secs(3600);

/// Both sides of balancing: what to send away, and what may come.
#[derive(Debug)]
pub(crate) struct Balance {
    settings: Settings,
    outflow: Mutex<Balancer>,
    inflow: Mutex<Inflow>,
}

impl Balance {
    /// By the rules of `config`.
    pub(crate) fn new(config: &Config) -> Balance {
        let settings = Settings {
            enabled: config.balance,
            min_stay: config.min_stay(),
            max_incoming: config.max_jobs_in as usize,
            ..Settings::default()
        };
        Balance {
            outflow: Mutex::new(Balancer::new(settings.clone())),
            inflow: Mutex::new(Inflow::new()),
            settings,
        }
    }

    /// A peer's balancer asks whether a job may come.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn reserve(&self, daemon: &Daemon, asked: &Reservation) -> Result<(), Refusal> {
        let mut own = daemon.meters.exported();
        own.incoming = 0.0;
        let mut inflow = lock(&self.inflow);
        inflow.reserve(daemon.meters.now(), &self.settings, &own, asked)?;
        daemon
            .meters
            .set_incoming(inflow.runnable(daemon.meters.now()));
        Ok(())
    }

    /// The move of a job to this node has begun.
    pub(crate) fn begun(&self, now: Duration, job: &JobId) {
        lock(&self.inflow).begun(now, job, MOVE_MAX);
    }

    /// It lives here.
    pub(crate) fn arrived(&self, now: Duration, job: &JobId) {
        lock(&self.inflow).arrived(now, &self.settings, job);
    }

    /// It does not come.
    pub(crate) fn cancelled(&self, job: &JobId) {
        lock(&self.inflow).cancelled(job);
    }

    /// A move from here has ended well, whoever ordered it.
    pub(crate) fn moved(&self, now: Duration, report: &MoveReport) {
        let elapsed = Duration::from_micros(report.total_us);
        lock(&self.outflow).finished(now, &report.job, report.bytes_sent, elapsed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Balances for ever.
pub(crate) async fn run(daemon: Daemon) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !daemon.draining() {
        tick.tick().await;
        let now = daemon.meters.now();
        daemon
            .meters
            .set_incoming(lock(&daemon.balance.inflow).runnable(now));
        let jobs = job_views(&daemon).await;
        daemon.meters.set_living(jobs.len());
        let own = daemon.meters.local();
        let peers = peer_views(&daemon);
        // Every RandomState has new keys from the kernel's random numbers.
        let mut random = || RandomState::new().build_hasher().finish();
        let decisions = {
            let mut balancer = lock(&daemon.balance.outflow);
            let decisions = balancer.decide(now, &own, &jobs, &peers, &mut random);
            debug!(idle = %balancer.idle(), decisions = decisions.len(), "balanced");
            decisions
        };
        for decision in decisions {
            daemon.runtime.spawn(execute(daemon.clone(), decision));
        }
    }
}

async fn execute(daemon: Daemon, decision: Decision) {
    let (job, to) = (decision.job, decision.to);
    info!(%job, %to, reason = %decision.reason, "the balancer offers a job");
    let question = Question::Reserve(decision.reservation);
    let asked = daemon
        .peers
        .ask(&to, question, daemon.config.peer_timeout())
        .await;
    match asked {
        Ok(Answer::Reserved(Ok(()))) => {}
        Ok(Answer::Reserved(Err(why))) => {
            info!(%job, %to, %why, "the destination takes it not");
            let now = daemon.meters.now();
            return lock(&daemon.balance.outflow).refused(now, &job, &why);
        }
        other => {
            debug!(%job, %to, answer = ?other, "the destination cannot be asked");
            return lock(&daemon.balance.outflow).failed(daemon.meters.now(), &job);
        }
    }
    let (events, mode) = (Events::none(), MoveMode::Auto);
    let moved = control::r#move::run(&daemon, job.clone(), to.clone(), mode, &events);
    // What ended well has told the balancer already, as every move does.
    if let Err(failure) = moved.await {
        info!(%job, %to, %failure, causes = ?failure.causes, "the balancer's move failed");
        lock(&daemon.balance.outflow).failed(daemon.meters.now(), &job);
    }
}

async fn job_views(daemon: &Daemon) -> Vec<JobView> {
    let now = unix_now();
    let here = daemon
        .jobs
        .views()
        .await
        .into_iter()
        .filter(|view| view.record.is_here());
    here.map(|view| {
        let record = view.record;
        let used = daemon.meters.usage(&record.id).unwrap_or_default();
        JobView {
            id: record.id,
            cpu: used.cpu + Duration::from_millis(record.cpu_ms_elsewhere),
            runnable: used.runnable,
            memory: used.memory,
            // Whether it really is the mover finds out before it freezes
            // anything; a refusal keeps the balancer off it for a while.
            movable: true,
            pinned: record.pinned,
            since_arrival: Duration::from_secs(now.saturating_sub(record.arrived_unix)),
            running_moves: u32::from(view.leaving.is_some() || view.committed),
        }
    })
    .collect()
}

fn peer_views(daemon: &Daemon) -> Vec<PeerView> {
    let now = daemon.meters.now();
    let states = daemon
        .peers
        .states()
        .into_iter()
        .filter(|(_, state)| state.up);
    states
        .filter_map(|(node, state)| {
            let (load, at) = state.load?;
            let received_at = now.saturating_sub(at.elapsed());
            Some(PeerView {
                node,
                load,
                received_at,
            })
        })
        .collect()
}
