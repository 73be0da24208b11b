//! The keeper: the process that holds what a lab's nodes share, their bridge and their tmpfs.
//!
//! Invariant: no node outlives its keeper (each node init watches a pipe from it), and no keeper
//! outlives an `up` that was killed before every migd answered (it watches a pipe from that).

use std::{
    fs::OpenOptions,
    io::{Read, stdin},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

use super::{
    Lab, NodeId, cgroup,
    journal::{Inits, Journal},
    net,
    process::ProcessId,
    root,
};

/// What `up` writes to the keeper's stdin when the lab shall stay.
pub(crate) const KEEP: u8 = b'k';

/// The keeper's life. Its stdin is a pipe from `up`, its stdout holds the lab's lock.
pub(crate) fn run(lab: &Lab) -> Result<()> {
    let journal = Journal::read(lab)?.context("the lab has no journal")?;
    cgroup::join(&journal.cgroup.join("keeper"))?;
    // Its stdout was the lab's lock: now that `down` finds this process in the cgroup, it may come.
    nix::unistd::dup2_stdout(std::io::stderr()).context("let go of the lab's lock")?;
    rustix::process::setsid().context("leave the terminal's session")?;
    let signals = block_signals()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("make a mount and a network namespace")?;
    root::mount_storage(lab)?;
    net::make_bridge()?;

    let inits = start_inits(lab, &journal)?;
    await_word(&signals)?;
    while reap()? != Children::None {
        wait(&signals, None)?;
    }
    drop(inits);
    Ok(())
}

/// Starts every node's init, each as pid 1 of a pid namespace of its own.
fn start_inits(lab: &Lab, journal: &Journal) -> Result<Vec<Child>> {
    let own = std::fs::File::open("/proc/self/ns/pid").context("open the pid namespace")?;
    let mut inits = Vec::new();
    let mut record = Inits::default();
    for node in journal.nodes() {
        unshare(CloneFlags::CLONE_NEWPID).context("make a pid namespace")?;
        let child = start_init(lab, node).with_context(|| format!("start the init of {node}"))?;
        // A second unshare is refused as long as children go to another namespace than one's own.
        setns(&own, CloneFlags::CLONE_NEWPID).context("return to the pid namespace")?;
        let pid = i32::try_from(child.id()).context("a pid that is none")?;
        let init = ProcessId::of(pid).with_context(|| format!("the init of {node} is gone"))?;
        record.record(lab, node, init)?;
        inits.push(child);
    }
    Ok(inits)
}

fn start_init(lab: &Lab, node: NodeId) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(lab.node_log(node))?;
    let mut command = Command::new("/proc/self/exe");
    command.args([
        "lab",
        "--name",
        &lab.name.to_string(),
        "internal-node",
        &node.to_string(),
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command.spawn()?)
}

/// Waits for `up` to say that the lab shall stay.
fn await_word(signals: &SignalFd) -> Result<()> {
    loop {
        let word = wait(signals, Some(stdin().as_fd()))?;
        if reap()? == Children::OneDied {
            bail!("a node's init ended; its log says why");
        }
        if word {
            let mut byte = [0];
            return match stdin().read(&mut byte).context("read from `mig lab up`")? {
                1 if byte == [KEEP] => Ok(()),
                _ => bail!("`mig lab up` ended before the lab was ready"),
            };
        }
    }
}

/// Waits for a signal or for input; says whether there is input.
fn wait(signals: &SignalFd, input: Option<std::os::fd::BorrowedFd<'_>>) -> Result<bool> {
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    fds.extend(input.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error).context("wait for something to happen"),
    }
    let input = fds.get(1).and_then(PollFd::any).unwrap_or(false);
    while signals.read_signal().context("read a signal")?.is_some() {}
    Ok(input)
}

#[derive(Debug, PartialEq, Eq)]
enum Children {
    AllAlive,
    OneDied,
    None,
}

fn reap() -> Result<Children> {
    let mut found = Children::AllAlive;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(found),
            Ok(_) => found = Children::OneDied,
            Err(nix::Error::ECHILD) if found == Children::OneDied => return Ok(found),
            Err(nix::Error::ECHILD) => return Ok(Children::None),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("wait for the nodes' inits"),
        }
    }
}

fn block_signals() -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().context("block SIGCHLD")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("make a signalfd")
}
