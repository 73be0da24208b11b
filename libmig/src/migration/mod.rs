//! The conductor: what happens next in a move, and who owns the job when.
//!
//! ```text
//!  source       Proposed ─► Offered ─► Prepared ─► Frozen ─► Built ─► Committed ─► (reaped)
//!                  │           │          │        │          │
//!                  └───────────┴──────────┴────────┴─ abort   └─ lost answer: Unknown
//!
//!  destination  Reserved ─► Filling ─► Built ─────────────► Live
//!                  │           │         │ lost connection: Undecided
//!                  └───────────┴─────────┴─ discard
//! ```
//!
//! Each phase is a type whose transition consumes it, so that nothing can be
//! done twice or out of turn; every phase before the commit point can be
//! aborted, and its documentation says who runs and who owns the job afterwards.
//!
//! The conductor knows no process and no socket: it drives a [`SourceJob`] or a
//! [`DestinationJob`] over any stream, which is how the tests lose every single
//! frame in every phase.

mod answers;
mod clock;
mod destination;
mod disk;
pub mod failpoint;
mod handover;
mod job;
mod kept;
mod precopy;
mod source;
#[cfg(test)]
mod tests;

pub use destination::{Arrival, Restored, receive, restore};
pub use disk::{Copied, Saved};
pub use handover::{Commit, Verdict};
pub use job::{DestinationJob, JobError, MoveError, SourceJob};
pub use source::{Departure, Moved, Offered, Proposed};
