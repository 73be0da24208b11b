//! The attach protocol: what `mig exec` and `mig attach` and a capsule's init
//! say to each other over a unix stream socket.
//!
//! A frame is a length (u32, little endian) and a postcard-encoded [`ToJob`] or
//! [`FromJob`]. Either side may hang up at any frame boundary. Typed input is limited by
//! credit ([`INPUT_CREDIT`], given back by [`FromJob::Credit`]), so that
//! signals behind it always get through; output is limited by the socket.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Most bytes of one frame after its length field.
pub const MAX_FRAME: usize = 64 << 10;
/// Most bytes of terminal data in one frame.
pub const MAX_DATA: usize = 32 << 10;
/// How many bytes of input may be on their way before the job's side has
/// said that its terminal took them.
pub const INPUT_CREDIT: usize = 64 << 10;
/// Version of this protocol, in [`ToJob::Hello`].
pub const VERSION: u16 = 1;

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Window {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub columns: u16,
    /// Width in pixels, 0 if unknown.
    pub x_pixels: u16,
    /// Height in pixels, 0 if unknown.
    pub y_pixels: u16,
}

/// Which command has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// `mig exec`, right after the job was started. When it goes without
    /// [`ToJob::Detach`], the job is hung up on.
    Exec,
    /// `mig attach`: gets first what the job wrote while no one was attached.
    /// When it goes, the job runs on.
    Attach,
}

/// From `mig exec` or `mig attach` to the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToJob {
    /// First frame of every connection.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Who it is.
        role: Role,
        /// The user's terminal, if there is one; its program becomes the foreground one.
        window: Option<Window>,
    },
    /// Typed bytes.
    Input(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The user's terminal has another size.
    Window(Window),
    /// Send this signal to the main program.
    Signal(i32),
    /// `mig exec` has been continued by its shell; `foreground` tells whether it owns
    /// the user's terminal.
    Continue {
        /// Put the program into the foreground of its own terminal.
        foreground: bool,
    },
    /// Leave the job running without a terminal connection.
    Detach,
}

/// From the job to `mig exec` or `mig attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromJob {
    /// Bytes of the job's terminal.
    Output(#[serde(with = "serde_bytes")] Vec<u8>),
    /// That many bytes of input have been taken.
    Credit(u32),
    /// The main program has been stopped by this signal.
    Stopped(i32),
    /// It runs again.
    Continued,
    /// The program could not be started; `mig exec` prints this and exits with `code`.
    Failed {
        /// 126 or 127, as shells do.
        code: i32,
        /// For the user.
        message: String,
    },
    /// The main program has ended: wait status word, as in waitpid(2).
    Exited(i32),
    /// The connection is not accepted: someone else is attached, or there is no terminal.
    Refused(String),
}

/// A peer that does not speak the protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// Not one of our messages.
    #[error("a frame cannot be decoded")]
    Malformed(#[source] postcard::Error),
    /// Bytes after the message.
    #[error("{0} bytes follow the message in a frame")]
    Trailing(usize),
}

/// Appends one frame to `out`.
///
/// # Panics
/// Never for messages that keep to [`MAX_DATA`].
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) {
    let body = postcard::to_stdvec(message).expect("plain data always encodes");
    assert!(body.len() <= MAX_FRAME, "callers split data at MAX_DATA");
    let length = u32::try_from(body.len()).expect("MAX_FRAME fits");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&body);
}

/// Collects bytes until they are frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The stream is useless from there on: hang up.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*head)).expect("usize is 64 bits");
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let (message, left) = postcard::take_from_bytes(body).map_err(FrameError::Malformed)?;
        if !left.is_empty() {
            return Err(FrameError::Trailing(left.len()));
        }
        self.buffer.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_fragmentation() {
        let messages = [
            FromJob::Output(vec![7; MAX_DATA]),
            FromJob::Credit(9),
            FromJob::Stopped(20),
            FromJob::Failed {
                code: 127,
                message: "x: command not found".into(),
            },
            FromJob::Exited(9),
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            encode(message, &mut bytes);
        }
        for step in [1, 3, 4, 5, 1000, bytes.len()] {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(message) = decoder.take::<FromJob>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages, "in pieces of {step}");
        }
    }

    #[test]
    fn hostile_frames_are_errors() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decoder.take::<ToJob>(),
            Err(FrameError::TooLong(_))
        ));
        let mut decoder = Decoder::default();
        decoder.push(&[1, 0, 0, 0, 250]);
        assert!(matches!(
            decoder.take::<ToJob>(),
            Err(FrameError::Malformed(_))
        ));
        let mut decoder = Decoder::default();
        decoder.push(&[2, 0, 0, 0, 5, 0]);
        assert!(matches!(
            decoder.take::<ToJob>(),
            Err(FrameError::Trailing(1))
        ));
    }
}
