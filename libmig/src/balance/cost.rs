//! What a move costs, learnt from the moves that were made.
//!
//! `cost = fixed + bytes / bandwidth`, in seconds. Small moves teach the fixed
//! part and large ones the bandwidth; a move in between would blur both and
//! teaches the part that it consists of mostly. One model per source node:
//! what limits a move is mostly the source and its network card.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Weight of the newest move in the averages.
const WEIGHT: f64 = 0.25;
/// Bounds within which a measured value is believed: 0.1 ms to 60 s.
const FIXED: (f64, f64) = (1e-4, 60.0);
/// 100 KB/s to 100 GB/s.
const BANDWIDTH: (f64, f64) = (1e5, 1e11);

/// The measured cost of moves from this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostModel {
    /// Seconds that a move of nothing takes.
    pub fixed: f64,
    /// Bytes per second.
    pub bandwidth: f64,
}

impl Default for CostModel {
    /// Before the first move: 100 ms and a 1 Gbit/s network.
    fn default() -> Self {
        Self {
            fixed: 0.1,
            bandwidth: 110e6,
        }
    }
}

impl CostModel {
    /// Seconds that a move of `bytes` is expected to take.
    #[must_use]
    pub fn seconds(&self, bytes: u64) -> f64 {
        self.fixed + self.carrying(bytes)
    }

    /// Learns from a finished move of `bytes` that took `elapsed`.
    pub fn observe(&mut self, bytes: u64, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if self.carrying(bytes) <= self.fixed {
            let fixed = (elapsed - self.carrying(bytes)).clamp(FIXED.0, FIXED.1);
            self.fixed += WEIGHT * (fixed - self.fixed);
        } else {
            let seconds = (elapsed - self.fixed).max(elapsed / 10.0).max(1e-6);
            let bandwidth = (as_f64(bytes) / seconds).clamp(BANDWIDTH.0, BANDWIDTH.1);
            self.bandwidth += WEIGHT * (bandwidth - self.bandwidth);
        }
    }

    fn carrying(&self, bytes: u64) -> f64 {
        as_f64(bytes) / self.bandwidth
    }
}

/// Bytes as a float; exact up to 8 PiB, and near enough above.
#[expect(
    clippy::cast_precision_loss,
    reason = "an estimate needs no more than 53 bits"
)]
pub(super) fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_teach_both_parts() {
        let mut model = CostModel::default();
        // The truth: 5 ms and 2 GB/s.
        let truth = |bytes: u64| Duration::from_secs_f64(0.005 + as_f64(bytes) / 2e9);
        for round in 0..100 {
            let bytes = if round % 2 == 0 { 4096 } else { 4 << 30 };
            model.observe(bytes, truth(bytes));
        }
        assert!((model.fixed - 0.005).abs() < 0.001, "{model:?}");
        assert!((model.bandwidth - 2e9).abs() < 2e8, "{model:?}");
        assert!((model.seconds(1 << 30) - 0.54).abs() < 0.1, "{model:?}");
    }

    #[test]
    fn impossible_measurements_stay_within_bounds() {
        let mut model = CostModel::default();
        for _ in 0..100 {
            model.observe(u64::MAX, Duration::ZERO);
            model.observe(0, Duration::MAX);
            model.observe(0, Duration::ZERO);
            model.observe(u64::MAX, Duration::MAX);
        }
        assert!(
            model.fixed >= FIXED.0 && model.fixed <= FIXED.1,
            "{model:?}"
        );
        assert!(model.bandwidth >= BANDWIDTH.0 && model.bandwidth <= BANDWIDTH.1);
        assert!(model.seconds(u64::MAX).is_finite());
    }
}
