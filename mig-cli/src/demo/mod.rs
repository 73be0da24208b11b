//! What `mig demo` plays: a lab, a program that is moved while it works, jobs that spread by themselves.
//!
//! Invariant: every check mark stands for something that was looked at: where a program runs is read
//! from the cgroups of the nodes, not from what migd says alone. The first thing that is not so ends the
//! demo with an error.
//!
//! Neighbours: `commands::demo` starts this in a process of its own and removes the lab after it;
//! [`crate::lab`] makes the lab; all else goes through the `mig` that people use.

mod balance;
mod journey;
mod node;
mod show;
mod text;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result};

use crate::lab::{Lab, up};
use node::Node;
pub(crate) use show::Stage;

/// The nodes of the lab.
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Plays all acts on a lab of that name, which it leaves to be removed.
pub(crate) fn play(lab: &Lab, stage: &Stage) -> Result<()> {
    let python = find_python()?;
    stage.title(
        "mig demo",
        "three nodes on this machine, and programs that move between them",
    );

    stage.act("A cluster of three nodes");
    let start = Instant::now();
    up::run(lab, 3, &up::Options::default())?;
    let took = start.elapsed().as_secs_f64();
    stage.check("n1, n2 and n3 are up", &format!("{took:.1} s"));
    stage.note(
        "each with its own files, network, processes and migd; /shared is one folder for all",
    );

    journey::play(lab, stage, &python)?;
    balance::play(lab, stage)
}

/// A real interpreter: a wrapper script in PATH would be a process tree of its own.
fn find_python() -> Result<PathBuf> {
    let usual = PathBuf::from("/usr/bin/python3");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).map(|folder| folder.join("python3"));
    std::iter::once(usual)
        .chain(others)
        .find(|file| file.is_file())
        .context("the demo runs a Python 3 program, and there is no python3; remedy: apt-get install python3")
}
