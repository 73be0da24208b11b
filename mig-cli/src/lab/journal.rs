//! What a lab has made, or is about to make, on disk.
//!
//! Invariant: a thing is recorded before it comes into being, and the file is replaced in one step;
//! so whatever exists of a lab, at whatever instant its maker was killed, `down` reads of it here.
//! The folder's flock is held by whoever changes the lab; it ends with its holder.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Lab, NodeId, process::ProcessId};

/// The version of the journal's format.
const VERSION: u32 = 1;

/// Far more than any journal has; a larger file is not one.
const MAX_BYTES: u64 = 1 << 20;

/// How long one waits for another `mig` that is changing the lab.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `up` records.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    pub(crate) version: u32,
    /// How many nodes: n1 to nN.
    pub(crate) nodes: u8,
    /// The lab's cgroup, as a path in the machine's file system.
    pub(crate) cgroup: PathBuf,
    /// Inode of the cgroup; None until it was made. Another inode at that path is someone else's.
    pub(crate) cgroup_inode: Option<u64>,
    pub(crate) keeper: Option<ProcessId>,
    /// `mig` and `migd` as the nodes run them.
    pub(crate) mig: PathBuf,
    pub(crate) migd: PathBuf,
    /// Nodes do not start migd by themselves.
    pub(crate) bare: bool,
    /// Every migd has answered.
    pub(crate) ready: bool,
    /// Pairs of nodes between which packets are dropped.
    pub(crate) cuts: Vec<(NodeId, NodeId)>,
}

impl Journal {
    /// The journal of a lab of which nothing exists yet.
    pub(crate) fn new(nodes: u8, cgroup: PathBuf, mig: PathBuf, migd: PathBuf) -> Self {
        Self {
            version: VERSION,
            nodes,
            cgroup,
            cgroup_inode: None,
            keeper: None,
            mig,
            migd,
            bare: false,
            ready: false,
            cuts: Vec::new(),
        }
    }

    /// Reads a lab's journal; None when the lab has none.
    pub(crate) fn read(lab: &Lab) -> Result<Option<Self>> {
        let journal: Option<Self> = read_json(&lab.dir().join("lab.json"))?;
        if let Some(Self { version, .. }) = journal
            && version != VERSION
        {
            bail!("the lab's journal has version {version}, this mig knows version {VERSION}");
        }
        Ok(journal)
    }

    /// Records it.
    pub(crate) fn write(&self, lab: &Lab) -> Result<()> {
        write_json(&lab.dir().join("lab.json"), self)
    }

    /// Its nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        NodeId::all(self.nodes)
    }

    /// The cgroup of one node.
    pub(crate) fn node_cgroup(&self, node: NodeId) -> PathBuf {
        self.cgroup.join(node.to_string())
    }

    /// Whether the keeper, and so the lab, is up.
    pub(crate) fn is_alive(&self) -> bool {
        self.keeper.is_some_and(ProcessId::is_alive)
    }
}

/// The node inits, as the keeper records them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Inits(Vec<(NodeId, ProcessId)>);

impl Inits {
    /// Reads what the keeper has recorded so far.
    pub(crate) fn read(lab: &Lab) -> Result<Self> {
        Ok(read_json(&lab.dir().join("inits.json"))?.unwrap_or_default())
    }

    /// Adds a node's init and records it.
    pub(crate) fn record(&mut self, lab: &Lab, node: NodeId, init: ProcessId) -> Result<()> {
        self.0.push((node, init));
        write_json(&lab.dir().join("inits.json"), self)
    }

    /// The init of a node, dead or alive.
    pub(crate) fn of(&self, node: NodeId) -> Option<ProcessId> {
        self.0
            .iter()
            .find(|(name, _)| *name == node)
            .map(|(_, init)| *init)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = ProcessId> {
        self.0.iter().map(|(_, init)| *init)
    }
}

/// The right to change a lab.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Makes the lab's folder and locks it.
    pub(crate) fn create(lab: &Lab) -> Result<Self> {
        loop {
            // `down` of another lab may take the empty parent away between two calls.
            match make_private_dir(&Lab::parent()).and_then(|()| make_private_dir(&lab.dir())) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("make {}", lab.dir().display()));
                }
            }
            if let Some(lock) = Self::take(lab)? {
                return Ok(lock);
            }
        }
    }

    /// A stdout that holds the lock too, for a child: until the child closes it, the lab is locked,
    /// whatever becomes of this process.
    pub(crate) fn share(&self) -> Result<Stdio> {
        Ok(self.0.try_clone().context("share the lab's lock")?.into())
    }

    /// Locks a lab, and waits a little for whoever has it; None when there is no such lab.
    pub(crate) fn take(lab: &Lab) -> Result<Option<Self>> {
        let dir = lab.dir();
        let file = match File::open(&dir) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {}", dir.display())),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                    "lab {} is being changed by another mig; wait for it, or stop it, and try again",
                    lab.name
                ),
                Err(error) => return Err(error).with_context(|| format!("lock {}", dir.display())),
            }
        }
        // The folder may have been removed, and made anew, while it was being opened.
        let inode = file.metadata().context("look at the locked folder")?.ino();
        match fs::metadata(&dir) {
            Ok(current) if current.ino() == inode => Ok(Some(Self(file))),
            _ => Ok(None),
        }
    }
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if metadata.len() > MAX_BYTES {
        bail!(
            "{} has {} bytes and is no journal",
            path.display(),
            metadata.len()
        );
    }
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("understand {}", path.display()))
        .map(Some)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let replace = || -> io::Result<()> {
        let scratch = path.with_extension("new");
        let mut file = File::create(&scratch)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&scratch, path)
    };
    replace().with_context(|| format!("write {}", path.display()))
}
