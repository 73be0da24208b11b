//! Noise, and what it does to input. Nothing here is random that the seed does not decide.

use std::time::{SystemTime, UNIX_EPOCH};

/// Values that decoders are known to stumble over.
const SPECIAL: &[&[u8]] = &[
    b"",
    b"0",
    b"-1",
    b"18446744073709551615",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"ffffffffffffffff",
    b"(",
    b")",
    b":",
    b" ",
    b"\t",
    b"\n",
    b"\0",
    b"\\012",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
];

/// Longest input that is grown.
const LONGEST: usize = 4096;

/// A source of noise (xorshift64).
#[derive(Debug)]
pub(super) struct Noise {
    state: u64,
    seed: u64,
}

impl Noise {
    pub(super) fn new() -> Self {
        let seed = match std::env::var("MIG_FUZZ_SEED") {
            Ok(text) => text.parse().expect("a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |since| u64::from(since.subsec_nanos()) + since.as_secs()),
        };
        Self {
            // Nothing comes from a zero.
            state: seed | 1 << 63,
            seed,
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not zero.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("usize has 64 bits");
        usize::try_from((self.next() >> 32) % end).expect("below end")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// At most `most` bytes.
    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.byte()).collect()
    }

    /// A copy with some damage: bytes changed, cut out, doubled, replaced.
    pub(super) fn damaged(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(4) {
            let from = self.below(bytes.len() + 1);
            let to = from + self.below((bytes.len() - from).min(40) + 1);
            let piece = match self.below(6) {
                0 => {
                    bytes.truncate(from);
                    continue;
                }
                1 => Vec::new(),
                2 => [&bytes[from..to], &bytes[from..to]].concat(),
                3 => self.bytes(8),
                4 => bytes[from..to]
                    .iter()
                    .map(|byte| byte ^ 1 << self.below(8))
                    .collect(),
                _ => SPECIAL[self.below(SPECIAL.len())].to_vec(),
            };
            bytes.splice(from..to, piece);
        }
        bytes
    }

    /// Bytes that `decode` takes, or that are as long as it may get: one byte more as long as that is what
    /// is missing, another one otherwise. Small ones, most of the time: they count what follows.
    pub(super) fn grown(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<(), postcard::Error>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..LONGEST {
            match decode(&bytes) {
                Ok(()) => break,
                Err(postcard::Error::DeserializeUnexpectedEnd) => {}
                Err(_) => _ = bytes.pop(),
            }
            let next = if self.below(8) == 0 {
                self.byte()
            } else {
                self.byte() % 3
            };
            bytes.push(next);
        }
        bytes
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: MIG_FUZZ_SEED={}", self.seed);
        }
    }
}
