//! Mount namespaces that the job has made.

use serde::{Deserialize, Serialize};

use super::{NamespaceId, PidSpace, ShmEntry};

/// Index into [`super::JobImage::systems`].
pub type SystemId = u32;

/// A mount of a namespace that the job has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Index of the mount that it is on, below its own; `None` for the root.
    pub parent: Option<u32>,
    /// Where, absolute in the namespace.
    #[serde(with = "serde_bytes")]
    pub point: Vec<u8>,
    /// What is mounted.
    pub source: MountSource,
    /// MOUNT_ATTR_* bits.
    pub attributes: u64,
    /// Whether other mounts follow it, or it follows others.
    pub propagation: Propagation,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// What the capsule has at a path.
    Capsule {
        /// Absolute in the capsule's root.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Its mounts below that come along.
        recursive: bool,
        /// Of these, the points in the namespace of those that do not.
        without: Vec<serde_bytes::ByteBuf>,
    },
    /// It came along with the mount that it is on, if the capsule has it.
    Along,
    /// A file system of the job's own.
    System {
        /// Which.
        system: SystemId,
        /// The directory or file in it.
        #[serde(with = "serde_bytes")]
        root: Vec<u8>,
    },
}

/// Where mounts and unmounts on a mount go, and where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Nowhere, from nowhere.
    Private,
    /// MS_UNBINDABLE.
    Unbindable,
    /// From where the capsule's own come, which is the node.
    Slave,
}

/// A file system that the job has mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// What it is, and what is in it.
    pub kind: SystemKind,
    /// Options to be given by fsconfig(2), with an empty value where there is none.
    pub options: Vec<(String, String)>,
}

/// A file system that can be made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemKind {
    /// tmpfs, with all that can be reached in it: paths are those below `base`.
    Tmpfs {
        /// The mount namespace that the names of its files, as shared objects, are of.
        space: NamespaceId,
        /// The directory above all that is mounted of it.
        #[serde(with = "serde_bytes")]
        base: Vec<u8>,
        /// Folders come before what is in them.
        entries: Vec<ShmEntry>,
    },
    /// proc, of a pid namespace; `None` for the capsule's.
    Proc(Option<PidSpace>),
    /// devpts, in which there is no terminal.
    Devpts,
}
