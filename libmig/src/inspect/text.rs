//! Files of `/proc` as text.
//!
//! A capture reads some ten of them for each thread while the job stands
//! still. std::fs asks for a size first, which they do not have, and then
//! begins with small reads; each of those is a system call, and some files are
//! composed anew for every one of them.

use std::{io, path::Path};

use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags},
    io::{read, retry_on_intr},
};

/// Room for most files at once; larger ones come by the page.
const FIRST: usize = 4096;

/// All of a file.
///
/// # Errors
/// As of open(2) and read(2).
pub fn bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.as_ref(), flags, Mode::empty())?;
    let mut text = Vec::with_capacity(FIRST);
    while retry_on_intr(|| read(&file, spare_capacity(&mut text)))? > 0 {
        if text.capacity() - text.len() < FIRST {
            text.reserve(text.capacity().max(FIRST));
        }
    }
    Ok(text)
}

/// All of a file that the kernel composes as one piece (`stat`, `status`,
/// `fdinfo`, `comm`, ...): what is not filled is its end, without another look.
///
/// # Errors
/// As of open(2) and read(2).
pub fn piece(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.as_ref(), flags, Mode::empty())?;
    let mut text = Vec::with_capacity(FIRST);
    loop {
        let count = retry_on_intr(|| read(&file, spare_capacity(&mut text)))?;
        if count == 0 || text.len() < text.capacity() {
            return Ok(text);
        }
        text.reserve(text.capacity());
    }
}

/// As [`bytes`], for a file that is UTF-8.
///
/// # Errors
/// Also InvalidData.
pub fn string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(bytes(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_are_read_to_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for length in [0, 1, FIRST - 1, FIRST, FIRST + 1, 5 * FIRST + 7] {
            let text: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
            std::fs::write(&path, &text).unwrap();
            assert_eq!(bytes(&path).unwrap(), text);
            assert_eq!(piece(&path).unwrap(), text);
        }
    }

    #[test]
    fn one_piece_is_all() {
        for name in ["comm", "limits", "fdinfo/0"] {
            let path = format!("/proc/thread-self/{name}");
            assert_eq!(piece(&path).unwrap(), bytes(&path).unwrap(), "{name}");
        }
        let status = piece("/proc/thread-self/status").unwrap();
        assert!(status.starts_with(b"Name:") && status.ends_with(b"\n"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let error = string("/proc/0/stat").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
