//! `mig nodes`: this node and its peers as this node sees them.

use libmig::api::{NodeInfo, NodeState};

use crate::daemon::Daemon;
use libmig::balance::Load;

/// Lists them, this node first.
pub(super) async fn list(daemon: &Daemon) -> Vec<NodeInfo> {
    let own = info(
        daemon.node().clone(),
        daemon.config.listen.to_string(),
        NodeState::Local,
        None,
        Some(daemon.meters.exported()),
    );
    let mut states = daemon.peers.states();
    let peers = daemon.config.peers.iter().map(|peer| {
        let state = states.remove(&peer.name).unwrap_or_default();
        let up = if state.up {
            NodeState::Up
        } else {
            NodeState::Down
        };
        let load = state.load.filter(|_| state.up).map(|(load, _)| load);
        info(
            peer.name.clone(),
            peer.address.to_string(),
            up,
            state.reason,
            load,
        )
    });
    std::iter::once(own).chain(peers).collect()
}

fn info(
    node: libmig::api::NodeName,
    address: String,
    state: NodeState,
    reason: Option<String>,
    load: Option<Load>,
) -> NodeInfo {
    let load = load.filter(|load| load.cores > 0);
    NodeInfo {
        node,
        address,
        state,
        reason,
        load: load.as_ref().map(|l| l.runnable / f64::from(l.cores)),
        cores: load.as_ref().map(|l| l.cores),
        memory_bytes: load.as_ref().map(|l| l.memory_total),
        memory_available_bytes: load.as_ref().map(|l| l.memory_free),
        jobs: load.as_ref().map(|l| l.jobs),
    }
}
