//! The command line: one clap tree for parsing, help and completions.

use clap::{Parser, Subcommand};

use crate::commands::adopted::AdoptedArgs;
use crate::commands::attach::AttachArgs;
use crate::commands::checkpoint::CheckpointArgs;
use crate::commands::demo::DemoArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::exec::ExecArgs;
use crate::commands::inspect::InspectArgs;
use crate::commands::kill::KillArgs;
use crate::commands::lab::LabArgs;
use crate::commands::r#move::MoveArgs;
use crate::commands::nodes::NodesArgs;
use crate::commands::ps::PsArgs;
use crate::commands::restore::RestoreArgs;
use crate::commands::wait::WaitArgs;
use crate::commands::why::WhyArgs;

/// Programs that move between machines while they run
#[derive(Debug, Parser)]
#[command(name = "mig", version, arg_required_else_help = true, after_long_help = crate::exit::help())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `mig` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Exec(ExecArgs),
    Attach(AttachArgs),
    Move(MoveArgs),
    Checkpoint(CheckpointArgs),
    Restore(RestoreArgs),
    Inspect(InspectArgs),
    Ps(PsArgs),
    Nodes(NodesArgs),
    Why(WhyArgs),
    Kill(KillArgs),
    Wait(WaitArgs),
    Doctor(DoctorArgs),
    Lab(LabArgs),
    Demo(DemoArgs),
    #[command(name = "internal-adopted", hide = true)]
    Adopted(AdoptedArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }
}
