//! The source's side: which job to offer to whom.
//!
//! An overloaded node offers its oldest job for which some peer is worth the
//! move: `age x (slowdown here - slowdown there) > cost` (Harchol-Balter and
//! Downey, in the form for several cores). The balancer remembers only what it
//! has offered, who refused lately and what moves have cost; the parent module
//! says why it comes to rest. Its counterpart at the destination is `inflow`.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{
    CostModel, Decision, Idle, JobView, Load, PeerView, Reason, Refusal, Reservation, Settings,
    inflow::fits, load::speeds,
};
use crate::api::{JobId, NodeName};

/// Decides for one node which of its jobs should move.
#[derive(Debug, Clone)]
pub struct Balancer {
    settings: Settings,
    cost: CostModel,
    offered: BTreeMap<JobId, Offered>,
    settle_until: Duration,
    peers: BTreeMap<NodeName, Backoff>,
    jobs: BTreeMap<JobId, Backoff>,
    idle: Idle,
}

#[derive(Debug, Clone)]
struct Offered {
    to: NodeName,
    forget_at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Backoff {
    until: Duration,
    failures: u32,
}

impl Balancer {
    /// A balancer that has decided nothing and knows no costs yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            cost: CostModel::default(),
            offered: BTreeMap::new(),
            settle_until: Duration::ZERO,
            peers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            idle: Idle::NotAsked,
        }
    }

    /// The rules it follows.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it believes that moves cost.
    #[must_use]
    pub fn cost(&self) -> &CostModel {
        &self.cost
    }

    /// Why the last [`Balancer::decide`] decided nothing, or not more.
    #[must_use]
    pub fn idle(&self) -> Idle {
        self.idle
    }

    /// Decides which jobs should move where, and remembers that they have been
    /// offered. Each decision must be answered by one of
    /// [`finished`](Self::finished), [`failed`](Self::failed) and
    /// [`refused`](Self::refused).
    ///
    /// `own` is this node's load with the *local* view in `runnable`. `rng`
    /// gives 64 random bits at each call. Cost: O(jobs x peers) at worst,
    /// O(jobs + peers) on a node that is not overloaded.
    pub fn decide(
        &mut self,
        now: Duration,
        own: &Load,
        jobs: &[JobView],
        peers: &[PeerView],
        rng: &mut impl FnMut() -> u64,
    ) -> Vec<Decision> {
        self.expire(now, jobs);
        let mut own = own.clone();
        let mut decisions = Vec::new();
        loop {
            match self.decide_one(now, &own, jobs, peers, rng) {
                Ok(decision) => {
                    own.runnable = (own.runnable - decision.reservation.runnable).max(0.0);
                    self.offered.insert(
                        decision.job.clone(),
                        Offered {
                            to: decision.to.clone(),
                            forget_at: now.saturating_add(self.settings.offer_timeout),
                        },
                    );
                    decisions.push(decision);
                }
                Err(idle) => {
                    self.idle = idle;
                    return decisions;
                }
            }
        }
    }

    /// A move from this node has ended well: it carried `bytes` in `elapsed`.
    /// Moves that users ordered teach the cost as well.
    pub fn finished(&mut self, now: Duration, job: &JobId, bytes: u64, elapsed: Duration) {
        self.cost.observe(bytes, elapsed);
        self.settle_until = now.saturating_add(self.settings.settle);
        self.jobs.remove(job);
        if let Some(offered) = self.offered.remove(job) {
            self.peers.remove(&offered.to);
        }
    }

    /// A move has failed, and the job runs on here. It is left alone for a while.
    pub fn failed(&mut self, now: Duration, job: &JobId) {
        self.offered.remove(job);
        let step = self.settings.backoff;
        Backoff::lengthen(&mut self.jobs, job, now, step);
    }

    /// The destination refused the reservation. It is left alone for a while:
    /// for longer each time, unless it merely has others on their way.
    pub fn refused(&mut self, now: Duration, job: &JobId, why: &Refusal) {
        let Some(offered) = self.offered.remove(job) else {
            return;
        };
        let step = self.settings.backoff;
        if matches!(why, Refusal::Full(_)) {
            self.peers.remove(&offered.to);
        }
        Backoff::lengthen(&mut self.peers, &offered.to, now, step);
    }

    fn decide_one(
        &self,
        now: Duration,
        own: &Load,
        jobs: &[JobView],
        peers: &[PeerView],
        rng: &mut impl FnMut() -> u64,
    ) -> Result<Decision, Idle> {
        self.may_decide(now, own, jobs)?;
        let jobs = self.candidates(now, jobs);
        if jobs.is_empty() {
            return Err(Idle::NoJob);
        }
        let peers = self.reachable(now, peers);
        if peers.is_empty() {
            return Err(Idle::NoPeer);
        }
        jobs.into_iter()
            .find_map(|job| self.destination(now, own, job, &peers, rng))
            .ok_or(Idle::NotWorthIt)
    }

    fn may_decide(&self, now: Duration, own: &Load, jobs: &[JobView]) -> Result<(), Idle> {
        if !self.settings.enabled {
            return Err(Idle::Disabled);
        }
        let threshold = f64::from(own.cores) + self.settings.overload;
        if !own.is_sane() || own.runnable < threshold {
            let runnable = own.runnable;
            return Err(Idle::NotOverloaded {
                runnable,
                threshold,
            });
        }
        let ordered_by_others = jobs
            .iter()
            .filter(|job| job.running_moves > 0 && !self.offered.contains_key(&job.id))
            .count();
        if self.offered.len() + ordered_by_others >= self.settings.max_outgoing {
            return Err(Idle::Busy);
        }
        if now < self.settle_until {
            return Err(Idle::Settling);
        }
        Ok(())
    }

    /// The jobs that may move, the oldest first; of equals, the smallest.
    fn candidates<'a>(&self, now: Duration, jobs: &'a [JobView]) -> Vec<&'a JobView> {
        let mut jobs: Vec<_> = jobs.iter().filter(|job| self.may_move(now, job)).collect();
        jobs.sort_by(|a, b| {
            (Reverse(a.cpu), a.memory, &a.id).cmp(&(Reverse(b.cpu), b.memory, &b.id))
        });
        jobs
    }

    fn may_move(&self, now: Duration, job: &JobView) -> bool {
        let stay = self.settings.min_stay.as_secs_f64();
        let stay = stay.max(self.settings.min_stay_costs * self.cost.seconds(job.memory));
        job.movable
            && !job.pinned
            && job.running_moves == 0
            && !self.offered.contains_key(&job.id)
            && job.runnable.is_finite()
            && job.runnable >= self.settings.min_runnable
            && job.since_arrival.as_secs_f64() >= stay
            && !Backoff::holds(&self.jobs, &job.id, now)
    }

    /// Peers that were heard of lately and take jobs, the freshest first.
    fn reachable<'a>(&self, now: Duration, peers: &'a [PeerView]) -> Vec<&'a PeerView> {
        let mut peers: Vec<_> = peers
            .iter()
            .filter(|peer| {
                peer.load.accepts
                    && peer.load.is_sane()
                    && peer.age(now) <= self.settings.max_peer_age
                    && !Backoff::holds(&self.peers, &peer.node, now)
                    && !self.offered.values().any(|o| o.to == peer.node)
            })
            .collect();
        peers.sort_by_key(|peer| peer.age(now));
        peers
    }

    /// Where `job` should go: the better of two peers drawn from the freshest
    /// that are worth the move. Not the best of all: every overloaded node
    /// would name the same one.
    fn destination(
        &self,
        now: Duration,
        own: &Load,
        job: &JobView,
        peers: &[&PeerView],
        rng: &mut impl FnMut() -> u64,
    ) -> Option<Decision> {
        let mut suitable: Vec<_> = peers
            .iter()
            .filter_map(|peer| Some((*peer, self.worth(now, own, job, peer)?)))
            .take(self.settings.freshest.max(2))
            .collect();
        let (mut peer, mut reason) = draw(&mut suitable, rng)?;
        if let Some((other, its)) = draw(&mut suitable, rng) {
            let (chosen, not) = if its.destination_slowdown < reason.destination_slowdown {
                ((other, its), peer)
            } else {
                ((peer, reason), other)
            };
            (peer, reason) = chosen;
            reason.instead_of = Some(not.node.clone());
        }
        Some(Decision {
            job: job.id.clone(),
            to: peer.node.clone(),
            reservation: Reservation {
                job: job.id.clone(),
                runnable: reason.runnable,
                memory: job.memory,
                source_pressure: own.pressure(own.runnable, 1.0),
                source_speed: own.speed,
            },
            reason,
        })
    }

    /// The numbers that speak for moving `job` to `peer`, if they do.
    fn worth(&self, now: Duration, own: &Load, job: &JobView, peer: &PeerView) -> Option<Reason> {
        let there = &peer.load;
        let (own_speed, speed) = speeds(own.speed, there.speed);
        let runnable = job.runnable.min(own.runnable);
        let demand = there.demand(runnable * (1.0 + self.settings.hysteresis));
        let better_off = there.pressure(demand, speed) < own.pressure(own.runnable, own_speed);
        if !better_off || !fits(&self.settings, there, job.memory) {
            return None;
        }
        let source_slowdown = own.slowdown(own.runnable, own_speed);
        let destination_slowdown = there.slowdown(demand, speed);
        let gain = source_slowdown - destination_slowdown;
        let age = job.cpu.as_secs_f64();
        let cost = self.cost.seconds(job.memory);
        (age * gain > cost).then(|| Reason {
            age,
            source_slowdown,
            destination_slowdown,
            gain,
            cost,
            memory: job.memory,
            runnable,
            source_runnable: own.runnable,
            destination_runnable: there.demand(0.0),
            peer_age: peer.age(now).as_secs_f64(),
            instead_of: None,
        })
    }

    /// Forgets offers that nobody answered and back-offs that are long over.
    /// An offer whose move is running is kept, and one whose job is gone is not.
    fn expire(&mut self, now: Duration, jobs: &[JobView]) {
        self.offered.retain(|id, offered| {
            jobs.iter()
                .find(|job| job.id == *id)
                .is_some_and(|job| job.running_moves > 0 || offered.forget_at > now)
        });
        let keep = self.settings.backoff.saturating_mul(Backoff::LONGEST);
        let recent = |backoff: &Backoff| backoff.until.saturating_add(keep) > now;
        self.peers.retain(|_, backoff| recent(backoff));
        self.jobs.retain(|_, backoff| recent(backoff));
    }
}

impl Backoff {
    /// The longest back-off, in steps.
    const LONGEST: u32 = 32;

    fn lengthen<K: Ord + Clone>(
        all: &mut BTreeMap<K, Self>,
        key: &K,
        now: Duration,
        step: Duration,
    ) {
        let failures = all.get(key).map_or(0, |b| b.failures);
        let steps = 1_u32
            .checked_shl(failures)
            .map_or(Self::LONGEST, |steps| steps.min(Self::LONGEST));
        let backoff = Self {
            until: now.saturating_add(step.saturating_mul(steps)),
            failures: failures.saturating_add(1),
        };
        all.insert(key.clone(), backoff);
    }

    fn holds<K: Ord>(all: &BTreeMap<K, Self>, key: &K, now: Duration) -> bool {
        all.get(key).is_some_and(|backoff| now < backoff.until)
    }
}

/// Takes one element at random out of the list.
fn draw<T>(list: &mut Vec<T>, rng: &mut impl FnMut() -> u64) -> Option<T> {
    let len = u64::try_from(list.len()).expect("a length fits into 64 bits");
    let index = rng().checked_rem(len)?;
    let index = usize::try_from(index).expect("below the length of a list");
    Some(list.swap_remove(index))
}

#[cfg(test)]
mod tests;
