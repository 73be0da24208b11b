//! The capsule's /dev/shm, and regular files that travel as memory objects.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::SharedId;

/// A name in the capsule's /dev/shm. Folders come before what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShmEntry {
    /// Relative to /dev/shm; empty for /dev/shm itself.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What has this name.
    pub node: ShmNode,
}

/// What a name in /dev/shm leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShmNode {
    /// A regular file, [`super::SharedKind::File`]; hard links name the same object.
    File(SharedId),
    /// A folder.
    Directory(Attributes),
    /// A symbolic link, and where it leads.
    Symlink(#[serde(with = "serde_bytes")] Vec<u8>, Attributes),
    /// A FIFO; what waits in it is in [`super::JobImage::pipes`].
    Fifo(Attributes),
}

/// A regular file whose contents travel: one of /dev/shm, one that is mapped
/// and has no name any more, or one that the job made in a temporary directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// The name that it has or had, absolute in the job's root, without " (deleted)".
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// It is on the tmpfs of the capsule's /dev/shm.
    pub in_shm: bool,
    /// Some [`ShmNode::File`] names it.
    pub named: bool,
    /// Owner, mode and the like.
    pub attributes: Attributes,
    /// It has its name, and the job made it: it gets that name at the destination.
    pub own: Option<OwnFile>,
}

/// A file that a job has made in a temporary directory of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnFile {
    /// The source's /proc/sys/kernel/random/boot_id: on a node that runs on the same
    /// kernel, the same device and inode are the same file.
    pub boot: String,
    /// st_dev at the source.
    pub device: u64,
    /// st_ino.
    pub inode: u64,
    /// Permissions of the folders below the temporary directory, outermost first.
    pub folders: Vec<u32>,
}

/// What stat(2) and listxattr(2) tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// st_mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// st_atim: seconds and nanoseconds.
    pub accessed: (i64, i64),
    /// st_mtim.
    pub modified: (i64, i64),
    /// Extended attributes by name.
    pub extended: Vec<(ByteBuf, ByteBuf)>,
}
