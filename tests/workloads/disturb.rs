//! Disturbances that leave a program's state as it was, without any move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mig_tests::workload::Running;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
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
        let thread = Pid::from_raw(task?.tid);
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Ok(()) => seized.push(thread),
            // It has ended meanwhile.
            Err(Errno::ESRCH | Errno::EPERM) => {}
            Err(error) => return Err(error).context("seizing"),
        }
    }
    for &thread in &seized {
        let _ = ptrace::interrupt(thread);
    }
    seized.into_iter().try_for_each(release)
}

/// Takes thread to its interrupt stop and detaches it; signals that come first are passed on.
fn release(thread: Pid) -> Result<()> {
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceEvent(..)) => match ptrace::detach(thread, None) {
                Ok(()) | Err(Errno::ESRCH) => return Ok(()),
                Err(error) => return Err(error).context("detaching"),
            },
            Ok(WaitStatus::Stopped(_, signal)) => ptrace::cont(thread, signal)?,
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => return Err(error).context("waiting for a stop"),
        }
    }
}
