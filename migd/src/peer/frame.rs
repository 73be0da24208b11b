//! Frames of a control connection: 4 bytes little-endian length, then postcard.
//!
//! Invariant: the length is checked first, memory grows only with bytes that
//! have arrived, and a frame with bytes left over is an error.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::PeerError;

/// Longest frame: a listing of some ten thousand jobs.
pub(crate) const FRAME_MAX: u32 = 16 << 20;

/// Parses exactly one `T`.
///
/// # Errors
/// When bytes are missing, wrong, or left over.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, PeerError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(PeerError::Garbage(format!(
            "{} bytes left over",
            rest.len()
        ))),
        Err(error) => Err(PeerError::Garbage(error.to_string())),
    }
}

/// Reads one frame. Not cancel-safe: run it to its end, or drop the stream.
///
/// # Errors
/// When the stream ends or carries nonsense.
pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<T, PeerError> {
    let len = from.read_u32_le().await?;
    if len > FRAME_MAX {
        return Err(PeerError::Garbage(format!("a frame of {len} bytes")));
    }
    decode(&read_body(from, len as usize).await?)
}

/// Reads `len` bytes, which the caller has bounded.
pub(crate) async fn read_body(
    from: &mut (impl AsyncRead + Unpin),
    len: usize,
) -> Result<Vec<u8>, PeerError> {
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(PeerError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(body)
}

/// Writes one frame.
///
/// # Errors
/// When it would be too long or the stream fails.
pub(crate) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), PeerError> {
    let body =
        postcard::to_stdvec(message).map_err(|error| PeerError::Garbage(error.to_string()))?;
    let len = u32::try_from(body.len())
        .ok()
        .filter(|len| *len <= FRAME_MAX);
    let len = len.ok_or_else(|| PeerError::Garbage(format!("a frame of {} bytes", body.len())))?;
    to.write_all(&len.to_le_bytes()).await?;
    to.write_all(&body).await?;
    to.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::message::{Call, Question};

    #[tokio::test]
    async fn frames_survive_and_hostile_ones_are_errors() {
        let call = Call {
            id: 7,
            question: Question::Ps,
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &call).await.unwrap();
        let back: Call = read(&mut bytes.as_slice()).await.unwrap();
        assert_eq!(back.id, 7);
        for cut in 0..bytes.len() {
            assert!(read::<Call>(&mut &bytes[..cut]).await.is_err());
        }
        let long = (FRAME_MAX + 1).to_le_bytes();
        assert!(matches!(
            read::<Call>(&mut long.as_slice()).await,
            Err(PeerError::Garbage(_))
        ));
        bytes[0] += 1;
        bytes.push(0);
        assert!(matches!(
            read::<Call>(&mut bytes.as_slice()).await,
            Err(PeerError::Garbage(_))
        ));
    }

    /// A linear congruential walk: the same noise in every run.
    #[tokio::test]
    async fn noise_never_panics() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut body = Vec::new();
            for _ in 0..(seed >> 40) % 40 {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                body.push((seed >> 56).to_le_bytes()[0]);
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if let Ok(call) = decode::<Call>(&body) {
                assert!(postcard::to_stdvec(&call).unwrap().len() <= body.len());
            }
        }
    }
}
