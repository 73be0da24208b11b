//! `mig kill`: a signal for jobs, wherever they are.

use anyhow::{Result, bail};
use clap::Args;
use libmig::api::{Reply, Request, Target};
use nix::sys::signal::Signal;

use super::{Daemon, unexpected};
use crate::ui;

/// Send a signal to jobs
///
/// The main program of each job gets it, wherever the job is.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The signal: TERM, SIGTERM or 15
    #[arg(long, short, default_value = "TERM", value_parser = signal)]
    signal: i32,
    /// Jobs by ID or name
    #[arg(required = true)]
    jobs: Vec<Target>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Sends it to all; the exit code is that of the first that failed.
pub(crate) fn run(args: &KillArgs) -> Result<u8> {
    let mut client = args.daemon.connect()?;
    let mut killed = Vec::new();
    let mut code = crate::exit::OK;
    for target in &args.jobs {
        let request = Request::Kill {
            target: target.clone(),
            signal: args.signal,
        };
        match client.ask(&request, |_| {}) {
            Ok(Reply::Killed(job)) => killed.push(job),
            Ok(other) => return unexpected(&other),
            Err(error) => {
                let error = anyhow::Error::from(error);
                ui::error::print(&error);
                if code == crate::exit::OK {
                    code = crate::exit::code(&error);
                }
            }
        }
    }
    if args.json {
        ui::json(&serde_json::json!({ "signal": args.signal, "killed": killed }))?;
    }
    Ok(code)
}

/// A signal by name, with or without SIG, or by number.
fn signal(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if !(1..=64).contains(&number) {
            bail!("signals are 1 to 64");
        }
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    match name.parse::<Signal>() {
        Ok(signal) => Ok(signal as i32),
        Err(_) => bail!("no such signal; `kill -l` lists them"),
    }
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_by_name_and_number() {
        for text in ["TERM", "term", "SIGTERM", "15"] {
            assert_eq!(signal(text).unwrap(), 15);
        }
        assert_eq!(signal("64").unwrap(), 64);
        for bad in ["", "0", "65", "-1", "NOPE"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
