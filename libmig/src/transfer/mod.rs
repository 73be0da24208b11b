//! Image <-> frames: which messages two nodes exchange while a job moves.
//!
//! ```text
//!   source                           destination
//!     Offer, Files     ───────────►                    every file that the job uses by name
//!                      ◄───────────  Accepted          capsule and husks are ready
//!     Ping             ───────────►
//!                      ◄───────────  Pong              (measures the link)
//!     State, image     ───────────►                    the job is frozen from here
//!     bulk ... bulk    ───────────►
//!     End              ───────────►
//!                      ◄───────────  Built             complete, stopped, verified
//!     Commit           ───────────►                    the source has given up the job
//!                      ◄───────────  Released          the destination runs it
//! ```
//!
//! `Refused` may take the place of any message before `Commit`, in either
//! direction, and ends the move with the job at the source. Anything else out
//! of its turn is [`TransferError::OutOfPhase`].

mod connection;
mod message;
mod proposal;

pub use connection::{Connection, Incoming, Link, TransferError};
pub use message::{Message, Offer, Place, Refusal};
pub use proposal::Proposal;
