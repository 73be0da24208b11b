//! The last output of a terminal that no one looks at.

use std::collections::VecDeque;

/// How much is kept.
pub(crate) const CAPACITY: usize = 1 << 20;

/// A bounded queue of bytes that forgets the oldest.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: VecDeque<u8>,
}

impl Ring {
    /// Adds output; the oldest bytes above [`CAPACITY`] are forgotten.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// What is kept, oldest first.
    pub(crate) fn contents(&mut self) -> &[u8] {
        self.bytes.make_contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest() {
        let mut ring = Ring::default();
        ring.push(b"old");
        ring.push(&vec![b'x'; CAPACITY - 2]);
        assert_eq!(ring.contents().len(), CAPACITY);
        assert!(ring.contents().starts_with(b"ldx"));
        ring.push(&vec![b'y'; CAPACITY + 5]);
        assert_eq!(ring.contents(), vec![b'y'; CAPACITY]);
    }
}
