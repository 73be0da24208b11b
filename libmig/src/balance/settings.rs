//! What an administrator can set about the balancer. `migd` fills it from its
//! configuration; the defaults are those of the papers named in the parent
//! module where they give numbers, and are marked as ours where not.

use std::time::Duration;

/// The rules of one node's balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `balance = false` switches all decisions off.
    pub enabled: bool,
    /// The node counts as overloaded from this many runnable tasks above its
    /// cores. MOSIX: 1.5 processes on one processor.
    pub overload: f64,
    /// How much of the moved job is added once more to the destination when
    /// both ends are compared. MOSIX: 1.3 processes, that is 0.3.
    pub hysteresis: f64,
    /// Jobs that keep fewer tasks runnable than this are left alone: moving
    /// them frees nothing. Ours.
    pub min_runnable: f64,
    /// A job stays at least this long where it arrived. Ours.
    pub min_stay: Duration,
    /// And at least this many times the cost of moving it. Ours.
    pub min_stay_costs: f64,
    /// Outgoing moves of this node at any one time.
    pub max_outgoing: usize,
    /// Moves towards this node at any one time, including those that arrived
    /// less than [`Settings::settle`] ago. Ours.
    pub max_incoming: usize,
    /// After a move this node decides nothing for so long, and the destination
    /// goes on announcing it as on its way: two periods of the load meter, so
    /// that one whole period has been measured with the move in it. MOSIX: 2 s.
    pub settle: Duration,
    /// Peers that were last heard of longer ago than this do not exist.
    pub max_peer_age: Duration,
    /// Candidates are drawn from so many of the freshest suitable peers. Ours.
    pub freshest: usize,
    /// A peer that refused, or a job whose move failed, is left alone for so
    /// long; doubled at each further failure, at most 32 times. Ours.
    pub backoff: Duration,
    /// A decision of which nothing was heard again is forgotten after this.
    pub offer_timeout: Duration,
    /// Part of the destination's memory that must stay free. Ours.
    pub memory_reserve: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            overload: 0.5,
            hysteresis: 0.3,
            min_runnable: 0.25,
            min_stay: Duration::from_secs(2),
            min_stay_costs: 10.0,
            max_outgoing: 1,
            max_incoming: 1,
            settle: Duration::from_secs(2),
            max_peer_age: Duration::from_millis(3500),
            freshest: 8,
            backoff: Duration::from_secs(2),
            offer_timeout: Duration::from_secs(30),
            memory_reserve: 0.05,
        }
    }
}
