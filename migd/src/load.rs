//! The load of this node as it is told to peers and to `mig nodes`.

use serde::{Deserialize, Serialize};

/// One node's load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeLoad {
    /// Runnable tasks, averaged.
    pub(crate) runnable: f64,
    /// Cores.
    pub(crate) cores: u32,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// Bytes of it that are available.
    pub(crate) memory_available_bytes: u64,
    /// Jobs that live here.
    pub(crate) jobs: u32,
}
