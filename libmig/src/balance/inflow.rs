//! The destination's side: reservations for jobs on their way here.
//!
//! A source decides by numbers that are seconds old, and so do all others: the
//! destination is the only one that knows what it has promised already. It
//! takes few jobs at a time, and none that its own numbers speak against.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Load, Settings, cost::as_f64, load::speeds};
use crate::api::JobId;

/// What a source asks of a destination before it starts a move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// Which job.
    pub job: JobId,
    /// Tasks that it keeps runnable.
    pub runnable: f64,
    /// Bytes of memory that it will need.
    pub memory: u64,
    /// Tasks per core at the source now: the destination refuses when it would
    /// be no better off.
    pub source_pressure: f64,
    /// Speed of a core at the source, if it has been measured.
    pub source_speed: Option<f64>,
}

/// Why a destination does not take a job.
#[derive(Debug, Clone, PartialEq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// It takes no jobs from balancers.
    #[error("takes no jobs")]
    Closed,
    /// The numbers of the reservation are not those of a job.
    #[error("the reservation makes no sense")]
    Nonsense,
    /// The job is already on its way here.
    #[error("job {0} is already on its way")]
    Twice(JobId),
    /// As many jobs as allowed are on their way.
    #[error("{0} jobs are on their way already")]
    Full(usize),
    /// It would be as loaded as the source.
    #[error("would have {here:.2} tasks per core, and the source has {source_pressure:.2}")]
    Loaded {
        /// Tasks per core here with the job.
        here: f64,
        /// Tasks per core at the source.
        source_pressure: f64,
    },
    /// Too little memory.
    #[error("has {free} bytes of memory to give, and the job needs {needed}")]
    Memory {
        /// Bytes that may be used.
        free: u64,
        /// Bytes that the job needs.
        needed: u64,
    },
}

/// Jobs that are on their way to this node.
#[derive(Debug, Clone, Default)]
pub struct Inflow {
    expected: BTreeMap<JobId, Expected>,
}

#[derive(Debug, Clone)]
struct Expected {
    runnable: f64,
    memory: u64,
    forget_at: Duration,
    arrived: bool,
}

impl Inflow {
    /// Nothing is on its way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a source that wants to send a job here. `own` is this node's
    /// own load with `incoming` zero: what is on its way is added here.
    ///
    /// # Errors
    /// The reason why the job is not taken; nothing has been reserved then.
    pub fn reserve(
        &mut self,
        now: Duration,
        settings: &Settings,
        own: &Load,
        asked: &Reservation,
    ) -> Result<(), Refusal> {
        self.expire(now);
        if !own.accepts {
            return Err(Refusal::Closed);
        }
        let amount = |value: f64| value.is_finite() && (0.0..=1e6).contains(&value);
        let speed = asked.source_speed.unwrap_or(1.0);
        if !amount(asked.runnable) || !amount(asked.source_pressure) || !amount(1.0 / speed) {
            return Err(Refusal::Nonsense);
        }
        if self.expected.contains_key(&asked.job) {
            return Err(Refusal::Twice(asked.job.clone()));
        }
        if self.expected.len() >= settings.max_incoming {
            return Err(Refusal::Full(self.expected.len()));
        }
        self.check_load(own, asked)?;
        self.check_memory(settings, own, asked)?;
        self.expected.insert(
            asked.job.clone(),
            Expected {
                runnable: asked.runnable,
                memory: asked.memory,
                forget_at: now.saturating_add(settings.offer_timeout),
                arrived: false,
            },
        );
        Ok(())
    }

    /// The move has really begun: the reservation holds until it ends, however
    /// long that takes (`limit` bounds it all the same).
    pub fn begun(&mut self, now: Duration, job: &JobId, limit: Duration) {
        if let Some(expected) = self.expected.get_mut(job) {
            expected.forget_at = now.saturating_add(limit);
        }
    }

    /// The job runs here. It goes on counting as on its way until the load
    /// meter has seen it for a whole period.
    pub fn arrived(&mut self, now: Duration, settings: &Settings, job: &JobId) {
        if let Some(expected) = self.expected.get_mut(job) {
            expected.arrived = true;
            expected.forget_at = now.saturating_add(settings.settle);
        }
    }

    /// The job does not come after all.
    pub fn cancelled(&mut self, job: &JobId) {
        self.expected.remove(job);
    }

    /// Runnable tasks on their way here: [`Load::incoming`].
    #[must_use]
    pub fn runnable(&mut self, now: Duration) -> f64 {
        self.expire(now);
        self.expected.values().map(|e| e.runnable).sum()
    }

    fn check_load(&self, own: &Load, asked: &Reservation) -> Result<(), Refusal> {
        let expected: f64 = self.expected.values().map(|e| e.runnable).sum();
        let demand = own.runnable + expected + asked.runnable;
        let (source_speed, speed) = speeds(asked.source_speed, own.speed);
        let here = own.pressure(demand, speed);
        let source_pressure = asked.source_pressure / source_speed;
        if here >= source_pressure {
            return Err(Refusal::Loaded {
                here,
                source_pressure,
            });
        }
        Ok(())
    }

    fn check_memory(
        &self,
        settings: &Settings,
        own: &Load,
        asked: &Reservation,
    ) -> Result<(), Refusal> {
        // What has arrived is no longer in `memory_free`.
        let promised: u64 = self
            .expected
            .values()
            .filter(|e| !e.arrived)
            .fold(0, |sum, e| sum.saturating_add(e.memory));
        let needed = promised.saturating_add(asked.memory);
        if fits(settings, own, needed) {
            return Ok(());
        }
        Err(Refusal::Memory {
            free: own.memory_free.saturating_sub(promised),
            needed: asked.memory,
        })
    }

    fn expire(&mut self, now: Duration) {
        self.expected.retain(|_, e| e.forget_at > now);
    }
}

/// Whether `bytes` fit into the free memory of a node and leave its reserve.
pub(super) fn fits(settings: &Settings, load: &Load, bytes: u64) -> bool {
    let reserve = settings.memory_reserve * as_f64(load.memory_total);
    as_f64(bytes) + reserve <= as_f64(load.memory_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn id(home: &str) -> JobId {
        format!("{home}-1").parse().unwrap()
    }

    fn idle() -> Load {
        Load {
            runnable: 0.0,
            cores: 1,
            speed: None,
            memory_free: 8 * GIB,
            memory_total: 10 * GIB,
            jobs: 0,
            incoming: 0.0,
            accepts: true,
            age: Duration::ZERO,
        }
    }

    fn ask(job: &str) -> Reservation {
        Reservation {
            job: id(job),
            runnable: 1.0,
            memory: GIB,
            source_pressure: 4.0,
            source_speed: None,
        }
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_at_a_time_until_it_has_settled() {
        let settings = Settings::default();
        let mut inflow = Inflow::new();
        assert_eq!(inflow.reserve(at(0), &settings, &idle(), &ask("a")), Ok(()));
        assert_eq!(inflow.runnable(at(0)), 1.0);
        let full = Err(Refusal::Full(1));
        assert_eq!(inflow.reserve(at(1), &settings, &idle(), &ask("b")), full);
        inflow.begun(at(1), &id("a"), at(3600));
        assert_eq!(inflow.reserve(at(90), &settings, &idle(), &ask("b")), full);
        inflow.arrived(at(90), &settings, &id("a"));
        assert_eq!(inflow.reserve(at(91), &settings, &idle(), &ask("b")), full);
        assert_eq!(inflow.runnable(at(91)), 1.0);
        assert_eq!(
            inflow.reserve(at(92), &settings, &idle(), &ask("b")),
            Ok(())
        );
    }

    #[test]
    fn a_promise_is_forgotten_when_cancelled_or_never_begun() {
        let settings = Settings::default();
        let mut inflow = Inflow::new();
        inflow
            .reserve(at(0), &settings, &idle(), &ask("a"))
            .unwrap();
        inflow.cancelled(&id("a"));
        inflow
            .reserve(at(0), &settings, &idle(), &ask("b"))
            .unwrap();
        assert_eq!(inflow.runnable(at(29)), 1.0);
        assert_eq!(inflow.runnable(at(30)), 0.0);
    }

    #[test]
    fn refusals_name_the_reason() {
        let settings = Settings {
            max_incoming: 3,
            ..Settings::default()
        };
        let mut inflow = Inflow::new();
        let closed = Load {
            accepts: false,
            ..idle()
        };
        assert_eq!(
            inflow.reserve(at(0), &settings, &closed, &ask("a")),
            Err(Refusal::Closed)
        );
        let mut nonsense = ask("a");
        nonsense.runnable = f64::NAN;
        assert_eq!(
            inflow.reserve(at(0), &settings, &idle(), &nonsense),
            Err(Refusal::Nonsense)
        );
        let busy = Load {
            runnable: 3.0,
            ..idle()
        };
        assert!(matches!(
            inflow.reserve(at(0), &settings, &busy, &ask("a")),
            Err(Refusal::Loaded { .. })
        ));
        let mut big = ask("a");
        big.memory = 8 * GIB;
        assert!(matches!(
            inflow.reserve(at(0), &settings, &idle(), &big),
            Err(Refusal::Memory { .. })
        ));
        big.memory = u64::MAX;
        assert!(inflow.reserve(at(0), &settings, &idle(), &big).is_err());
        inflow
            .reserve(at(0), &settings, &idle(), &ask("a"))
            .unwrap();
        assert_eq!(
            inflow.reserve(at(0), &settings, &idle(), &ask("a")),
            Err(Refusal::Twice(id("a")))
        );
    }

    #[test]
    fn promised_memory_counts() {
        let settings = Settings {
            max_incoming: 9,
            ..Settings::default()
        };
        let roomy = Load {
            cores: 64,
            ..idle()
        };
        let mut inflow = Inflow::new();
        let mut big = ask("a");
        big.memory = 4 * GIB;
        inflow.reserve(at(0), &settings, &roomy, &big).unwrap();
        big.job = id("b");
        assert!(matches!(
            inflow.reserve(at(0), &settings, &roomy, &big),
            Err(Refusal::Memory { .. })
        ));
    }
}
