//! One file per command: its arguments, its help, what it does.

pub(crate) mod adopted;
pub(crate) mod attach;
mod chain;
pub(crate) mod checkpoint;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod lab;
pub(crate) mod r#move;
pub(crate) mod nodes;
pub(crate) mod ps;
pub(crate) mod restore;
pub(crate) mod wait;
pub(crate) mod why;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use libmig::api::{Client, Reply, local};

/// Options of every command that speaks with the daemon.
#[derive(Debug, Clone, Args)]
pub(crate) struct Daemon {
    /// The daemon's socket
    #[arg(long, value_name = "PATH", env = "MIG_SOCKET", default_value = local::SOCKET)]
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// Connects to it.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(crate) fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.socket)?)
    }
}

/// A daemon that answers a question with the answer to another.
///
/// # Errors
/// Always.
pub(crate) fn unexpected<T>(reply: &Reply) -> Result<T> {
    bail!("the daemon answered with something else: {reply:?}")
}
