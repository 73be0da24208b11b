//! The capsule: the namespaces and the cgroup that a job lives in, and the
//! small init that holds what must outlive the daemon.
//!
//! ```text
//!  mig exec ──attach socket──► init (pid 1) ◄──ctl socket── Handle (in migd)
//!                                └─ main program, orphans
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `host` | what a restore asks of it |
//! | [`handle`] | the daemon's side: make a capsule, find it again, ask it |
//! | `deputy` | what it says to that of a process that `mig exec` did not start |
//! | [`exec()`] | the request of `mig exec`, from the caller's identity to a job |
//! | `birth` | `migd capsule`: from a fresh process to pid 1 of new namespaces |
//! | `view`, `cgroup` | what the job sees, and the leaf it is frozen in |
//! | `init/` | the event loop of pid 1 |
//! | `program`, `identity` | the main program and whose it is |
//! | `console`, `ring` | the job's terminal, and its last output |
//! | `pipes` | the ends of standard streams that the init pumps |
//! | `relay` | the protocol between the init at home and the one where the job is |
//! | `ctl`, `fdstream` | what daemon and init say, and how it is framed |
//!
//! Invariant: the init never waits for the daemon. At home it holds no end of the pipes that the
//! program got: a copy of a read end would keep a writer from seeing EPIPE,
//! a copy of a write end a reader from seeing the end. `mig exec` holds its own
//! 0, 1 and 2 as any parent would; at departure the daemon fetches them out
//! of the frozen program and lends them to the init.

mod birth;
mod cgroup;
mod console;
mod ctl;
mod deputy;
pub mod exec;
mod fdstream;
pub mod handle;
mod host;
mod identity;
mod init;
mod pipes;
mod program;
mod relay;
mod ring;
mod view;

pub use birth::run_if_asked;
pub use cgroup::all_jobs;
pub use ctl::{Adopt, Event, Info, PipeId, Place};
pub use exec::{Started, exec};
pub use handle::{Handle, Launcher, Subscription};
pub use host::NAMES;
pub use identity::{Identity, Peer};
