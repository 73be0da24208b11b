//! The files that a running job needs at its destination: told before it is
//! frozen, so that what is missing there costs no pause.

use serde::{Deserialize, Serialize};

use super::{FilePath, OwnFile, Pid};

/// A file that a job uses by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededFile {
    /// The first process found to use it, in the capsule.
    pub pid: Pid,
    /// How that process uses it.
    pub usage: Usage,
    /// The file as it was when this was written.
    pub file: FilePath,
    /// Nobody in the job can change its size: it has to be the same elsewhere.
    pub settled: bool,
    /// The job made it, and brings it along.
    pub own: Option<OwnFile>,
    /// st_dev and st_ino at the source, which mean nothing elsewhere.
    #[serde(skip)]
    pub identity: (u64, u64),
}

impl NeededFile {
    /// Most files that a list names: what a job has beyond is compared when it is built.
    pub const MOST: usize = 100_000;
    /// Most bytes of names in a list.
    pub const MOST_BYTES: usize = 8 << 20;
}

/// How a process uses a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Usage {
    /// `/proc/PID/exe`.
    Program,
    /// Mapped, privately or shared.
    Mapping,
    /// Its current directory.
    CurrentDirectory,
    /// Its root directory.
    RootDirectory,
    /// Open under this number.
    Descriptor(i32),
}
