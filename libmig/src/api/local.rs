//! The framing of the local socket: 4 bytes little-endian length, then JSON.
//!
//! Invariant: a length is checked before anything is allocated, and memory
//! grows only with bytes that have arrived. Both sides begin with a hello, so
//! that a `mig` of another version gets a sentence and not a parse error.
//! The daemon's asynchronous end uses [`encode`] and [`body_len`] too.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the local protocol. Raised with every change that an older side
/// would misunderstand.
pub const PROTOCOL: u32 = 2;

/// Longest message to the daemon: a command line and an environment (the
/// kernel allows 6 MiB of them in all for any exec) in JSON.
pub const REQUEST_MAX: u32 = 32 << 20;

/// Longest message from the daemon: a listing of 50,000 jobs.
pub const REPLY_MAX: u32 = 64 << 20;

/// Most descriptors that travel with one request.
pub const FDS_MAX: usize = 72;

/// Where the daemon listens by default.
pub const SOCKET: &str = "/run/mig/migd.sock";

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalHello {
    /// [`PROTOCOL`] of the speaker.
    pub protocol: u32,
    /// Its release, for people.
    pub release: String,
    /// The daemon's node name; nothing from a client.
    #[serde(default)]
    pub node: Option<String>,
}

impl LocalHello {
    /// The hello of this build.
    #[must_use]
    pub fn ours(node: Option<String>) -> LocalHello {
        LocalHello {
            protocol: PROTOCOL,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            node,
        }
    }
}

/// A message that cannot be read or written.
#[derive(Debug, Error)]
pub enum LocalError {
    /// The length is above the limit.
    #[error("message of {len} bytes is longer than the limit of {max}")]
    TooLong {
        /// What the header says.
        len: u64,
        /// The limit.
        max: u32,
    },
    /// Not the JSON that is expected here.
    #[error("message is malformed")]
    Malformed(#[source] serde_json::Error),
    /// The connection failed.
    #[error("local socket failed")]
    Io(#[from] io::Error),
}

/// A message with its length in front.
///
/// # Errors
/// When it is longer than `max`.
pub fn encode<T: Serialize>(message: &T, max: u32) -> Result<Vec<u8>, LocalError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(LocalError::Malformed)?;
    let len = bytes.len() - 4;
    match u32::try_from(len) {
        Ok(short) if short <= max => {
            bytes[..4].copy_from_slice(&short.to_le_bytes());
            Ok(bytes)
        }
        _ => Err(LocalError::TooLong {
            len: len as u64,
            max,
        }),
    }
}

/// The length of the body that follows `header`, checked.
///
/// # Errors
/// When it is longer than `max`.
pub fn body_len(header: [u8; 4], max: u32) -> Result<usize, LocalError> {
    let len = u32::from_le_bytes(header);
    if len > max {
        return Err(LocalError::TooLong {
            len: u64::from(len),
            max,
        });
    }
    Ok(len as usize)
}

/// Parses the body of a message.
///
/// # Errors
/// When it is not the JSON of a `T`.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, LocalError> {
    serde_json::from_slice(body).map_err(LocalError::Malformed)
}

/// Writes one message, blocking.
///
/// # Errors
/// When it is too long or the socket fails.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T, max: u32) -> Result<(), LocalError> {
    to.write_all(&encode(message, max)?)?;
    to.flush()?;
    Ok(())
}

/// Reads one message, blocking.
///
/// # Errors
/// When it is too long, malformed, or the connection ends.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read, max: u32) -> Result<T, LocalError> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let len = body_len(header, max)?;
    let mut body = Vec::new();
    // `take` and `read_to_end` grow with what arrives, not with what was announced.
    from.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(LocalError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    decode(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_trip() {
        let hello = LocalHello::ours(Some("n1".into()));
        let bytes = encode(&hello, REQUEST_MAX).unwrap();
        assert_eq!(
            receive::<LocalHello>(&mut bytes.as_slice(), REQUEST_MAX).unwrap(),
            hello
        );
    }

    #[test]
    fn hostile_messages_are_errors() {
        let mut long = u32::MAX.to_le_bytes().to_vec();
        long.extend_from_slice(b"{}");
        let read = |bytes: &[u8]| receive::<LocalHello>(&mut &*bytes, 100);
        assert!(matches!(read(&long), Err(LocalError::TooLong { .. })));
        assert!(matches!(read(&[9, 0, 0, 0, b'{']), Err(LocalError::Io(_))));
        assert!(matches!(
            read(&[2, 0, 0, 0, b'{', b'x']),
            Err(LocalError::Malformed(_))
        ));
        assert!(matches!(
            encode(&"x".repeat(200), 100),
            Err(LocalError::TooLong { .. })
        ));
    }
}
