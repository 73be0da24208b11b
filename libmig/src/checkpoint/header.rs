//! What a checkpoint says of itself before anything else.

use serde::{Deserialize, Serialize};

/// The header of a checkpoint.
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
}
