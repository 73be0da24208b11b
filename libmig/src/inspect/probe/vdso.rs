//! The build ID of this kernel's vDSO, read from our own memory.
//!
//! Two kernels with the same build ID have the same vDSO, byte by byte: a
//! program that was stopped in it can go on in the other.

use std::{fs::File, io, os::unix::fs::FileExt};

use procfs::process::{MMapPath, Process};

use super::Seen::{self, Fails, Works};

/// A vDSO is 2 to 4 pages; more is none.
const VDSO_MAX: usize = 64 << 10;
const PT_NOTE: u64 = 4;
const NT_GNU_BUILD_ID: u64 = 3;

pub(super) fn found() -> Seen {
    match build_id() {
        Some(id) => Works(format!("build ID {id}")),
        None => Fails("no vDSO with a build ID".to_owned()),
    }
}

/// In hexadecimal.
pub(super) fn build_id() -> Option<String> {
    let image = own_vdso().ok()?;
    let id = note(&image)?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn own_vdso() -> io::Result<Vec<u8>> {
    let maps = Process::myself().and_then(|me| me.maps());
    let maps = maps.map_err(io::Error::other)?;
    let vdso = maps.iter().find(|map| map.pathname == MMapPath::Vdso);
    let (start, end) = vdso.ok_or(io::ErrorKind::NotFound)?.address;
    let length = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
    let mut image = vec![0; length.min(VDSO_MAX)];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, start)?;
    Ok(image)
}

/// The build ID in an ELF64 image whose offsets are those of the file.
fn note(image: &[u8]) -> Option<&[u8]> {
    image.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let headers = usize::try_from(number(image, 32, 8)?).ok()?;
    let size = usize::try_from(number(image, 54, 2)?).ok()?;
    let count = usize::try_from(number(image, 56, 2)?).ok()?;
    (0..count).find_map(|index| {
        let header = headers.checked_add(index.checked_mul(size)?)?;
        let kind = number(image, header, 4)?;
        let offset = usize::try_from(number(image, header.checked_add(8)?, 8)?).ok()?;
        let length = usize::try_from(number(image, header.checked_add(32)?, 8)?).ok()?;
        let notes = image.get(offset..offset.checked_add(length)?)?;
        (kind == PT_NOTE).then(|| build_id_among(notes)).flatten()
    })
}

fn build_id_among(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let name = usize::try_from(number(notes, 0, 4)?).ok()?;
        let description = usize::try_from(number(notes, 4, 4)?).ok()?;
        let kind = number(notes, 8, 4)?;
        let start = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
        let end = start.checked_add(description)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..)?.starts_with(b"GNU\0") {
            return notes.get(start..end);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// A little-endian number of `size` bytes, 8 at most.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    let mut wide = [0; 8];
    wide.get_mut(..size)?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_has_one() {
        let id = build_id().unwrap();
        assert!(
            id.len() >= 16 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id}"
        );
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let image = own_vdso().unwrap();
        let whole = note(&image).map(<[u8]>::to_vec);
        for end in 0..image.len().min(1024) {
            let cut = note(&image[..end]).map(<[u8]>::to_vec);
            assert!(cut.is_none() || cut == whole, "cut at {end}");
        }
        // Every single byte of the headers, at its worst.
        for at in 0..image.len().min(1024) {
            for value in [0, 0x7f, 0xff] {
                let mut bad = image.clone();
                bad[at] = value;
                let length = note(&bad).map_or(0, <[u8]>::len);
                assert!(length <= bad.len(), "byte {at} = {value}");
            }
        }
    }
}
