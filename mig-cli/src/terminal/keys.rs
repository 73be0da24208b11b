//! The keys that leave a job without ending it.
//!
//! By default ctrl-] and then d. The first key of the sequence is held back
//! for a moment only, so that a program that wants it gets it.

use std::str::FromStr;

use anyhow::{Result, bail};
use rustix::event::Timespec;

/// How long a first key is held back.
pub(super) const PATIENCE: Timespec = super::milliseconds(300);

/// Longest sequence.
const MAX_KEYS: usize = 8;

/// A key sequence, and how much of it has been typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Typed bytes: what the program gets of them, and whether the sequence is complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(bytes.len());
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        for &byte in bytes {
            if byte != self.keys[self.matched] {
                through.extend(self.release());
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (through, true);
                }
            } else {
                through.push(byte);
            }
        }
        (through, false)
    }

    /// Whether a part of the sequence has been typed.
    pub(super) fn is_holding(&self) -> bool {
        self.matched > 0
    }

    /// Gives up what is held back.
    pub(super) fn release(&mut self) -> Vec<u8> {
        let held = self.keys[..self.matched].to_vec();
        self.matched = 0;
        held
    }
}

impl FromStr for DetachKeys {
    type Err = anyhow::Error;

    /// `ctrl-X` or single characters, by commas; empty for none.
    fn from_str(text: &str) -> Result<DetachKeys> {
        let names = text.split(',').filter(|_| !text.is_empty());
        let keys = names.map(key).collect::<Result<Vec<_>>>()?;
        if keys.len() > MAX_KEYS {
            bail!("more than {MAX_KEYS} keys");
        }
        Ok(DetachKeys { keys, matched: 0 })
    }
}

fn key(name: &str) -> Result<u8> {
    let (control, rest) = match name.strip_prefix("ctrl-") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    match rest.as_bytes() {
        [byte @ b'@'..=b'_'] if control => Ok(byte & 0x1f),
        [byte @ b'a'..=b'z'] if control => Ok(byte & 0x1f),
        [byte @ b' '..=b'~'] if !control => Ok(*byte),
        _ => bail!("`{name}` is no key: one character, or ctrl- and a letter or one of @[\\]^_"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> DetachKeys {
        "ctrl-],d".parse().unwrap()
    }

    #[test]
    fn the_sequence_detaches_and_nothing_else_is_lost() {
        let mut keys = keys();
        assert_eq!(keys.feed(b"ab\x1dd"), (b"ab".to_vec(), true));
        assert_eq!(keys.feed(b"\x1d"), (vec![], false));
        assert!(keys.is_holding());
        assert_eq!(keys.feed(b"x"), (b"\x1dx".to_vec(), false));
        assert_eq!(keys.feed(b"\x1d\x1dd"), (b"\x1d".to_vec(), true));
        assert_eq!(keys.feed(b"\x1d"), (vec![], false));
        assert_eq!(keys.release(), b"\x1d");
        assert_eq!(keys.feed(b"d"), (b"d".to_vec(), false));
    }

    #[test]
    fn names_of_keys() {
        assert_eq!(
            "ctrl-p,ctrl-q".parse::<DetachKeys>().unwrap().keys,
            [16, 17]
        );
        assert_eq!(
            "".parse::<DetachKeys>().unwrap().feed(b"x"),
            (b"x".to_vec(), false)
        );
        for bad in ["ctrl-", "ctrl-1", "ab", ",", "é", "a,a,a,a,a,a,a,a,a"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
    }
}
