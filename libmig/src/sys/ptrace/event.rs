//! Why a tracee stopped: the wait status word, decoded.

use std::io;

use super::{HostPid, PtraceError, Stopped, request};

/// The reason of a ptrace stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// PTRACE_EVENT_STOP: after an interrupt, or a new task that was attached by itself.
    Stop,
    /// Job control: PTRACE_EVENT_STOP while the process is stopped by this signal.
    GroupStop(i32),
    /// About to be delivered; suppressed by continuing with 0.
    Signal(i32),
    /// Entry or exit of a system call (PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// A child process, by fork or clone; attached, and in a stop of its own.
    Fork(HostPid),
    /// A child process by vfork.
    Vfork(HostPid),
    /// A new thread, or a clone with another exit signal than SIGCHLD.
    Clone(HostPid),
    /// The vfork child has let go of the address space.
    VforkDone,
    /// execve(2) is done.
    Exec,
    /// About to exit.
    Exit,
    /// Another PTRACE_EVENT_*.
    Other(i32),
}

/// Outcome of a wait.
#[derive(Debug)]
pub enum Waited {
    /// In a ptrace stop.
    Stopped(Stopped, Event),
    /// Dead; the wait status word as in waitpid(2).
    Exited(i32),
}

/// What a status word says.
pub(super) fn waited(thread: HostPid, status: i32) -> Result<Waited, PtraceError> {
    if !libc::WIFSTOPPED(status) {
        return Ok(Waited::Exited(status));
    }
    let event = decode(thread, status)?;
    Ok(Waited::Stopped(Stopped::new(thread), event))
}

/// waitpid(2) with `__WALL`: the status word of a state change; `None` when
/// WNOHANG was asked and nothing is there.
pub(super) fn waitpid(thread: HostPid, flags: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // nix's waitpid turns a stop by a real-time signal into EINVAL.
    // SAFETY: `status` is a valid place for the result of this call.
    let pid = unsafe { libc::waitpid(thread.raw(), &raw mut status, flags | libc::__WALL) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(status)),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn wait_failed(thread: HostPid, source: io::Error) -> PtraceError {
    PtraceError::Refused {
        request: "wait for",
        thread,
        source,
    }
}

/// Decodes the status word of a stop.
pub(super) fn decode(thread: HostPid, status: i32) -> Result<Event, PtraceError> {
    let signal = (status >> 8) & 0xff;
    Ok(match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Event::Syscall,
        0 => Event::Signal(signal),
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Event::Stop,
        libc::PTRACE_EVENT_STOP => Event::GroupStop(signal),
        libc::PTRACE_EVENT_FORK => Event::Fork(request::event_child(thread)?),
        libc::PTRACE_EVENT_VFORK => Event::Vfork(request::event_child(thread)?),
        libc::PTRACE_EVENT_CLONE => Event::Clone(request::event_child(thread)?),
        libc::PTRACE_EVENT_VFORK_DONE => Event::VforkDone,
        libc::PTRACE_EVENT_EXEC => Event::Exec,
        libc::PTRACE_EVENT_EXIT => Event::Exit,
        other => Event::Other(other),
    })
}
