//! `mig nodes`: the nodes of the cluster.

use anyhow::Result;
use clap::Args;
use libmig::api::{NodeInfo, NodeState, Reply, Request};

use super::{Daemon, unexpected};
use crate::ui::table::Table;
use crate::ui::{self, human};

/// List nodes
///
/// As this node's daemon sees them. LOAD is runnable work per core.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Lists them.
pub(crate) fn run(args: &NodesArgs) -> Result<u8> {
    let nodes = match args.daemon.connect()?.ask(&Request::Nodes {}, |_| {})? {
        Reply::Nodes(nodes) => nodes,
        other => return unexpected(&other),
    };
    if args.json {
        ui::json(&nodes)?;
    } else {
        ui::line(&table(&nodes))?;
    }
    Ok(crate::exit::OK)
}

fn table(nodes: &[NodeInfo]) -> String {
    let mut table = Table::new([
        "NODE", "ADDRESS", "STATE", "LOAD", "CORES", "MEMORY", "FREE", "JOBS", "WHY",
    ]);
    let unknown = || "-".to_owned();
    for node in nodes {
        let state = match node.state {
            NodeState::Local => "here",
            NodeState::Up => "up",
            NodeState::Down => "down",
        };
        table.row([
            node.node.to_string(),
            node.address.clone(),
            state.to_owned(),
            node.load.map_or_else(unknown, |load| format!("{load:.2}")),
            node.cores.map_or_else(unknown, |cores| cores.to_string()),
            node.memory_bytes.map_or_else(unknown, human::bytes),
            node.memory_available_bytes
                .map_or_else(unknown, human::bytes),
            node.jobs.map_or_else(unknown, |jobs| jobs.to_string()),
            node.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}
