//! The CPUs of the pool, and jobs that keep to a level of them.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | which level a job gets, and whether it may go from one CPU to another |
//! | `environment` | what tells libraries that they are to keep to a level |
//! | `state` | what a frozen job that does shows of the CPU where it was |

mod environment;
mod state;

use libmig::api::{Code, CpuChoice, CpuLevel, Failure, Obstacle};
use libmig::inspect::cpu::{CpuFeatures, CpuMismatch, level};

use crate::daemon::Daemon;

pub(crate) use environment::confine;
pub(crate) use state::State;

/// The level that `--cpu` means.
///
/// # Errors
/// When a CPU of the pool is below all levels, or this one below the one asked for.
pub(crate) fn chosen(daemon: &Daemon, choice: CpuChoice) -> Result<CpuLevel, Failure> {
    let own = daemon.cpu.level();
    let level = match choice {
        CpuChoice::Level(level) => Some(level),
        CpuChoice::Pool => of_pool(daemon)?,
    };
    match (level, own) {
        (Some(level), Some(own)) if level <= own => Ok(level),
        (Some(level), _) => {
            let said = format!("the CPU of {} is not of level {level}", daemon.node());
            Err(Failure::new(Code::Refused, said).hint("start it with --cpu pool"))
        }
        (None, _) => {
            let said = "a CPU of the pool is below x86-64-v2";
            Err(Failure::new(Code::Refused, said).hint("start it without --cpu"))
        }
    }
}

/// The highest level of all nodes whose CPU is known: those that have been connected.
fn of_pool(daemon: &Daemon) -> Result<Option<CpuLevel>, Failure> {
    let mut lowest = daemon.cpu.level();
    for (node, state) in daemon.peers.states() {
        if state.cpu_features.is_empty() {
            let said = format!("the CPU of node {node} is not known yet");
            return Err(Failure::new(Code::PeerLost, said)
                .hint("name a level (--cpu x86-64-v3), or start migd there"));
        }
        lowest = lowest.min(level::highest(
            state.cpu_features.iter().map(String::as_str),
        ));
    }
    Ok(lowest)
}

/// What keeps a job from going from the CPU `source` to `destination`.
pub(crate) fn mismatches(
    keeps_to: Option<CpuLevel>,
    source: &CpuFeatures,
    destination: &CpuFeatures,
) -> Vec<CpuMismatch> {
    let all = source.missing_at(destination);
    match keeps_to {
        Some(level) if !all.is_empty() => level::missing(level, destination),
        _ => all,
    }
}

/// The same as obstacles, with what would have helped.
pub(crate) fn obstacles(
    daemon: &Daemon,
    keeps_to: Option<CpuLevel>,
    source: &CpuFeatures,
) -> Vec<Obstacle> {
    let common = source.level().min(daemon.cpu.level());
    let remedy = match common {
        Some(level) if keeps_to.is_none_or(|kept| level < kept) => {
            format!("start it with `mig exec --cpu {level}`: it can then move between these nodes")
        }
        _ => "move it to a node with the same kind of CPU".to_owned(),
    };
    mismatches(keeps_to, source, &daemon.cpu)
        .iter()
        .map(|mismatch| Obstacle {
            pid: None,
            object: format!("cpu of {}", daemon.node()),
            reason: mismatch.to_string(),
            remedy: remedy.clone(),
            transient: false,
        })
        .collect()
}
