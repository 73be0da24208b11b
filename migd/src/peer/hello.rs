//! The first words of two nodes, after TLS and before anything else.
//!
//! A fixed-layout prelude comes first and is decoded alone, so that any two
//! releases understand each other at least as far as "your versions are 4 to
//! 6, mine 1 to 3":
//!
//! ```text
//! 0        8       10      12         16
//! | migpeer\0 | min u16 | max u16 | length u32 | postcard of DialHello / AcceptHello
//! ```
//!
//! Sans-IO: this file takes and returns bytes; `link`, `listener` and `dial`
//! carry them. Integers are little-endian.

use std::ops::RangeInclusive;

use libmig::api::{Failure, JobId, NodeName};
use libmig::wire::version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PeerError;

/// Protocol versions that this build speaks.
pub(crate) const VERSIONS: RangeInclusive<u16> = version::OLDEST..=version::NEWEST;

const MAGIC: &[u8; 8] = b"migpeer\0";

/// Length of the prelude.
pub(crate) const PRELUDE: usize = 16;

/// Longest hello: a name, an ID and a list of CPU features.
const HELLO_MAX: u32 = 64 << 10;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Loads, forwarded requests, questions about ownership.
    Control,
    /// One attempt to move one job; the stream belongs to `moves` afterwards.
    Move {
        /// The job.
        job: JobId,
        /// The epoch that the destination will own it with.
        epoch: u64,
    },
    /// Terminal and pipes of a job that is away, to its deputy at home.
    Carrier {
        /// The job.
        job: JobId,
        /// The epoch with which the dialling node owns it.
        epoch: u64,
    },
    /// A checkpoint of a job that lives at the answering node, for a file at the dialling one;
    /// the stream belongs to `moves::fetch` afterwards.
    Fetch {
        /// The job.
        job: JobId,
        /// Who asks for it there.
        uid: u32,
        /// It does not run on.
        end: bool,
        /// What is in earlier files follows.
        known: bool,
    },
}

/// What the dialling node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DialHello {
    /// Its name; must be the one in its certificate.
    pub(crate) node: NodeName,
    /// Its release, for people.
    pub(crate) release: String,
    /// /proc/sys/kernel/random/boot_id: changes when the machine restarts.
    pub(crate) boot: String,
    /// Counts starts of the daemon for ever: tells a restart from a hiccup.
    pub(crate) generation: u64,
    /// Instruction sets of its CPU, sorted.
    pub(crate) cpu_features: Vec<String>,
    /// What it wants.
    pub(crate) purpose: Purpose,
}

/// What the accepting node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AcceptHello {
    /// Go on. Says about the answering node what [`DialHello`] says.
    Welcome {
        /// Its name.
        node: NodeName,
        /// Its release.
        release: String,
        /// Its boot ID.
        boot: String,
        /// Starts of its daemon.
        generation: u64,
        /// Instruction sets of its CPU.
        cpu_features: Vec<String>,
    },
    /// No; the connection closes.
    Refused(Failure),
}

/// Prelude and body, ready to send.
pub(crate) fn encode(hello: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(hello).expect("a hello is plain data");
    let mut bytes = prelude(u32::try_from(body.len()).expect("a hello is short"));
    bytes.extend_from_slice(&body);
    bytes
}

/// The prelude alone, which tells a peer of another version why it is refused.
pub(crate) fn prelude(body: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSIONS.start().to_le_bytes());
    bytes.extend_from_slice(&VERSIONS.end().to_le_bytes());
    bytes.extend_from_slice(&body.to_le_bytes());
    bytes
}

/// Checks a prelude; returns the length of the body that follows.
///
/// # Errors
/// [`PeerError::Version`] when there is no version in common.
pub(crate) fn check_prelude(bytes: &[u8; PRELUDE]) -> Result<usize, PeerError> {
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if &bytes[..8] != MAGIC {
        return Err(PeerError::Garbage(
            "it does not begin as a mig peer does".into(),
        ));
    }
    let (min, max) = (short(8), short(10));
    if min > *VERSIONS.end() || max < *VERSIONS.start() || min > max {
        return Err(PeerError::Version { min, max });
    }
    let len = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    if len > HELLO_MAX {
        return Err(PeerError::Garbage(format!("a hello of {len} bytes")));
    }
    Ok(len as usize)
}

/// Parses the body.
///
/// # Errors
/// When it is not exactly one `T`.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, PeerError> {
    super::frame::decode(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> DialHello {
        DialHello {
            node: NodeName::new("n1").unwrap(),
            release: "0".into(),
            boot: "b".into(),
            generation: 3,
            cpu_features: vec!["avx2".into()],
            purpose: Purpose::Move {
                job: "n1-7".parse().unwrap(),
                epoch: 2,
            },
        }
    }

    /// Older and newer nodes must read these bytes: only the versions in them change.
    #[test]
    fn the_bytes_of_a_hello_are_pinned() {
        let [oldest, newest] = [version::OLDEST, version::NEWEST].map(u16::to_le_bytes);
        let rest = b"\x15\0\0\0\x02n1\x010\x01b\x03\x01\x04avx2\x01\x04n1-7\x02";
        let expected = [&b"migpeer\0"[..], &oldest, &newest, rest].concat();
        assert_eq!(
            encode(&hello()).escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn other_versions_are_told_apart_from_garbage() {
        let mut bytes: [u8; PRELUDE] = prelude(0).try_into().unwrap();
        assert!(matches!(check_prelude(&bytes), Ok(0)));
        bytes[8..12].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff]);
        assert!(matches!(
            check_prelude(&bytes),
            Err(PeerError::Version {
                min: 0xfffe,
                max: 0xffff
            })
        ));
        bytes[0] = b'G';
        assert!(matches!(check_prelude(&bytes), Err(PeerError::Garbage(_))));
        let long: [u8; PRELUDE] = prelude(u32::MAX).try_into().unwrap();
        assert!(matches!(check_prelude(&long), Err(PeerError::Garbage(_))));
    }

    #[test]
    fn no_truncation_and_no_noise_panics() {
        let whole = postcard::to_stdvec(&hello()).unwrap();
        for cut in 0..whole.len() {
            assert!(decode::<DialHello>(&whole[..cut]).is_err());
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bent = whole.clone();
                bent[at] ^= 1 << bit;
                if let Ok(read) = decode::<DialHello>(&bent) {
                    assert_ne!(read, hello());
                }
            }
        }
    }
}
