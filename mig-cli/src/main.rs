//! `mig`: the command line of mig. It knows words and colours, and no processes: those are `migd`'s.

#![deny(unsafe_code)]

mod cli;
mod commands;
mod lab;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let result = match cli::Cli::parse().command {
        cli::Command::Lab(args) => commands::lab::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}
