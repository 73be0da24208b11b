//! `/proc/PID/maps`: which addresses are taken by what, and where injected
//! code may go.
//!
//! Paths are bytes, with the kernel's escape of newlines (`\012`) undone.

use std::io;

use crate::sys::{
    HostPid, process_vm,
    remote::{Foothold, Injector, Site, foothold::PADDING_LEN, ledger::LEDGER_LEN, rewait},
};

/// First byte past user space with 47-bit addresses.
const USER_END: u64 = 0x7fff_ffff_f000;
/// No injected page below: NULL dereferences must keep failing, and many
/// runtimes put things into the low 4 GiB.
const LOWEST: u64 = 0x1_0000_0000;
/// How far to stay away from memory that may grow, if there is room; and at least.
const DISTANCES: [u64; 2] = [512 << 20, 2 << 20];

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    pub protection: u8,
    /// MAP_SHARED (more exactly VM_MAYSHARE).
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Device of the file; (0, 0) when anonymous.
    pub device: (u32, u32),
    /// Inode of the file; 0 when anonymous.
    pub inode: u64,
    /// Path, or a name in brackets, or empty.
    pub name: Vec<u8>,
}

impl Area {
    /// Bytes it covers.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never true: the kernel shows no empty mapping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Whether it can be read without force.
    #[must_use]
    pub fn readable(&self) -> bool {
        i32::from(self.protection) & libc::PROT_READ != 0
    }

    fn executable(&self) -> bool {
        i32::from(self.protection) & libc::PROT_EXEC != 0
    }

    /// Heap and main stack grow; growsdown mappings other than the main stack
    /// are told by smaps only, so that every mapping is kept clear of below.
    fn grows_up(&self) -> bool {
        self.name == b"[heap]"
    }
}

/// The mappings of a process, by rising address.
///
/// # Errors
/// When the process is gone, or for a line that no kernel writes.
pub fn read(pid: HostPid) -> io::Result<Vec<Area>> {
    parse(&super::text::bytes(format!("/proc/{pid}/maps"))?)
}

/// Parses `/proc/PID/maps`.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for anything but its format.
pub fn parse(text: &[u8]) -> io::Result<Vec<Area>> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| parse_line(line).ok_or_else(|| invalid(line)))
        .collect()
}

/// One line: `start-end perms offset major:minor inode   name`.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Area> {
    let mut rest = line;
    let range = field(&mut rest)?;
    let perms = field(&mut rest)?;
    let offset = hex(field(&mut rest)?)?;
    let device = field(&mut rest)?;
    let inode = std::str::from_utf8(field(&mut rest)?).ok()?.parse().ok()?;
    let name = unescape(rest.trim_ascii_start());

    let (start, end) = split(range, b'-')?;
    let (major, minor) = split(device, b':')?;
    let &[read, write, execute, sharing] = perms else {
        return None;
    };
    let bit = |set: u8, letter: u8, value: i32| if set == letter { value } else { 0 };
    let protection = bit(read, b'r', libc::PROT_READ)
        | bit(write, b'w', libc::PROT_WRITE)
        | bit(execute, b'x', libc::PROT_EXEC);
    let (start, end) = (hex(start)?, hex(end)?);
    if start >= end {
        return None;
    }
    Some(Area {
        start,
        end,
        protection: u8::try_from(protection).ok()?,
        shared: sharing == b's',
        offset,
        device: (
            u32::try_from(hex(major)?).ok()?,
            u32::try_from(hex(minor)?).ok()?,
        ),
        inode,
        name,
    })
}

/// Where code can be injected into a process: room for it, and a place to
/// stand for the first system calls.
///
/// # Errors
/// When the process is gone, has no free range, or no executable mapping with
/// a `syscall` instruction.
pub fn injection_site(pid: HostPid) -> io::Result<Site> {
    site_among(pid, &read(pid)?)
}

/// The same, in a process whose mappings are known.
///
/// # Errors
/// As [`injection_site`].
pub fn site_among(pid: HostPid, areas: &[Area]) -> io::Result<Site> {
    let hole = find_hole(areas, Injector::SPAN)
        .ok_or_else(|| io::Error::other("no free address range for injected code"))?;
    let foothold = find_foothold(pid, areas)?;
    Ok(Site { hole, foothold })
}

/// The highest free range of `len` bytes that is in nobody's way: far from what
/// is above it (a stack grows down) and below it, and not right above the heap.
#[must_use]
pub fn find_hole(areas: &[Area], len: u64) -> Option<u64> {
    DISTANCES
        .iter()
        .find_map(|distance| hole_at_distance(areas, len, *distance))
}

fn hole_at_distance(areas: &[Area], len: u64, distance: u64) -> Option<u64> {
    let need = len + 2 * distance;
    let mut above = USER_END;
    for area in areas.iter().rev() {
        if area.start >= USER_END {
            continue;
        }
        let floor = area.end.max(LOWEST);
        if above.checked_sub(floor).is_some_and(|room| room >= need) && !area.grows_up() {
            return Some(above - distance - len);
        }
        above = above.min(area.start);
        if above < LOWEST + need {
            return None;
        }
    }
    above
        .checked_sub(LOWEST)
        .is_some_and(|room| room >= need)
        .then(|| above - distance - len)
}

/// Where to stand in a process.
///
/// # Errors
/// As [`injection_site`].
pub fn foothold(pid: HostPid) -> io::Result<Foothold> {
    find_foothold(pid, &read(pid)?)
}

/// Where the [ledger](crate::sys::remote::ledger) of a process is or can be;
/// `None` without a vDSO that has room for it.
///
/// # Errors
/// When the process is gone.
pub fn ledger_place(pid: HostPid) -> io::Result<Option<u64>> {
    let areas = read(pid)?;
    Ok(match find_foothold(pid, &areas) {
        Ok(Foothold::Padding(at)) => Some(at - LEDGER_LEN as u64),
        _ => None,
    })
}

/// Where the [detour](crate::sys::remote::rewait) of a process is or can be.
///
/// # Errors
/// As [`ledger_place`].
pub fn detour_place(pid: HostPid) -> io::Result<Option<u64>> {
    let areas = read(pid)?;
    Ok(match find_foothold(pid, &areas) {
        Ok(Foothold::Padding(at)) => Some(rewait::place(at + PADDING_LEN as u64)),
        _ => None,
    })
}

fn find_foothold(pid: HostPid, areas: &[Area]) -> io::Result<Foothold> {
    let vdso = areas.iter().find(|area| area.name == b"[vdso]");
    let others = areas
        .iter()
        .filter(|area| area.name != b"[vdso]" && area.readable());
    for area in vdso
        .into_iter()
        .chain(others)
        .filter(|area| area.executable())
    {
        let len = usize::try_from(area.len())
            .unwrap_or(usize::MAX)
            .min(16 << 20);
        let mut code = vec![0; len];
        // Beyond the end of its file a mapping cannot be read: try the next one.
        if process_vm::read_exact(pid, area.start, &mut code).is_err() {
            continue;
        }
        if area.name == b"[vdso]" && code[len - PADDING_LEN..].iter().all(|byte| *byte == 0) {
            return Ok(Foothold::Padding(area.end - PADDING_LEN as u64));
        }
        if let Some(at) = code.windows(2).position(|pair| pair == [0x0f, 0x05]) {
            return Ok(Foothold::Syscall(area.start + at as u64));
        }
    }
    Err(io::Error::other(
        "no system call instruction in any executable mapping",
    ))
}

/// Takes the next space-separated field.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(rest.len());
    let (field, tail) = rest.split_at(end);
    *rest = tail.strip_prefix(b" ").unwrap_or(tail);
    (!field.is_empty()).then_some(field)
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let middle = text.iter().position(|byte| *byte == at)?;
    Some((&text[..middle], &text[middle + 1..]))
}

fn hex(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// Undoes the only escape in maps: `\012` for a newline.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn invalid(line: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("unknown line in maps: {}", String::from_utf8_lossy(line)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_of_all_kinds() {
        let text = b"55d0c8a00000-55d0c8a02000 r-xp 00001000 fe:00 325843                     /opt/a b\\012c (deleted)\n\
            7f0000000000-7f0000001000 rw-s 00000000 00:05 12 /dev/zero (deleted)\n\
            7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n\
            7f1000000000-7f1000001000 ---p 00000000 00:00 0 \n";
        let areas = parse(text).unwrap();
        assert_eq!(areas[0].name, b"/opt/a b\nc (deleted)");
        assert_eq!(
            (
                areas[0].protection,
                areas[0].offset,
                areas[0].device,
                areas[0].inode
            ),
            (5, 0x1000, (0xfe, 0), 325_843)
        );
        assert!(areas[1].shared && !areas[0].shared);
        assert_eq!(areas[2].name, b"[stack]");
        assert_eq!((areas[3].protection, areas[3].name.len()), (0, 0));
    }

    #[test]
    fn refuses_what_no_kernel_writes() {
        for line in [
            &b"x"[..],
            b"2-1 r--p 0 0:0 0",
            b"1-2 r-p 0 0:0 0",
            b"1-2 r--p 0 00 0",
            b"1-2 r--p zz 0:0 0",
        ] {
            assert!(parse(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn reads_its_own_process() {
        let areas = read(HostPid::own()).unwrap();
        assert!(areas.iter().any(|area| area.name == b"[stack]"));
        assert!(areas.is_sorted_by_key(|area| area.start));
    }

    fn area(start: u64, end: u64, name: &[u8]) -> Area {
        Area {
            start,
            end,
            protection: 3,
            shared: false,
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: name.to_vec(),
        }
    }

    #[test]
    fn a_hole_keeps_its_distance() {
        let len = Injector::SPAN;
        let areas = [
            area(0x40_0000, 0x50_0000, b"/bin/x"),
            area(0x5555_0000_0000, 0x5555_0010_0000, b"[heap]"),
            area(0x7fff_f000_0000, 0x7fff_f002_0000, b"[stack]"),
        ];
        let hole = find_hole(&areas, len).unwrap();
        assert!(
            areas
                .iter()
                .all(|area| hole + len + DISTANCES[1] <= area.start
                    || hole >= area.end + DISTANCES[1]),
            "{hole:#x}"
        );
        let full = [area(0x1000, USER_END, b"")];
        assert_eq!(find_hole(&full, len), None);
    }
}
