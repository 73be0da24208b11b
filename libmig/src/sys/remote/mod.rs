//! System calls executed by another process: batches of them in one ptrace
//! stop, 0.12 us each instead of 20 to 80.
//!
//! ```text
//! hole: | code, one page r-x | data, rw: header, records, buffers |
//! ```
//!
//! Invariant: at every instant the thread finds home without us. Before its
//! registers point at injected code, that code and a copy of the registers
//! are in place; a batch ends with a signal that is ignored by default, which
//! a tracer sees as a stop and which is nothing without one; the code after
//! it puts mask and registers back. (design/0001)
//!
//! [`Batch`] is what to call, [`Injector`] does it, [`foothold`] gets the
//! first two system calls done before there is any injected page.

mod batch;
mod code;
pub mod foothold;
mod injector;
pub mod ledger;
mod plan;
mod results;
pub mod rewait;

pub use batch::{Arg, Batch, DataRef, Slot};
pub use foothold::Foothold;
pub use injector::{Injector, Pause, Site};
pub use results::{Outcome, Results};

use std::io;

use super::{
    HostPid,
    ptrace::{Event, PtraceError},
};

/// An injection failed. The thread is as it was, unless it is gone.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// ptrace said no.
    #[error("injection failed")]
    Ptrace(#[from] PtraceError),
    /// The injected pages could not be read or written.
    #[error("cannot reach the injected memory of {thread} at {address:#x}")]
    Memory {
        /// The thread.
        thread: HostPid,
        /// Where.
        address: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A system call that had to succeed did not.
    #[error("system call {number}, executed by {thread}, failed")]
    Call {
        /// The thread.
        thread: HostPid,
        /// System call number.
        number: i64,
        /// Its errno.
        #[source]
        source: io::Error,
    },
    /// SIGURG, SIGWINCH and SIGCHLD are all pending.
    #[error(
        "thread {thread} has SIGURG, SIGWINCH and SIGCHLD pending: none is left to end a batch with"
    )]
    NoQuietSignal {
        /// The thread.
        thread: HostPid,
    },
    /// A single call with its buffers exceeds the data area.
    #[error("a call with {len} bytes of data does not fit into the data area")]
    TooLarge {
        /// Bytes it needs.
        len: usize,
    },
    /// It stopped for something that has no place in a batch.
    #[error("thread {thread} stopped with {event:?} in the middle of a batch")]
    Unexpected {
        /// The thread.
        thread: HostPid,
        /// What came.
        event: Event,
    },
}
