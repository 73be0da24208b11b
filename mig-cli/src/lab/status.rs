//! What a lab is doing.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Lab, NodeId, cgroup, control,
    control::Order,
    journal::{Inits, Journal},
    node, up,
};

/// How long the load is watched.
const WINDOW: Duration = Duration::from_millis(200);

/// The state of a lab; the shape of `mig lab status --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    /// Whether the lab's keeper lives.
    pub(crate) up: bool,
    /// The keeper, as the machine numbers it.
    pub(crate) keeper: Option<i32>,
    pub(crate) nodes: Vec<NodeStatus>,
    /// Pairs of nodes that do not hear each other.
    pub(crate) cuts: Vec<(NodeId, NodeId)>,
}

/// The state of a node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatus {
    pub(crate) name: NodeId,
    pub(crate) address: std::net::Ipv4Addr,
    /// The node's init, as the machine numbers it; null when it is dead.
    pub(crate) pid: Option<i32>,
    /// migd, as the node numbers it; null when it does not run.
    pub(crate) migd_pid: Option<i32>,
    /// Whether migd answers.
    pub(crate) migd: bool,
    /// The CPU the node is pinned to; null when it may use all.
    pub(crate) cpu: Option<usize>,
    /// CPUs that the node's processes kept busy just now.
    pub(crate) load: f64,
    pub(crate) processes: usize,
}

/// Looks at a lab.
pub(crate) fn of(lab: &Lab) -> Result<Status> {
    let journal = Journal::read(lab)?;
    let journal =
        journal.with_context(|| format!("there is no lab {}; remedy: mig lab up 3", lab.name))?;
    let inits = Inits::read(lab)?;
    let cpus = node::allowed_cpus()?;
    let used = |node| cgroup::cpu_time(&journal.node_cgroup(node)).unwrap_or_default();
    let before: Vec<_> = journal.nodes().map(used).collect();
    std::thread::sleep(WINDOW);
    let nodes = journal.nodes().zip(before).map(|(name, before)| {
        let init = inits.of(name).filter(|init| init.is_alive());
        let answer = init.and_then(|_| control::order(lab, name, Order::Status).ok());
        NodeStatus {
            name,
            address: name.address(),
            pid: init.map(|init| init.pid),
            migd_pid: answer.and_then(|answer| answer.migd),
            migd: init.is_some_and(up::migd_answers),
            cpu: name.cpu(&cpus),
            load: used(name).saturating_sub(before).as_secs_f64() / WINDOW.as_secs_f64(),
            processes: cgroup::count(&journal.node_cgroup(name)),
        }
    });
    Ok(Status {
        name: lab.name.to_string(),
        up: journal.is_alive(),
        keeper: journal.keeper.map(|keeper| keeper.pid),
        nodes: nodes.collect(),
        cuts: journal.cuts.clone(),
    })
}
