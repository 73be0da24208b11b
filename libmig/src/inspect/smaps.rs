//! `/proc/PID/smaps`: mappings with their VmFlags. Walks page tables (14 ms per
//! GiB of 4 KiB pages): once per capture.

use std::io;

use super::maps::{Area, parse_line};
use crate::sys::HostPid;

/// A mapping with what only smaps tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetailedArea {
    /// As in maps.
    pub area: Area,
    /// Two-letter VmFlags.
    pub flags: Vec<[u8; 2]>,
    /// KernelPageSize in KiB.
    pub page_kib: u32,
    /// ProtectionKey; 0 where the CPU has none.
    pub protection_key: u32,
}

impl DetailedArea {
    /// Whether a VmFlag is set.
    #[must_use]
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }
}

/// The mappings of a process, by rising address.
///
/// # Errors
/// When the process is gone; InvalidData for an unknown format.
pub fn read(pid: HostPid) -> io::Result<Vec<DetailedArea>> {
    parse(&super::text::bytes(format!("/proc/{pid}/smaps"))?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown format of smaps"))
}

/// Parses `/proc/PID/smaps`.
#[must_use]
pub fn parse(text: &[u8]) -> Option<Vec<DetailedArea>> {
    let mut areas: Vec<DetailedArea> = Vec::new();
    let mut complete = true;
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let first = line.split(|byte| *byte == b' ').next()?;
        let Some(key) = first.strip_suffix(b":") else {
            // A header: the one before must have had its flags, which come last.
            if !complete {
                return None;
            }
            complete = false;
            areas.push(DetailedArea {
                area: parse_line(line)?,
                flags: Vec::new(),
                page_kib: 4,
                protection_key: 0,
            });
            continue;
        };
        let value = std::str::from_utf8(&line[first.len()..]).ok()?;
        let area = areas.last_mut()?;
        match key {
            b"VmFlags" => {
                area.flags = value
                    .split_ascii_whitespace()
                    .map(|flag| flag.as_bytes().try_into().ok())
                    .collect::<Option<_>>()?;
                complete = true;
            }
            b"KernelPageSize" => area.page_kib = value.trim().strip_suffix(" kB")?.parse().ok()?,
            b"ProtectionKey" => area.protection_key = value.trim().parse().ok()?,
            _ => {}
        }
    }
    complete.then_some(areas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_flags_and_page_size() {
        let text = b"7f00-8f00 rw-p 00000000 00:00 0 \nSize: 4 kB\nKernelPageSize:     2048 kB\nVmFlags: rd wr mr mw me ac \n\
            9f00-af00 ---p 00000000 00:00 0                  [stack]\nKernelPageSize:        4 kB\nProtectionKey:         3\nVmFlags: gd \n";
        let areas = parse(text).unwrap();
        assert!(areas[0].has(b"ac") && !areas[0].has(b"gd") && areas[1].has(b"gd"));
        assert_eq!((areas[0].page_kib, areas[1].protection_key), (2048, 3));
        assert_eq!(parse(&text[..text.len() - 15]), None);
    }

    #[test]
    fn agrees_with_maps() {
        let own = HostPid::own();
        assert!(
            read(own)
                .unwrap()
                .iter()
                .any(|detailed| detailed.area.name == b"[stack]" && detailed.has(b"gd"))
        );
    }
}
