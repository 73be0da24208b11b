//! What is moved.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A kind of program.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// In tables, and for `--shape`.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// For the program.
    pub arguments: &'static [&'static str],
    /// How often it is moved, unless it is said otherwise.
    pub moves: usize,
}

/// All of them, in the order of the tables.
pub const SHAPES: &[Shape] = &[
    shape("tiny", "a tiny process", &["tiny"], 20),
    shape("threads", "200 threads", &["threads", "200"], 10),
    shape("tree", "50 processes", &["tree", "50"], 10),
    shape("mappings", "4,000 mappings", &["mappings", "4000"], 10),
    shape("memory", "1 GiB of memory", &["memory", "1024"], 4),
];

const fn shape(
    name: &'static str,
    title: &'static str,
    arguments: &'static [&'static str],
    moves: usize,
) -> Shape {
    Shape {
        name,
        title,
        arguments,
        moves,
    }
}

/// Compiles `workloads/downtime.c` into `folder`.
///
/// # Errors
/// No gcc, or it does not compile.
pub fn compile(folder: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/downtime.c");
    let program = folder.join("downtime");
    let status = Command::new("gcc")
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .args([&program, &source])
        .status()
        .context("starting gcc")?;
    ensure!(status.success(), "gcc {}: {status}", source.display());
    Ok(program)
}
