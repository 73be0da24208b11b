//! The load of one node: what is told to peers, and how it is averaged.
//!
//! Each node keeps two averages of the same samples, after MOSIX. The *local*
//! view rises slowly and falls at once: a node is slow to believe that it is
//! overloaded. The *exported* view rises at once and falls slowly: peers are
//! quick to hear that it is busy and slow to hear that it is idle. A burst
//! therefore moves nothing, and a herd does not run to a node that was idle
//! for a moment. The samples come from `inspect::load`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How loaded a node is, as it tells its peers once a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Tasks that run or wait for a CPU, averaged; the exported view.
    pub runnable: f64,
    /// CPUs that the node may use.
    pub cores: u32,
    /// Speed of one core relative to the cluster's reference, if it has been
    /// measured. Where either end has not, both count as equal.
    pub speed: Option<f64>,
    /// Bytes that programs can still get without swapping (MemAvailable).
    pub memory_free: u64,
    /// Bytes of memory in all.
    pub memory_total: u64,
    /// Jobs of the cluster that run here.
    pub jobs: u32,
    /// Runnable tasks of jobs that are on their way here or arrived too
    /// recently to be in `runnable`.
    pub incoming: f64,
    /// Takes jobs that other nodes' balancers offer.
    pub accepts: bool,
    /// How old the numbers were when they were sent. An age and not an
    /// instant: the clocks of two nodes are never compared.
    pub age: Duration,
}

impl Load {
    /// Whether the numbers can be those of a machine. Loads arrive from other
    /// nodes; one that fails here is ignored.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let amount = |value: f64| value.is_finite() && (0.0..=1e9).contains(&value);
        let speed = self
            .speed
            .is_none_or(|s| s.is_finite() && (1e-3..=1e3).contains(&s));
        amount(self.runnable)
            && amount(self.incoming)
            && (1..=1 << 20).contains(&self.cores)
            && speed
            && self.memory_free <= self.memory_total
    }

    /// Tasks that want a CPU here, with those on their way and `more` of them.
    #[must_use]
    pub fn demand(&self, more: f64) -> f64 {
        self.runnable + self.incoming + more
    }

    /// Tasks per core of speed 1 when `demand` tasks want to run here.
    #[must_use]
    pub fn pressure(&self, demand: f64, speed: f64) -> f64 {
        demand / f64::from(self.cores.max(1)) / speed
    }

    /// How many times longer work takes here than on a free core of speed 1,
    /// when `demand` tasks want to run: a core with fewer than one task is
    /// not faster than a core with one.
    #[must_use]
    pub fn slowdown(&self, demand: f64, speed: f64) -> f64 {
        (demand / f64::from(self.cores.max(1))).max(1.0) / speed
    }
}

/// The speeds of two nodes as far as they can be compared: when one has not
/// been measured, both count as equal.
pub(super) fn speeds(one: Option<f64>, other: Option<f64>) -> (f64, f64) {
    one.zip(other).unwrap_or((1.0, 1.0))
}

/// Averages samples of the number of runnable tasks into the two views.
#[derive(Debug, Clone)]
pub struct LoadMeter {
    period_start: Option<Duration>,
    sum: f64,
    samples: u32,
    local: f64,
    exported: f64,
    updated: Duration,
}

impl LoadMeter {
    /// One step of both averages per period, as in MOSIX.
    pub const PERIOD: Duration = Duration::from_secs(1);

    /// A meter that has seen nothing: the node counts as idle.
    #[must_use]
    pub fn new() -> Self {
        Self {
            period_start: None,
            sum: 0.0,
            samples: 0,
            local: 0.0,
            exported: 0.0,
            updated: Duration::ZERO,
        }
    }

    /// Adds one sample, taken at `now`. Several a second are wanted; numbers
    /// that are no count of tasks are ignored.
    pub fn sample(&mut self, now: Duration, runnable: f64) {
        if !runnable.is_finite() || runnable < 0.0 {
            return;
        }
        let start = *self.period_start.get_or_insert(now);
        self.sum += runnable;
        self.samples += 1;
        if now.saturating_sub(start) >= Self::PERIOD {
            self.step(self.sum / f64::from(self.samples));
            self.period_start = Some(now);
            self.sum = 0.0;
            self.samples = 0;
            self.updated = now;
        }
    }

    /// What this node decides by: rises slowly, falls at once.
    #[must_use]
    pub fn local(&self) -> f64 {
        self.local
    }

    /// What peers are told: rises at once, falls slowly.
    #[must_use]
    pub fn exported(&self) -> f64 {
        self.exported
    }

    /// How long ago the views last changed: the `age` of a [`Load`].
    #[must_use]
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.updated)
    }

    fn step(&mut self, mean: f64) {
        self.local = if mean > self.local {
            (5.0 * self.local + 3.0 * mean) / 8.0
        } else {
            mean
        };
        self.exported = if mean >= self.exported {
            mean
        } else {
            (7.0 * self.exported + mean) / 8.0
        };
    }
}

impl Default for LoadMeter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(meter: &mut LoadMeter, from_ms: u64, to_ms: u64, runnable: f64) {
        for at in (from_ms..to_ms).step_by(250) {
            meter.sample(Duration::from_millis(at), runnable);
        }
    }

    #[test]
    fn a_burst_is_exported_at_once_and_believed_slowly() {
        let mut meter = LoadMeter::new();
        feed(&mut meter, 0, 1250, 8.0);
        assert_eq!(meter.exported(), 8.0);
        assert_eq!(meter.local(), 3.0);
        feed(&mut meter, 1250, 20_000, 8.0);
        assert!((meter.local() - 8.0).abs() < 0.05, "{}", meter.local());
    }

    #[test]
    fn idleness_is_believed_at_once_and_exported_slowly() {
        let mut meter = LoadMeter::new();
        feed(&mut meter, 0, 20_000, 8.0);
        let full = meter.local();
        feed(&mut meter, 20_000, 22_500, 0.0);
        assert!(meter.local() < full / 4.0, "{}", meter.local());
        assert!(meter.exported() > 5.0, "{}", meter.exported());
        feed(&mut meter, 22_500, 90_000, 0.0);
        assert!(meter.exported() < 0.01, "{}", meter.exported());
    }

    #[test]
    fn nonsense_samples_are_ignored() {
        let mut meter = LoadMeter::new();
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            meter.sample(Duration::from_secs(5), bad);
        }
        feed(&mut meter, 10_000, 11_250, 1.0);
        assert_eq!(meter.exported(), 1.0);
    }

    #[test]
    fn a_clock_that_stands_still_is_no_division_by_zero() {
        let mut meter = LoadMeter::new();
        for _ in 0..1000 {
            meter.sample(Duration::ZERO, 3.0);
        }
        assert_eq!(meter.exported(), 0.0);
        meter.sample(Duration::from_secs(1), 3.0);
        assert_eq!(meter.exported(), 3.0);
        assert_eq!(meter.age(Duration::from_secs(4)), Duration::from_secs(3));
    }

    #[test]
    fn loads_of_no_machine_are_told_apart() {
        let good = Load {
            runnable: 1.0,
            cores: 2,
            speed: Some(1.0),
            memory_free: 1,
            memory_total: 2,
            jobs: 0,
            incoming: 0.0,
            accepts: true,
            age: Duration::ZERO,
        };
        assert!(good.is_sane());
        let spoil: [fn(&mut Load); 9] = [
            |l| l.runnable = f64::NAN,
            |l| l.runnable = -1.0,
            |l| l.runnable = f64::INFINITY,
            |l| l.incoming = -0.5,
            |l| l.cores = 0,
            |l| l.cores = u32::MAX,
            |l| l.speed = Some(0.0),
            |l| l.speed = Some(f64::NAN),
            |l| l.memory_free = 3,
        ];
        for (index, spoil) in spoil.iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(!bad.is_sane(), "case {index}");
        }
    }

    #[test]
    fn slowdown_counts_cores_and_speed() {
        let mut load = Load {
            runnable: 0.0,
            cores: 4,
            speed: None,
            memory_free: 0,
            memory_total: 0,
            jobs: 0,
            incoming: 2.0,
            accepts: true,
            age: Duration::ZERO,
        };
        assert_eq!(load.slowdown(load.demand(0.0), 1.0), 1.0);
        load.runnable = 6.0;
        assert_eq!(load.slowdown(load.demand(0.0), 1.0), 2.0);
        assert_eq!(load.slowdown(load.demand(4.0), 2.0), 1.5);
        assert_eq!(load.pressure(1.0, 1.0), 0.25);
    }
}
