//! The text that the demo's program reads: tens of megabytes of made-up words, always the same.

use std::io::{self, Write};

/// Its length in bytes.
pub(super) const LENGTH: usize = 40 << 20;
/// The program reads blocks of this length; none of them ends within a word.
const BLOCK: usize = 64 << 10;
const WORDS: usize = 300;

/// Writes it.
pub(super) fn write(out: &mut impl Write) -> io::Result<()> {
    let mut random = Random(0x6d69_675f_6465_6d6f);
    let words: Vec<Vec<u8>> = (0..WORDS).map(|_| word(&mut random)).collect();
    for _ in 0..LENGTH / BLOCK {
        out.write_all(&block(&words, &mut random))?;
    }
    Ok(())
}

fn word(random: &mut Random) -> Vec<u8> {
    let length = 2 + random.below(8);
    (0..length)
        .map(|_| b"abcdefghijklmnopqrstuvwxyz"[random.below(26)])
        .collect()
}

fn block(words: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        let word = &words[random.below(words.len())];
        if block.len() + word.len() + 1 >= BLOCK {
            break;
        }
        block.extend_from_slice(word);
        block.push(b' ');
    }
    block.resize(BLOCK - 1, b' ');
    block.push(b'\n');
    block
}

/// Marsaglia's xorshift: enough to look like a text, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let high = usize::try_from(self.0 >> 33).unwrap_or(0);
        high % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_and_always_the_same() {
        let make = || {
            let mut text = Vec::new();
            write(&mut text).unwrap();
            text
        };
        let text = make();
        assert_eq!(text.len(), LENGTH);
        assert!(text.chunks(BLOCK).all(|block| block.ends_with(b"\n")));
        assert_eq!(text, make());
    }
}
