//! ptrace(2) with the rules of the game in the types: no request without a
//! [`Stopped`], which is not `Clone`, is bound to the tracer's OS thread, and
//! puts a source thread back as it was when it is dropped.
//!
//! ESRCH from any request on a [`Stopped`] means that the thread died: a
//! tracee leaves its stop only by us or by SIGKILL. It becomes
//! [`PtraceError::Gone`].

mod event;
mod patience;
mod request;
mod seccomp;
mod stopped;

use std::{io, time::Duration, time::Instant};

pub use event::{Event, Waited};
pub use nix::sys::ptrace::Options;
pub use patience::limit_waits;
pub use request::RseqConfiguration;
pub use seccomp::SUSPEND_SECCOMP;
pub use stopped::{SignalState, Stopped, bit, reg};

use super::HostPid;

/// A ptrace request failed.
#[derive(Debug, thiserror::Error)]
pub enum PtraceError {
    /// The thread is dead.
    #[error("thread {thread} is gone")]
    Gone {
        /// The thread.
        thread: HostPid,
    },
    /// Another tracer, or no right to trace.
    #[error("cannot {request} thread {thread}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// The thread.
        thread: HostPid,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It did not stop in time: it sleeps uninterruptibly (D state).
    #[error("thread {thread} does not stop, it is in an uninterruptible sleep")]
    Stuck {
        /// The thread.
        thread: HostPid,
    },
    /// It did not come to its next stop in time.
    #[error("thread {thread} has not stopped within {limit:?} ({state})")]
    Late {
        /// The thread.
        thread: HostPid,
        /// How long it was waited for.
        limit: Duration,
        /// What it did instead.
        state: String,
    },
    /// Registers of a 32-bit task.
    #[error("thread {thread} runs 32-bit code")]
    Compat {
        /// The thread.
        thread: HostPid,
    },
    /// A stop that nothing asked for.
    #[error("thread {thread} stopped with {event:?} where {expected} was due")]
    Unexpected {
        /// The thread.
        thread: HostPid,
        /// What came.
        event: Event,
        /// What was due.
        expected: &'static str,
    },
}

impl PtraceError {
    /// Whether the thread is in no stop of ours any more: nothing can be asked of it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Late { .. })
    }
}

/// Attaches to a thread without stopping it (PTRACE_SEIZE).
///
/// # Errors
/// EPERM when it has a tracer or may not be traced.
pub fn seize(thread: HostPid, options: Options) -> Result<(), PtraceError> {
    nix::sys::ptrace::seize(thread.into(), options)
        .map_err(|errno| request::error("seize", thread, errno))
}

/// Asks a seized thread to stop (PTRACE_INTERRUPT). Interrupt all threads
/// first and wait afterwards: one by one costs 500 us for each.
///
/// # Errors
/// [`PtraceError::Gone`] when it died.
pub fn interrupt(thread: HostPid) -> Result<(), PtraceError> {
    nix::sys::ptrace::interrupt(thread.into())
        .map_err(|errno| request::error("interrupt", thread, errno))
}

/// Waits until a tracee stops or dies, for as long as [`limit_waits`] says.
///
/// # Errors
/// [`PtraceError::Late`] then; ECHILD when it is no tracee of the calling OS thread.
pub fn wait(thread: HostPid) -> Result<Waited, PtraceError> {
    event::waited(thread, patience::wait_status(thread)?)
}

/// Takes note of the death of a tracee that was killed in its stop. Until then
/// it is a zombie that its own parent cannot wait for.
pub fn reap(thread: HostPid) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let deadline = Instant::now() + PATIENCE;
    // Any error means that it is no tracee of ours any more.
    while let Ok(Waited::Stopped(stopped, _)) = wait_until(thread, deadline) {
        // Its last stop, on the way out (PTRACE_EVENT_EXIT), or one before.
        drop(stopped.detach());
    }
}

/// As [`wait`], but gives up at `deadline`; the request to stop stays pending.
///
/// # Errors
/// [`PtraceError::Stuck`] at the deadline.
pub fn wait_until(thread: HostPid, deadline: Instant) -> Result<Waited, PtraceError> {
    let status = event::waitpid(thread, libc::WNOHANG);
    let mut status = status.map_err(|source| event::wait_failed(thread, source))?;
    let left = deadline.saturating_duration_since(Instant::now());
    if status.is_none() && !left.is_zero() {
        status = patience::wait_for(thread, left)?;
    }
    match status {
        Some(status) => event::waited(thread, status),
        None => Err(PtraceError::Stuck { thread }),
    }
}
