//! The configuration file: TOML, every key known, every value checked before
//! anything is bound.
//!
//! Invariant: a [`Config`] that exists is complete and valid. docs/migd.toml
//! documents every key; a test keeps it and this file together.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use libmig::api::NodeName;
use serde::Deserialize;

/// Where the file is by default.
pub(crate) const PATH: &str = "/etc/mig/migd.toml";

/// What the file may say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// This node's name, as its certificate says it.
    pub node: NodeName,
    /// Where peers connect.
    pub listen: SocketAddr,
    /// Sockets and job directories; on a tmpfs.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// The job table and the journals; on a disk.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Certificates.
    pub tls: Tls,
    /// The other nodes.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// Whether jobs are moved by themselves.
    #[serde(default = "yes")]
    pub balance: bool,
    /// Seconds that a job stays at least before it is moved by itself.
    #[serde(default = "default_min_stay")]
    min_stay: f64,
    /// Moves that may arrive at the same time.
    #[serde(default = "default_max_jobs_in")]
    pub max_jobs_in: u32,
    /// Seconds of silence after which a peer counts as gone.
    #[serde(default = "default_peer_timeout")]
    peer_timeout: f64,
    /// Whether jobs of root may come from other nodes.
    #[serde(default)]
    pub accept_root: bool,
    /// Instruction sets that this node's CPU is said to lack, for tests of mixed pools.
    #[serde(default)]
    pub cpu_lacks: Vec<String>,
}

/// Paths of PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The cluster's certificate authority.
    pub ca: PathBuf,
    /// This node's certificate; its DNS name is the node's name.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// One other node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerConfig {
    /// Its name, as its certificate says it.
    pub name: NodeName,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Names the file, the key and what is wrong with it.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read configuration {}", path.display()))?;
        Config::parse(&text).with_context(|| format!("configuration {} is wrong", path.display()))
    }

    /// Reads and checks `text`.
    ///
    /// # Errors
    /// Names the key and what is wrong with it.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(text)?;
        let mut names = BTreeSet::from([&config.node]);
        for peer in &config.peers {
            ensure!(
                names.insert(&peer.name),
                "peers: node `{}` is there twice",
                peer.name
            );
        }
        for (key, path) in [
            ("run_dir", &config.run_dir),
            ("state_dir", &config.state_dir),
        ] {
            ensure!(
                path.is_absolute(),
                "{key}: `{}` is not an absolute path",
                path.display()
            );
        }
        seconds("min_stay", config.min_stay, 0.0)?;
        seconds("peer_timeout", config.peer_timeout, 0.1)?;
        ensure!(
            (1..=1000).contains(&config.max_jobs_in),
            "max_jobs_in: must be 1 to 1000"
        );
        Ok(config)
    }

    /// The socket for `mig`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("migd.sock")
    }

    /// Below it every job has a directory.
    pub(crate) fn jobs_dir(&self) -> PathBuf {
        self.run_dir.join("jobs")
    }

    /// How long a job stays before it is moved by itself.
    pub(crate) fn min_stay(&self) -> Duration {
        Duration::from_secs_f64(self.min_stay)
    }

    /// Silence after which a peer counts as gone.
    pub(crate) fn peer_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.peer_timeout)
    }

    /// The peer of that name.
    pub(crate) fn peer(&self, name: &NodeName) -> Option<&PeerConfig> {
        self.peers.iter().find(|peer| &peer.name == name)
    }
}

fn seconds(key: &str, value: f64, least: f64) -> anyhow::Result<()> {
    let fits = (least..=1e6).contains(&value);
    ensure!(
        fits,
        "{key}: {value} is not between {least} and 1000000 seconds"
    );
    Ok(())
}

fn default_run_dir() -> PathBuf {
    PathBuf::from("/run/mig")
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/mig")
}

fn yes() -> bool {
    true
}

fn default_min_stay() -> f64 {
    5.0
}

fn default_max_jobs_in() -> u32 {
    4
}

fn default_peer_timeout() -> f64 {
    5.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/migd.toml");

    fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
    }

    #[test]
    fn the_documented_example_is_valid_and_shows_every_key() {
        Config::parse(EXAMPLE).unwrap();
        // serde lists every key that it knows when it meets one that it does not.
        let known = error(&format!("nonsense = 1\n{EXAMPLE}"));
        let keys: Vec<&str> = known.split('`').skip(3).step_by(2).collect();
        assert!(keys.len() >= 11, "{known}");
        for key in keys {
            let shown = EXAMPLE.lines().any(|line| {
                line.starts_with(&format!("{key} ="))
                    || line == format!("[{key}]")
                    || line == format!("[[{key}]]")
            });
            assert!(shown, "docs/migd.toml lacks `{key}`");
        }
    }

    #[test]
    fn wrong_files_name_the_key() {
        let base = "node = 'n1'\nlisten = '127.0.0.1:1'\n";
        let tls = "[tls]\nca = 'a'\ncert = 'b'\nkey = 'c'\n";
        Config::parse(&format!("{base}{tls}")).unwrap();
        for (text, wants) in [
            (base.to_owned(), "tls"),
            (format!("{base}balanse = true\n{tls}"), "balanse"),
            (format!("{base}{tls}extra = 1\n"), "extra"),
            (format!("{base}min_stay = -1\n{tls}"), "min_stay"),
            (format!("{base}peer_timeout = nan\n{tls}"), "peer_timeout"),
            (format!("{base}max_jobs_in = 0\n{tls}"), "max_jobs_in"),
            (format!("{base}run_dir = 'x'\n{tls}"), "run_dir"),
            (
                format!("{base}{tls}[[peers]]\nname = 'n1'\naddress = '1.2.3.4:5'\n"),
                "n1",
            ),
            (
                format!("{base}{tls}[[peers]]\nname = 'n 2'\naddress = '1.2.3.4:5'\n"),
                "n 2",
            ),
            (format!("listen = '127.0.0.1:1'\n{tls}"), "node"),
        ] {
            let said = error(&text);
            assert!(said.contains(wants), "`{said}` does not name `{wants}`");
        }
    }
}
