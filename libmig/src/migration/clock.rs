//! How long the phases of a move take.

use std::time::{Duration, Instant};

use crate::api::Phase;

/// Times the phases.
pub(super) struct Clock {
    pub(super) began: Instant,
    last: Instant,
    pub(super) laps: Vec<(Phase, Duration)>,
    phase: Phase,
}

impl Clock {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            laps: Vec::new(),
            phase: Phase::Negotiate,
        }
    }

    /// The current phase ends, `next` begins.
    pub(super) fn enter(&mut self, next: Phase) {
        let now = Instant::now();
        self.laps.push((self.phase, now - self.last));
        self.phase = next;
        self.last = now;
    }
}
