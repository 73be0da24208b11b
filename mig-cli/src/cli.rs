//! The command line: one clap tree for parsing, help and completions.

use clap::{Parser, Subcommand};

use crate::commands::lab::LabArgs;

/// Programs that move between machines while they run
#[derive(Debug, Parser)]
#[command(name = "mig", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `mig` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lab(LabArgs),
}
