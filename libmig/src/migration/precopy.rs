//! When memory has been sent often enough while the job runs.

use std::time::Duration;

/// More rounds do not make a pause shorter.
const ROUNDS: u32 = 30;
/// What the sending of memory may add to the pause.
const BUDGET: Duration = Duration::from_millis(5);
/// A rate is not measured by less: one round trip would be most of it.
const MEASURABLE: u64 = 4 << 20;

/// The rounds so far.
#[derive(Debug, Default)]
pub(super) struct Convergence {
    rounds: u32,
    /// Bytes of the last two rounds.
    last: [u64; 2],
    /// Bytes per second.
    rate: f64,
}

impl Convergence {
    /// A round has sent `bytes` in `time`; whether another one is worth it. What a job
    /// writes in the time of one round is what the next one has to send.
    pub(super) fn goes_on(&mut self, bytes: u64, time: Duration) -> bool {
        self.rounds += 1;
        if bytes >= MEASURABLE || self.rounds == 1 {
            #[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
            let rate = bytes as f64 / time.as_secs_f64().max(1e-6);
            self.rate = rate;
        }
        let [before, earlier] = self.last;
        self.last = [bytes, before];
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let short = bytes as f64 <= self.rate * BUDGET.as_secs_f64();
        // A quarter less than two rounds ago, or it does not get better.
        let shrinks = self.rounds < 3 || bytes < earlier / 4 * 3;
        !short && shrinks && self.rounds < ROUNDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn second(bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / GIB as f64)
    }

    #[test]
    fn an_idle_job_takes_two_rounds() {
        let mut rounds = Convergence::default();
        assert!(rounds.goes_on(GIB, second(GIB)));
        assert!(!rounds.goes_on(4096, Duration::from_millis(1)));
    }

    #[test]
    fn rounds_shrink_as_long_as_the_job_writes_less_than_is_sent() {
        let mut rounds = Convergence::default();
        let mut bytes = GIB;
        let mut count = 0;
        while rounds.goes_on(bytes, second(bytes)) {
            bytes /= 4;
            count += 1;
        }
        assert!(
            (3..10).contains(&count) && bytes < GIB / 100,
            "{count} {bytes}"
        );
    }

    #[test]
    fn a_job_that_writes_faster_than_that_is_stopped() {
        let mut rounds = Convergence::default();
        let count = (0..100)
            .take_while(|_| rounds.goes_on(GIB, second(GIB)))
            .count();
        assert!(count < 5, "{count}");
    }
}
