//! A node's init: pid 1 of the node. It makes the node's namespaces, then reaps orphans, runs migd and
//! answers the lab's commands.
//!
//! Invariant: orphans are reaped at once, whoever's children they were: the capsules of a migd that
//! was killed become this process's children. When the keeper is gone, so is the node: pid 1 ends,
//! and the kernel ends all others with it.

use std::{
    io::stdin,
    os::{
        fd::AsFd,
        unix::{net::UnixListener, process::ExitStatusExt},
    },
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, sethostname},
};

use super::{Lab, NodeId, cgroup, control, journal::Journal, net, root};

/// The life of a node. The process is pid 1 already, in the keeper's other namespaces; its stdin is
/// a pipe from the keeper.
pub(crate) fn run(lab: &Lab, id: NodeId) -> Result<()> {
    let journal = Journal::read(lab)?.context("the lab has no journal")?;
    cgroup::join(&journal.node_cgroup(id))?;
    pin(id)?;
    net::make_veth(id, || {
        unshare(
            CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWCGROUP,
        )
        .context("make the node's namespaces")
    })?;
    net::configure(id)?;
    sethostname(id.to_string()).context("set the host name")?;
    // Reached from the machine by its path there, which this process is about to lose.
    let listener = UnixListener::bind(lab.node_socket(id)).context("open the control socket")?;
    listener
        .set_nonblocking(true)
        .context("prepare the control socket")?;
    root::enter(lab, &journal, id)?;

    child_signal().thread_block().context("block SIGCHLD")?;
    let signals = SignalFd::with_flags(
        &child_signal(),
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )
    .context("make a signalfd")?;
    let mut init = Init { migd: None };
    if !journal.bare {
        init.start_migd()?;
    }
    init.serve(&signals, &listener)
}

/// The CPUs that this process may use.
pub(crate) fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("read the CPU mask")?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

/// Pins the process, and all that will come from it, to the node's CPU.
fn pin(id: NodeId) -> Result<()> {
    let Some(cpu) = id.cpu(&allowed_cpus()?) else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(cpu).context("choose a CPU")?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pin the node to CPU {cpu}"))
}

fn child_signal() -> SigSet {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask
}

/// What the init of a node remembers.
pub(crate) struct Init {
    /// migd's pid in the node, while it runs.
    migd: Option<Pid>,
}

impl Init {
    fn serve(&mut self, signals: &SignalFd, listener: &UnixListener) -> Result<()> {
        loop {
            self.reap()?;
            let keeper = stdin();
            let mut fds = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(keeper.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error).context("wait for something to happen"),
            }
            let [_, command, keeper_gone] = fds.map(|fd| fd.any().unwrap_or(false));
            while signals.read_signal().context("read a signal")?.is_some() {}
            if keeper_gone {
                return Ok(());
            }
            if command {
                control::answer(listener, self);
            }
        }
    }

    /// The pid of migd in the node, while it runs.
    pub(crate) fn migd(&self) -> Option<Pid> {
        self.migd
    }

    /// Starts migd unless it runs.
    pub(crate) fn start_migd(&mut self) -> Result<()> {
        if self.migd.is_some() {
            return Ok(());
        }
        let mut command = Command::new("/usr/local/bin/migd");
        command
            .args(["--config", "/etc/mig/migd.toml"])
            // Read by a migd that was built for the tests, and by no other.
            .env("MIG_FAILPOINTS", "/run/mig/failpoints")
            .stdin(Stdio::null())
            .current_dir("/");
        // A signal mask is inherited across exec. What ends meanwhile is found by the next `reap`.
        child_signal().thread_unblock().context("unblock SIGCHLD")?;
        let child = command.spawn().context("start migd");
        child_signal().thread_block().context("block SIGCHLD")?;
        let child = child?;
        let pid = i32::try_from(child.id()).context("a pid that is none")?;
        self.migd = Some(Pid::from_raw(pid));
        Ok(())
    }

    /// Kills migd as a crash would, and returns when it is gone.
    pub(crate) fn kill_migd(&mut self) -> Result<()> {
        let Some(pid) = self.migd else { return Ok(()) };
        kill(pid, Signal::SIGKILL).context("kill migd")?;
        let status = waitpid(pid, None).context("wait for migd")?;
        self.note(status);
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(()),
                Ok(status) => self.note(status),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error).context("reap orphans"),
            }
        }
    }

    fn note(&mut self, status: WaitStatus) {
        if self.migd.is_some() && status.pid() == self.migd {
            self.migd = None;
            let how = match status {
                WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
                WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
                _ => return,
            };
            eprintln!("mig lab: migd ended: {how}");
        }
    }
}
