//! `cargo bench -p mig-benches`: how long a program stands still while it is
//! moved, beside CRIU, and what `mig exec` costs. Run as root.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mig_benches::criu::{self, Criu};
use mig_benches::figures::{Figures, Row};
use mig_benches::machine::Machine;
use mig_benches::shape::{self, SHAPES, Shape};
use mig_benches::{moves, start};
use mig_tests::lab::Lab;

/// How often a program is started by `mig exec`.
const STARTS: usize = 40;

/// How long a program stands still while it is moved, beside CRIU, and what `mig exec` costs.
#[derive(Debug, Parser)]
#[command(name = "downtime")]
struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only these shapes; `start` is `mig exec`
    #[arg(long, value_name = "NAME")]
    shape: Vec<String>,
    /// How often each shape is moved
    #[arg(long, value_name = "COUNT")]
    moves: Option<usize>,
    /// Leave the peer out
    #[arg(long)]
    alone: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    // In a node or a mount namespace of a run that is going on.
    let inner: Vec<String> = std::env::args().skip(1).collect();
    match inner.as_slice() {
        [word, count] if word == start::INSIDE => return start::inside(count.parse()?),
        [word, count, command, argv @ ..] if word == criu::INSIDE => {
            return criu::inside(count.parse()?, Path::new(command), argv);
        }
        _ => (),
    }
    let arguments = Arguments::parse();
    build()?;
    let figures = measure(&arguments)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{figures}");
    }
    Ok(())
}

/// The programs that are measured: cargo builds a bench without them.
fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "-p",
            "mig-cli",
            "-p",
            "migd",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "mig and migd cannot be built");
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Figures> {
    let wanted =
        |name: &str| arguments.shape.is_empty() || arguments.shape.iter().any(|it| it == name);
    let machine = Machine::here()?;
    let peer = if arguments.alone {
        Err(anyhow::anyhow!("left out"))
    } else {
        Criu::find()
    };
    let folder = tempfile::Builder::new()
        .prefix("mig-downtime")
        .tempdir_in("/var/tmp")?;
    let program = shape::compile(folder.path())?;
    let lab = Lab::up(2);
    let mut rows = Vec::new();
    for shape in SHAPES.iter().filter(|shape| wanted(shape.name)) {
        eprintln!("{} ...", shape.title);
        let count = arguments.moves.unwrap_or(shape.moves);
        rows.push(row(&lab, shape, &program, count, peer.as_ref().ok())?);
    }
    let start = if wanted("start") {
        eprintln!("mig exec ...");
        Some(start::measure(&lab, STARTS)?)
    } else {
        None
    };
    Ok(Figures {
        machine,
        criu: match peer {
            Ok(criu) => criu.version,
            Err(error) => format!("none: {error:#}"),
        },
        shapes: rows,
        start,
    })
}

fn row(lab: &Lab, shape: &Shape, program: &Path, count: usize, peer: Option<&Criu>) -> Result<Row> {
    let mig = moves::measure(lab, shape, program, count)?;
    let criu = peer
        .map(|peer| peer.measure(program, shape.arguments, count))
        .transpose()?;
    Ok(Row {
        shape: shape.name,
        title: shape.title,
        mig,
        criu,
    })
}
