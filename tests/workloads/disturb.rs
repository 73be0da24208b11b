//! Disturbances that leave a program's state as it was, without any move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libmig::sys::HostPid;
use libmig::sys::ptrace::{self, Event, PtraceError, Waited};
use mig_tests::workload::Running;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn pid(running: &Running) -> Result<Pid> {
    Ok(Pid::from_raw(
        running.pid().try_into().context("a pid fits")?,
    ))
}

/// SIGSTOP, until the kernel says that it has stopped, then SIGCONT.
pub(crate) fn stop_and_continue(running: &Running) -> Result<()> {
    let pid = pid(running)?;
    kill(pid, Signal::SIGSTOP)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while state(pid)? != 'T' {
        ensure!(Instant::now() < deadline, "it did not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(pid, Signal::SIGCONT)?;
    Ok(())
}

fn state(pid: Pid) -> Result<char> {
    Ok(procfs::process::Process::new(pid.as_raw())?.stat()?.state)
}

/// Seizes every thread of its first process, stops them all, and lets go.
pub(crate) fn interrupt_by_ptrace(running: &Running) -> Result<()> {
    let process = procfs::process::Process::new(pid(running)?.as_raw())?;
    let mut seized = Vec::new();
    for task in process.tasks()? {
        let thread = HostPid::new(task?.tid);
        // It may have ended meanwhile.
        if ptrace::seize(thread, ptrace::Options::empty()).is_ok() {
            seized.push(thread);
        }
    }
    for &thread in &seized {
        let _ = ptrace::interrupt(thread);
    }
    seized.into_iter().try_for_each(release)
}

/// Takes a thread to its interrupt stop and detaches it; signals that come first are passed on.
fn release(thread: HostPid) -> Result<()> {
    loop {
        match ptrace::wait(thread) {
            Ok(Waited::Stopped(stopped, Event::Signal(signal))) => {
                let _ = stopped.cont(signal);
            }
            Ok(Waited::Stopped(stopped, _)) => {
                return match stopped.detach() {
                    Ok(()) | Err(PtraceError::Gone { .. }) => Ok(()),
                    Err(error) => Err(error).context("detaching"),
                };
            }
            _ => return Ok(()),
        }
    }
}
