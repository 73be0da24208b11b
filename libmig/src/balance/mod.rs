//! Who should run where: load, the cost of a move, and the decision.
//!
//! Everything here is a pure function of what is passed in: the time (as a
//! [`Duration`] since any fixed instant of a monotonic
//! clock), the loads, the jobs and the randomness. So the same code runs in
//! `migd` and in a simulator with thousands of nodes.
//!
//! ```text
//!  samples ──► LoadMeter ──┬─ local view ────► Balancer::decide ──► Decision
//!                          └─ exported view ─► Load ──► peers         │ Reservation
//!                                                                     ▼
//!  finished moves ──► CostModel                     destination: Inflow::reserve
//! ```
//!
//! Where the rules come from:
//! * the two views of the load and the 1.3 processes of hysteresis: MOSIX
//!   (Barak, La'adan, Shiloh, "Scalable Cluster Computing with MOSIX for
//!   Linux", 1999), as its functions were kept in Kerrighed's scheduler;
//! * age as the predictor of what a job still has to do: Harchol-Balter and
//!   Downey, "Exploiting Process Lifetime Distributions for Dynamic Load
//!   Balancing", ACM TOCS 15(3), 1997;
//! * two candidates instead of the best one, since loads are known late:
//!   Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 11(1), 2000;
//! * asking the destination for a reservation: Ousterhout et al., "Sparrow",
//!   SOSP 2013.
//!
//! Why it ends: a job goes only where the load per core would then be lower
//! than it is here now. With equal nodes every such move lowers the sum of the
//! squares of the loads, so a set of constant jobs comes to rest. The views,
//! the settling times and the reservations keep that true with late numbers.

mod cost;
mod decide;
mod inflow;
mod load;
mod reason;
mod settings;
#[cfg(test)]
mod sim;

pub use cost::CostModel;
pub use decide::Balancer;
pub use inflow::{Inflow, Refusal, Reservation};
pub use load::{Load, LoadMeter};
pub use reason::{Decision, Idle, Reason};
pub use settings::Settings;

use std::time::Duration;

use crate::api::{JobId, NodeName};

/// One job of this node, as the balancer sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// Which job.
    pub id: JobId,
    /// CPU time that all its processes have consumed since it was started, on
    /// every node that it has been on. This is the age of Harchol-Balter and
    /// Downey: half of the jobs that have used a seconds will use a more.
    pub cpu: Duration,
    /// Tasks that it keeps runnable, averaged: 1.0 for a busy single thread.
    pub runnable: f64,
    /// Resident memory in bytes: what a move has to carry.
    pub memory: u64,
    /// Preflight found nothing that cannot be moved.
    pub movable: bool,
    /// The user said `--pin`.
    pub pinned: bool,
    /// How long it has been on this node since it was started or arrived.
    pub since_arrival: Duration,
    /// Moves of it that are going on, whoever ordered them.
    pub running_moves: u32,
}

/// What was last heard of a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerView {
    /// Which node.
    pub node: NodeName,
    /// Its load as it exported it.
    pub load: Load,
    /// When that arrived, on the clock that is passed to the balancer.
    pub received_at: Duration,
}

impl PeerView {
    /// How old the peer's numbers are: the time they have been lying here and
    /// the age they arrived with.
    #[must_use]
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.received_at)
            .saturating_add(self.load.age)
    }
}
