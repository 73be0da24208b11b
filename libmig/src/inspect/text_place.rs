//! Where a reader is in a text of `/proc`, in lines: the kernel writes the text anew for
//! whoever goes on reading after a pause, and on another node a number in a line that has
//! been read already may have more or fewer digits. A reader that went on at the same byte
//! would get half a line, or one twice.

use std::io::{self, Read};

use crate::image::TextPlace;

/// Bytes of the longest text that is looked through: the mappings of a process that has as
/// many as it may.
const LONGEST: u64 = 16 << 20;
/// What whoever looks at a process sees of it but not the process itself, which runs when
/// it reads.
const STATE: &[u8] = b"\nState:\t";
const RUNNING: &[u8] = b"R (running)";

/// A text as the process sees it that it is about.
///
/// # Errors
/// Of the read.
pub fn read(text: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    text.take(LONGEST).read_to_end(&mut bytes)?;
    if let Some(found) = memmem(&bytes, STATE) {
        let state = found + STATE.len();
        let end = memmem(&bytes[state..], b"\n").map_or(bytes.len(), |len| state + len);
        bytes.splice(state..end, RUNNING.iter().copied());
    }
    Ok(bytes)
}

/// The place of byte `position`; nothing if the text has no such byte, or is none.
#[must_use]
pub fn find(text: &[u8], position: u64) -> Option<TextPlace> {
    let passed = text.get(..usize::try_from(position).ok()?)?;
    let mut lines = passed.split(|byte| *byte == b'\n');
    let last = lines.next_back()?;
    (!passed.contains(&0)).then(|| TextPlace {
        line: lines.count() as u64,
        column: last.len() as u64,
    })
}

/// The byte at that place: the end of the line if it is shorter here, of the text if it has
/// no such line.
#[must_use]
pub fn position(text: &[u8], place: TextPlace) -> u64 {
    let mut left = place.line;
    let mut begin = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if left == 0 {
            let len = line.strip_suffix(b"\n").unwrap_or(line).len() as u64;
            return begin + place.column.min(len);
        }
        left -= 1;
        begin += line.len() as u64;
    }
    begin
}

fn memmem(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|piece| piece == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "Name:\tcat\nFDSize:\t64\n\nGroups:\t1 2\n";
    const THERE: &str = "Name:\tcat\nFDSize:\t256\n\nGroups:\t1\n";

    #[test]
    fn a_reader_goes_on_in_the_same_line() {
        let rest = |passed: usize| {
            let place = find(HERE.as_bytes(), passed as u64).unwrap();
            &THERE[usize::try_from(position(THERE.as_bytes(), place)).unwrap()..]
        };
        let passed = |text: &str| HERE.find(text).unwrap();
        assert_eq!(rest(0), THERE);
        assert_eq!(rest(passed("FDSize")), "FDSize:\t256\n\nGroups:\t1\n");
        assert_eq!(rest(passed("64")), "256\n\nGroups:\t1\n");
        assert_eq!(rest(passed("\n\n") + 1), "\nGroups:\t1\n");
        assert_eq!(rest(passed("oups")), "oups:\t1\n");
        assert_eq!(rest(passed(" 2") + 1), "\n", "the line is shorter");
        assert_eq!(rest(HERE.len()), "");
    }

    #[test]
    fn what_is_no_text_has_no_lines() {
        assert_eq!(find(HERE.as_bytes(), 1000), None);
        assert_eq!(find(b"a\0b", 3), None);
        let far = TextPlace {
            line: u64::MAX,
            column: u64::MAX,
        };
        assert_eq!(position(THERE.as_bytes(), far), THERE.len() as u64);
    }

    #[test]
    fn a_process_sees_itself_run() {
        let seen = "Name:\tcat\nState:\tt (tracing stop)\nTgid:\t7\n";
        let own = "Name:\tcat\nState:\tR (running)\nTgid:\t7\n";
        assert_eq!(read(seen.as_bytes()).unwrap(), own.as_bytes());
        assert_eq!(read(HERE.as_bytes()).unwrap(), HERE.as_bytes());
    }
}
