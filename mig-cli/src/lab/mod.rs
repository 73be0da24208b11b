//! The lab: a cluster of nodes on one machine, for trying mig and for testing it.
//!
//! ```text
//! mig lab up ──spawns──► keeper (own mount and network namespace: the lab's tmpfs, the bridge)
//!                          └─ node init, one per node: pid 1 of the node's pid namespace; own
//!                             network, mount, uts, ipc and cgroup namespace, overlay root
//!                               └─ migd, jobs, orphans
//! ```
//!
//! Invariant: whatever a lab makes on the machine is one of three things: a process in the lab's
//! cgroup, the cgroup itself, or a file below [`Lab::dir`]. Mounts, devices and addresses exist only
//! in namespaces that those processes hold, so they die with them. Each thing is written to the
//! [`journal`] before it is made, so that [`down`] can undo a lab that was killed half-way.
//!
//! Neighbours: `commands::lab` parses and prints; the test crate drives this through the `mig` binary.

pub(crate) mod cgroup;
pub(crate) mod control;
pub(crate) mod cut;
pub(crate) mod down;
pub(crate) mod enter;
pub(crate) mod identity;
pub(crate) mod journal;
pub(crate) mod keeper;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod root;
pub(crate) mod status;
pub(crate) mod up;

use std::{fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

/// Where the state of all labs lies. Not configurable: `down` must find what `up` made.
const STATE_ROOT: &str = "/run/mig-lab";

/// The port of migd for its peers.
const PEER_PORT: u16 = 7440;

/// More nodes than one machine can sensibly carry.
pub(crate) const MAX_NODES: u8 = 64;

/// The name of a lab: part of a path and of a cgroup name, hence narrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabName(String);

impl FromStr for LabName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > 40 || text.starts_with('-') || !text.chars().all(allowed)
        {
            return Err("a lab's name has 1 to 40 of a-z, 0-9 and '-'".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where one lab keeps its state.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    pub(crate) name: LabName,
}

impl Lab {
    /// The lab of that name, whether it exists or not.
    pub(crate) fn new(name: LabName) -> Self {
        Self { name }
    }

    /// The folder of all labs.
    pub(crate) fn parent() -> PathBuf {
        PathBuf::from(STATE_ROOT)
    }

    /// The folder with this lab's journal, logs and certificates; only root may look into it.
    pub(crate) fn dir(&self) -> PathBuf {
        Self::parent().join(&self.name.0)
    }

    /// Where the keeper mounts the lab's tmpfs, in its own mount namespace.
    pub(crate) fn storage(&self) -> PathBuf {
        self.dir().join("fs")
    }

    /// What the keeper says.
    pub(crate) fn keeper_log(&self) -> PathBuf {
        self.dir().join("keeper.log")
    }

    /// What a node's init and its migd say.
    pub(crate) fn node_log(&self, node: NodeId) -> PathBuf {
        self.dir().join(format!("{node}.log"))
    }

    /// The node init's control socket.
    pub(crate) fn node_socket(&self, node: NodeId) -> PathBuf {
        self.dir().join(format!("{node}.sock"))
    }

    /// Becomes `/etc/mig` in the node.
    pub(crate) fn node_etc(&self, node: NodeId) -> PathBuf {
        self.dir().join("nodes").join(node.to_string())
    }
}

/// A node of a lab: n1, n2, ...
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct NodeId(u8);

impl NodeId {
    /// The nodes of a lab of `count`.
    pub(crate) fn all(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }

    /// Its address on the lab's bridge. The bridge has no way out, so all labs use the same ones.
    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.0)
    }

    /// Its hardware address: fixed, so that a restarted capture of the network is readable.
    pub(crate) fn hardware_address(self) -> [u8; 6] {
        [0x02, 0x6d, 0x69, 0x67, 0x00, self.0]
    }

    /// The CPU it is pinned to among `cpus` CPUs that this process may use: in turn; none when
    /// there is nothing to share out.
    pub(crate) fn cpu(self, cpus: &[usize]) -> Option<usize> {
        (cpus.len() > 1).then(|| cpus[usize::from(self.0 - 1) % cpus.len()])
    }
}

impl FromStr for NodeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text
            .strip_prefix('n')
            .and_then(|digits| digits.parse().ok());
        match number {
            Some(number @ 1..=MAX_NODES) => Ok(Self(number)),
            _ => Err(format!("a node of a lab is called n1 to n{MAX_NODES}")),
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(node: NodeId) -> Self {
        node.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_folder() {
        for bad in ["", "..", "a/b", "A", "-x", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad:?} was accepted");
        }
        assert!("test-12-3".parse::<LabName>().is_ok());
    }

    #[test]
    fn node_names_are_strict() {
        for bad in ["", "n", "n0", "n65", "n256", "m1", "n-1", "n 1"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(
            "n3".parse::<NodeId>().unwrap().address(),
            Ipv4Addr::new(10, 77, 0, 3)
        );
    }

    #[test]
    fn nodes_take_cpus_in_turn() {
        let cpus: Vec<_> = NodeId::all(3).map(|n| n.cpu(&[4, 6])).collect();
        assert_eq!(cpus, [Some(4), Some(6), Some(4)]);
        assert_eq!(NodeId(1).cpu(&[0]), None);
    }
}
