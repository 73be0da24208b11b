//! `mig lab`: a cluster on one machine, for trying mig and for testing it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::lab::{
    Lab, LabName, NodeId, control, cut, down,
    enter::{self, Entry},
    keeper, node, probe, status, up,
};
use crate::ui::{self, table::Table};

/// A cluster of nodes on this one machine
///
/// Every node has its own files (what one writes, the others do not see), network, pids, host name
/// and migd; /shared is one folder for all. Needs root. Nothing of it is left after `down`.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// Which lab, when there are several
    #[arg(long, global = true, env = "MIG_LAB", default_value = "lab")]
    name: LabName,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Make a lab of N nodes, n1 to nN
    Up {
        /// How many nodes
        #[arg(value_name = "N")]
        nodes: u8,
        #[command(flatten)]
        options: up::Options,
    },
    /// Run a command in a node, or a shell, as ssh would
    Shell(Entry),
    /// Show the nodes
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Lose every packet between two nodes
    Cut {
        /// One node
        a: NodeId,
        /// The other
        b: NodeId,
    },
    /// Mend all cuts
    Heal,
    /// Kill, start or look at the migd of a node
    Migd {
        /// The node, for example n1
        node: NodeId,
        /// What to do with it
        order: control::Order,
    },
    /// Remove the lab and everything in it
    Down,
    #[command(hide = true)]
    InternalKeeper,
    #[command(hide = true)]
    InternalNode { node: NodeId },
    #[command(hide = true)]
    InternalEnter(Entry),
    #[command(hide = true)]
    InternalProbe,
}

/// Runs `mig lab`.
///
/// The process must have one thread: it enters namespaces.
pub(crate) fn run(args: &LabArgs) -> Result<ExitCode> {
    let lab = Lab::new(args.name.clone());
    match &args.command {
        LabCommand::Up { nodes, options } => bring_up(&lab, *nodes, options)?,
        LabCommand::Shell(entry) => return enter::run(&lab, entry),
        LabCommand::Status { json } => print_status(&status::of(&lab)?, *json)?,
        LabCommand::Cut { a, b } => cut::cut(&lab, *a, *b)?,
        LabCommand::Heal => cut::heal(&lab)?,
        LabCommand::Migd { node, order } => {
            let answer = control::order(&lab, *node, *order)?;
            if *order == control::Order::Start {
                up::await_migd(&lab, *node)?;
            }
            match answer.migd {
                Some(pid) => eprintln!("migd of {node} runs, pid {pid}"),
                None => eprintln!("migd of {node} does not run"),
            }
        }
        LabCommand::Down => match down::run(&lab)? {
            true => eprintln!("lab {} is gone", lab.name),
            false => eprintln!("there is no lab {}", lab.name),
        },
        LabCommand::InternalKeeper => keeper::run(&lab)?,
        LabCommand::InternalNode { node } => node::run(&lab, *node)?,
        LabCommand::InternalEnter(entry) => return enter::become_command(&lab, entry),
        LabCommand::InternalProbe => probe::child()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn bring_up(lab: &Lab, nodes: u8, options: &up::Options) -> Result<()> {
    let start = std::time::Instant::now();
    up::run(lab, nodes, options)?;
    let option = match lab.name.to_string().as_str() {
        "lab" => String::new(),
        name => format!(" --name {name}"),
    };
    eprintln!(
        "lab {} is up: n1 to n{nodes}, in {:.1} s",
        lab.name,
        start.elapsed().as_secs_f64()
    );
    eprintln!("  mig lab{option} shell n1    a shell on n1");
    eprintln!("  mig lab{option} down        remove it");
    Ok(())
}

fn print_status(status: &status::Status, json: bool) -> Result<()> {
    if json {
        return ui::json(status);
    }
    if !status.up {
        eprintln!(
            "lab {} is not whole: its keeper is dead; remedy: mig lab down",
            status.name
        );
    }
    let header = ["NODE", "ADDRESS", "PID", "CPU", "LOAD", "PROCESSES", "MIGD"];
    let mut table = Table::new(header);
    let dash = || "-".to_owned();
    for node in &status.nodes {
        let migd = match (node.migd_pid, node.migd) {
            (Some(pid), true) => format!("up ({pid})"),
            (Some(pid), false) => format!("silent ({pid})"),
            (None, _) => "down".to_owned(),
        };
        table.row([
            node.name.to_string(),
            node.address.to_string(),
            node.pid.map_or_else(dash, |pid| pid.to_string()),
            node.cpu.map_or_else(dash, |cpu| cpu.to_string()),
            format!("{:.2}", node.load),
            node.processes.to_string(),
            migd,
        ]);
    }
    ui::line(&table.render())?;
    for (one, other) in &status.cuts {
        ui::line(&format!("cut: {one} and {other} do not hear each other"))?;
    }
    Ok(())
}
