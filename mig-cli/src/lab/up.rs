//! Bringing a lab up.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use libmig::api::{Client, NodeInfo, NodeState, Reply, Request, local};

use super::{
    Lab, MAX_NODES, NodeId, cgroup, control,
    control::Order,
    down, identity,
    journal::{Inits, Journal, Lock},
    keeper::KEEP,
    probe,
    process::ProcessId,
};

/// How long all migd together may take to answer.
const READY: Duration = Duration::from_secs(30);
/// How much of a log is shown when something failed.
const LOG_TAIL: usize = 2000;

/// How the nodes of a lab are to be.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Let jobs stay where they are: `balance = false` in every migd
    #[arg(long)]
    no_balance: bool,
    /// Do not start migd (`mig lab migd NODE start` does)
    #[arg(long)]
    bare: bool,
}

/// Makes a lab of `count` nodes and returns when every migd answers and they are connected.
pub(crate) fn run(lab: &Lab, count: u8, options: &Options) -> Result<()> {
    if !(1..=MAX_NODES).contains(&count) {
        bail!("a lab has 1 to {MAX_NODES} nodes");
    }
    let (mig, migd) = find_binaries()?;
    probe::require()?;
    let lock = Lock::create(lab)?;
    if let Some(old) = Journal::read(lab)? {
        if old.is_alive() && old.ready {
            bail!(
                "lab {} is up already, with {} nodes; remedy: `mig lab --name {} down`, or give the new one another --name",
                lab.name,
                old.nodes,
                lab.name
            );
        }
        // Left by an `up` that was killed, or by a keeper that was.
        down::clear(lab, &lock)?;
        drop(lock);
        return run(lab, count, options);
    }
    let mut journal = Journal::new(count, cgroup::path_for(&lab.name)?, mig, migd);
    journal.bare = options.bare;
    build(lab, journal, options, &lock).map_err(|error| {
        let logs = log_tails(lab, count);
        let left = match down::clear(lab, &lock) {
            Ok(()) => String::new(),
            Err(left) => format!(", and could not be removed: {left:#}"),
        };
        error.context(format!("lab {} does not come up{left}{logs}", lab.name))
    })
}

fn build(lab: &Lab, mut journal: Journal, options: &Options, lock: &Lock) -> Result<()> {
    journal.write(lab)?;
    let inode = cgroup::create(&journal.cgroup)?;
    journal.cgroup_inode = Some(inode);
    journal.write(lab)?;
    let nodes: Vec<_> = journal.nodes().collect();
    cgroup::create(&journal.cgroup.join("keeper"))?;
    for &node in &nodes {
        cgroup::create(&journal.node_cgroup(node))?;
    }
    identity::write(lab, &nodes, !options.no_balance)?;

    let mut keeper = start_keeper(lab, lock)?;
    let pid = i32::try_from(keeper.id()).context("a pid that is none")?;
    journal.keeper = ProcessId::of(pid);
    journal.write(lab)?;
    await_nodes(lab, &journal, &mut keeper)?;
    journal.ready = true;
    journal.write(lab)?;
    let mut word = keeper.stdin.take().context("the keeper has no stdin")?;
    word.write_all(&[KEEP]).context("tell the keeper to stay")
}

fn start_keeper(lab: &Lab, lock: &Lock) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(lab.keeper_log());
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["lab", "--name", &lab.name.to_string(), "internal-keeper"])
        .current_dir("/");
    command.stdin(Stdio::piped());
    command.stdout(lock.share()?);
    command.stderr(log.context("open the keeper's log")?);
    command.spawn().context("start the keeper")
}

/// Waits until the migd of every node answers and is connected to all others.
fn await_nodes(lab: &Lab, journal: &Journal, keeper: &mut Child) -> Result<()> {
    let deadline = Instant::now() + READY;
    let mut waiting: Vec<_> = journal.nodes().collect();
    let connected = |inits: &Inits, node| {
        inits
            .of(node)
            .is_some_and(|init| is_connected(init, journal.nodes))
    };
    while !waiting.is_empty() {
        if let Some(status) = keeper.try_wait().context("watch the keeper")? {
            bail!("the keeper ended: {status}");
        }
        let inits = Inits::read(lab)?;
        let mut still = Vec::new();
        for node in waiting {
            match readiness(lab, &inits, node, journal.bare) {
                Readiness::Answers if journal.bare || connected(&inits, node) => {}
                Readiness::Answers | Readiness::NotYet => still.push(node),
                Readiness::MigdEnded => bail!("migd of {node} ended"),
            }
        }
        waiting = still;
        if Instant::now() > deadline {
            let names: Vec<_> = waiting.iter().map(NodeId::to_string).collect();
            bail!(
                "migd of {} does not answer within {READY:?}",
                names.join(", ")
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    NotYet,
    MigdEnded,
    Answers,
}

fn readiness(lab: &Lab, inits: &Inits, node: NodeId, bare: bool) -> Readiness {
    let Some(init) = inits.of(node) else {
        return Readiness::NotYet;
    };
    match control::order(lab, node, Order::Status) {
        Ok(_) if bare => Readiness::Answers,
        Ok(answer) if answer.migd.is_none() => Readiness::MigdEnded,
        Ok(_) if migd_answers(init) => Readiness::Answers,
        // The init is still making the node.
        _ => Readiness::NotYet,
    }
}

/// What migd of the node with that init says about the cluster's nodes; None while it does not answer.
fn ask_nodes(init: ProcessId) -> Option<Vec<NodeInfo>> {
    let socket = format!("/proc/{}/root{}", init.pid, local::SOCKET);
    let mut client = Client::connect(Path::new(&socket)).ok()?;
    match client.ask(&Request::Nodes {}, |_| {}) {
        Ok(Reply::Nodes(nodes)) => Some(nodes),
        _ => None,
    }
}

/// Whether migd of the node with that init answers.
pub(crate) fn migd_answers(init: ProcessId) -> bool {
    ask_nodes(init).is_some()
}

/// Whether migd of the node with that init is connected to all others.
fn is_connected(init: ProcessId, nodes: u8) -> bool {
    let heard = ask_nodes(init).unwrap_or_default();
    let up = heard
        .iter()
        .filter(|node| node.state != NodeState::Down)
        .count();
    up == usize::from(nodes)
}

/// This very `mig`, and the `migd` that was built with it.
fn find_binaries() -> Result<(PathBuf, PathBuf)> {
    let mig = std::env::current_exe().context("find this program's file")?;
    let folder = mig.parent().unwrap_or(Path::new("/"));
    let beside = folder.join("migd");
    let installed = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join("migd"))
            .find(|file| file.is_file())
    });
    let migd = if beside.is_file() {
        Some(beside)
    } else {
        installed
    };
    let migd = migd.with_context(|| {
        format!(
            "no migd beside {} or in PATH; remedy: cargo build --workspace",
            mig.display()
        )
    })?;
    Ok((mig, migd))
}

/// Waits until the migd of a node, which has been started, answers.
pub(crate) fn await_migd(lab: &Lab, node: NodeId) -> Result<()> {
    let inits = Inits::read(lab)?;
    let deadline = Instant::now() + READY;
    loop {
        match readiness(lab, &inits, node, false) {
            Readiness::Answers => return Ok(()),
            Readiness::NotYet if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Readiness::NotYet => bail!("migd of {node} does not answer within {READY:?}"),
            Readiness::MigdEnded => {
                bail!("migd of {node} ended; see {}", lab.node_log(node).display())
            }
        }
    }
}

/// The ends of all logs, for an error message.
pub(crate) fn log_tails(lab: &Lab, count: u8) -> String {
    let nodes = NodeId::all(count).map(|node| (node.to_string(), lab.node_log(node)));
    let keeper = ("the keeper".to_owned(), lab.keeper_log());
    let mut text = String::new();
    for (who, path) in std::iter::once(keeper).chain(nodes) {
        let log = fs::read(path).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned();
        if !tail.trim().is_empty() {
            text.push_str(&format!("\n--- {who} says:\n{}", tail.trim_end()));
        }
    }
    text
}
