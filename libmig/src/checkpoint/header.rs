//! What a checkpoint says of itself before anything else.

use serde::{Deserialize, Serialize};

/// The header of a checkpoint. What is added needs `#[serde(default)]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The checkpoint's own name, different from all others.
    pub uuid: String,
    /// Version of the stream ([`crate::wire::version`]).
    pub protocol: u16,
    /// The node that wrote it.
    pub node: String,
    /// Release of that node's daemon.
    pub release: String,
    /// uname -r of that node.
    pub kernel: String,
    /// Opaque description of that node's CPU, as in an offer.
    #[serde(with = "serde_bytes")]
    pub cpu: Vec<u8>,
    /// The job.
    pub job: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The epoch under which it was taken.
    pub epoch: u64,
    /// The job's owner.
    pub uid: u32,
    /// It has a terminal.
    pub terminal: bool,
    /// Some of its standard streams are pipes of whoever started it.
    pub piped: bool,
    /// When it was taken, in seconds since 1970.
    pub captured_unix: u64,
    /// Resident bytes of the job then.
    pub memory_bytes: u64,
    /// The files that it builds on, oldest first; none when it stands by itself.
    #[serde(default)]
    pub bases: Vec<Base>,
}

/// A checkpoint that another one builds on: this very file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its own name.
    pub uuid: String,
    /// The hash that ends it, which is of all that is in it.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
}

impl Base {
    /// Most files that one builds on: all of them are open when it is read.
    pub const MOST: usize = 64;
}
