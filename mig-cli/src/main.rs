//! `mig`: the command line of mig. It knows words and colours, and no processes: those are `migd`'s.

#![deny(unsafe_code)]

mod cli;
mod commands;
mod demo;
mod exit;
mod lab;
mod terminal;
mod ui;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use cli::Command;

fn main() -> ExitCode {
    match run(&cli::Cli::parse().command) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            ui::error::print(&error);
            ExitCode::from(exit::code(&error))
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let code = match command {
        Command::Exec(args) => commands::exec::run(args)?,
        Command::Adopted(args) => commands::adopted::run(args)?,
        Command::Attach(args) => commands::attach::run(args)?,
        Command::Move(args) => commands::r#move::run(args)?,
        Command::Checkpoint(args) => commands::checkpoint::run(args)?,
        Command::Restore(args) => commands::restore::run(args)?,
        Command::Inspect(args) => commands::inspect::run(args)?,
        Command::Ps(args) => commands::ps::run(args)?,
        Command::Nodes(args) => commands::nodes::run(args)?,
        Command::Why(args) => commands::why::run(args)?,
        Command::Kill(args) => commands::kill::run(args)?,
        Command::Wait(args) => commands::wait::run(args)?,
        Command::Doctor(args) => commands::doctor::run(args)?,
        Command::Lab(args) => return commands::lab::run(args),
        Command::Demo(args) => return commands::demo::run(args),
    };
    Ok(ExitCode::from(code))
}

/// `mig ps | head` is no error. Only what was written to stdout counts, and
/// not a daemon's socket that closed.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let direct = error.downcast_ref::<io::Error>();
    direct.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
