//! Names: of nodes, of jobs, and of what a user points at on the command line.
//!
//! Invariant: a [`NodeName`] and a [`JobId`] are safe as one path component
//! and as a DNS label, whoever sent them: they are checked where they are
//! parsed, also when they come out of a frame.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest node name and longest alias in bytes (a DNS label).
const NAME_MAX: usize = 63;

/// A string that is no node name, job ID or target.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// Not a DNS label in lower case.
    #[error("`{0}` is no node name: lower-case letters, digits and inner dashes, at most 63")]
    Node(String),
    /// Not `<node>-<number>`.
    #[error("`{0}` is no job ID: a node name, a dash and a number, such as n1-7")]
    Job(String),
    /// Neither a job, nor an alias, nor a pid.
    #[error("`{0}` is neither a job ID, nor a job's name, nor a process ID")]
    Target(String),
}

/// Name of a node: one DNS label in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Checks `name`.
    ///
    /// # Errors
    /// When it is empty, longer than 63 bytes, or holds anything but
    /// `a-z 0-9 -`, or a dash at an end.
    pub fn new(name: impl Into<String>) -> Result<NodeName, ParseIdError> {
        let name = name.into();
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = !name.is_empty() && name.len() <= NAME_MAX;
        if fits && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-') {
            Ok(NodeName(name))
        } else {
            Err(ParseIdError::Node(name))
        }
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<NodeName, ParseIdError> {
        NodeName::new(text)
    }
}

impl TryFrom<String> for NodeName {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<NodeName, ParseIdError> {
        NodeName::new(text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.0
    }
}

/// ID of a job, unique in the cluster and for ever: `n1-7` is the seventh job
/// that was started on node n1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId {
    /// The node where the job was started.
    pub home: NodeName,
    /// Counts for ever in home's store, from 1.
    pub number: u64,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.home, self.number))
    }
}

impl FromStr for JobId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<JobId, ParseIdError> {
        let bad = || ParseIdError::Job(text.to_owned());
        let (home, number) = text.rsplit_once('-').ok_or_else(bad)?;
        let canonical = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        if !canonical {
            return Err(bad());
        }
        Ok(JobId {
            home: NodeName::new(home).map_err(|_| bad())?,
            number: number.parse().map_err(|_| bad())?,
        })
    }
}

impl TryFrom<String> for JobId {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<JobId, ParseIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.to_string()
    }
}

/// What a user points at: a job by ID or name, or a process of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// A job ID. Where no such job exists, a job of that name is meant.
    Job(JobId),
    /// The name given by `mig exec --name`.
    Name(String),
    /// A process ID as the node sees it.
    Pid(i32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Job(id) => id.fmt(f),
            Target::Name(name) => f.pad(name),
            Target::Pid(pid) => pid.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Target, ParseIdError> {
        let bad = || ParseIdError::Target(text.to_owned());
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let pid = text.parse().map_err(|_| bad())?;
            return if pid > 0 {
                Ok(Target::Pid(pid))
            } else {
                Err(bad())
            };
        }
        if let Ok(id) = text.parse() {
            return Ok(Target::Job(id));
        }
        if valid_alias(text) {
            Ok(Target::Name(text.to_owned()))
        } else {
            Err(bad())
        }
    }
}

impl TryFrom<String> for Target {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Target, ParseIdError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

/// Whether `name` may be a job's name: printable without blanks, at most 63
/// bytes, and not all digits (it would read as a process ID).
#[must_use]
pub fn valid_alias(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(|b| b.is_ascii_graphic())
        && !name.starts_with('-')
        && !name.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_hostile_ones_are_refused() {
        for good in ["n1-7", "big-node-2-19", "a-18446744073709551615"] {
            assert_eq!(good.parse::<JobId>().unwrap().to_string(), good);
        }
        let long = format!("{}-1", "a".repeat(64));
        for bad in [
            "",
            "-",
            "n1-",
            "-7",
            "n1-07",
            "n1-+7",
            "../x-1",
            "N1-7",
            "n1-18446744073709551616",
            &long,
        ] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
        assert!(serde_json_like("n1/../x-1").is_err());
    }

    fn serde_json_like(text: &str) -> Result<JobId, ParseIdError> {
        JobId::try_from(text.to_owned())
    }

    #[test]
    fn targets_are_told_apart() {
        assert_eq!("17".parse(), Ok(Target::Pid(17)));
        assert!(matches!("n1-7".parse(), Ok(Target::Job(_))));
        assert_eq!("simulate".parse(), Ok(Target::Name("simulate".into())));
        for bad in ["", "0", "99999999999", "a b", "-x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
