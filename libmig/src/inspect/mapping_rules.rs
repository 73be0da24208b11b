//! Which mappings can move: kinds by name, VmFlags by an explicit list. What
//! is not listed is refused by its name, never ignored.

use super::{maps::Area, smaps::DetailedArea, system_v::key_of_mapping};
use crate::api::Obstacle;

/// What a mapping is, as far as a move is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Private anonymous memory.
    Anonymous,
    /// A view of a file, whose name may be gone.
    File,
    /// A memfd or shared anonymous memory.
    Shared,
    /// A segment of System V shared memory.
    SystemV,
    /// The memory of an io_uring, whose state its descriptor tells.
    Ring,
    /// `[vdso]`.
    Vdso,
    /// `[vvar]`.
    Vvar,
    /// `[vvar_vclock]`.
    VvarClock,
    /// `[vsyscall]`: the same in every process.
    Vsyscall,
}

/// Why a segment of another IPC namespace than the capsule's cannot move.
pub(crate) const FOREIGN_SEGMENT: &str = "it is System V shared memory of the node, not of a job";

/// VmFlags that a move carries along, or that need no carrying.
const MOVABLE: [&[u8; 2]; 27] = [
    b"rd", b"wr", b"ex", b"sh", b"mr", b"mw", b"me", b"ms", b"gd", b"lo", b"lf", b"sr", b"rr",
    b"dc", b"ac", b"nr", b"ht", b"wf", b"dd", b"sd", b"hg", b"nh", b"mg", b"sl", b"gu", b"dp",
    b"ar",
];

/// Where the kernel lets the parts of an io_uring be mapped.
const RING_OFFSETS: [u64; 3] = [0, 0x800_0000, 0x1000_0000];

/// VmFlags that are refused, and why.
const REFUSED: [(&[u8; 2], &str, &str); 11] = [
    (
        b"um",
        "the program handles its page faults itself (userfaultfd)",
        "none yet",
    ),
    (
        b"uw",
        "the program tracks its writes itself (userfaultfd)",
        "none yet",
    ),
    (
        b"ui",
        "the program handles its page faults itself (userfaultfd)",
        "none yet",
    ),
    (
        b"io",
        "it is memory of a device",
        "end the part of the program that uses the device",
    ),
    (
        b"pf",
        "it is memory of a device or a driver",
        "end the part of the program that uses the device",
    ),
    (
        b"mm",
        "it is memory of a device or a driver",
        "end the part of the program that uses the device",
    ),
    (
        b"ss",
        "it is a shadow stack",
        "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
    ),
    (
        b"sf",
        "it is persistent memory (DAX)",
        "use a file system without DAX",
    ),
    (
        b"de",
        "it belongs to a driver and cannot be made by mmap",
        "close what it belongs to",
    ),
    (b"bt", "it has branch protection", "none yet"),
    (b"mt", "it has memory tags", "none yet"),
];

/// The kind of a mapping.
///
/// # Errors
/// The obstacle, for one that cannot move.
pub fn classify(pid: i32, area: &DetailedArea) -> Result<Kind, Obstacle> {
    let kind = kind(&area.area).ok_or_else(|| refuse_name(pid, area))?;
    if matches!(
        kind,
        Kind::Vdso | Kind::Vvar | Kind::VvarClock | Kind::Vsyscall
    ) {
        return Ok(kind);
    }
    if kind == Kind::SystemV && area.has(b"ht") {
        return Err(refuse(
            pid,
            area,
            "it is System V shared memory with huge pages (SHM_HUGETLB)".to_owned(),
            "use ordinary pages, with transparent huge pages where they help",
        ));
    }
    for flag in &area.flags {
        // hugetlbfs sets "de" on its own mappings, which mmap does make.
        let by_kernel = matches!(flag, b"de" | b"mm") && kind == Kind::Ring;
        if MOVABLE.contains(&flag) || (flag == b"de" && area.has(b"ht")) || by_kernel {
            continue;
        }
        return Err(refuse_flag(pid, area, *flag));
    }
    if area.protection_key != 0 {
        return Err(refuse(
            pid,
            area,
            format!("it has memory protection key {}", area.protection_key),
            "none yet",
        ));
    }
    Ok(kind)
}

/// How an obstacle names a mapping.
#[must_use]
pub fn describe(area: &DetailedArea) -> String {
    let name = String::from_utf8_lossy(&area.area.name);
    let range = format!("mapping {:#x}-{:#x}", area.area.start, area.area.end);
    if name.is_empty() {
        range
    } else {
        format!("{range} ({name})")
    }
}

/// The name that the program gave to an anonymous mapping (PR_SET_VMA_ANON_NAME).
#[must_use]
pub fn given_name(name: &[u8]) -> Option<&[u8]> {
    [b"[anon:".as_slice(), b"[anon_shmem:"]
        .iter()
        .find_map(|start| name.strip_prefix(*start)?.strip_suffix(b"]"))
}

/// The name of a shared object, which one that the program gave hides.
#[must_use]
pub fn object_name(name: &[u8]) -> &[u8] {
    match given_name(name) {
        Some(_) => b"/dev/zero (deleted)",
        None => name,
    }
}

/// What a mapping is by its name; nothing for one that cannot move.
pub(super) fn kind(area: &Area) -> Option<Kind> {
    let name = area.name.as_slice();
    match name {
        b"" | b"[heap]" | b"[stack]" if !area.shared => return Some(Kind::Anonymous),
        b"[vdso]" => return Some(Kind::Vdso),
        b"[vvar]" => return Some(Kind::Vvar),
        b"[vvar_vclock]" => return Some(Kind::VvarClock),
        b"[vsyscall]" => return Some(Kind::Vsyscall),
        b"anon_inode:[io_uring]" if area.shared && RING_OFFSETS.contains(&area.offset) => {
            return Some(Kind::Ring);
        }
        // MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB has a file of the kernel's behind it.
        b"/anon_hugepage (deleted)" if !area.shared => return Some(Kind::Anonymous),
        _ => {}
    }
    if given_name(name).is_some() {
        return Some(if area.shared {
            Kind::Shared
        } else {
            Kind::Anonymous
        });
    }
    if matches!(name, b"/dev/zero (deleted)" | b"/anon_hugepage (deleted)")
        || name.starts_with(b"/memfd:")
    {
        return name.ends_with(b" (deleted)").then_some(Kind::Shared);
    }
    if area.shared && key_of_mapping(name).is_some() {
        return Some(Kind::SystemV);
    }
    // A device maps something else on another node; what is private of
    // /dev/zero is ordinary memory.
    let device =
        name.starts_with(b"/dev/") && !name.starts_with(b"/dev/shm/") && name != b"/dev/zero";
    let kernel = name.starts_with(b"/[aio]")
        || name.starts_with(b"/anon_inode:")
        || name.starts_with(b"/secretmem");
    (name.starts_with(b"/") && !device && !kernel).then_some(Kind::File)
}

fn refuse_name(pid: i32, area: &DetailedArea) -> Obstacle {
    let name = area.area.name.as_slice();
    let (reason, remedy) = if name.starts_with(b"/[aio]") {
        (
            "it is the ring of asynchronous I/O (io_setup)",
            "let the program end its asynchronous I/O",
        )
    } else if name.starts_with(b"anon_inode:") || name.starts_with(b"/anon_inode:") {
        (
            "it maps a kernel object (io_uring, perf, bpf)",
            "start the program without it",
        )
    } else if name.starts_with(b"/secretmem") {
        (
            "it is secret memory, which nobody but the program can read",
            "none yet",
        )
    } else if name.starts_with(b"socket:") {
        ("it maps a socket", "close the socket")
    } else if name.starts_with(b"/dev/") {
        (
            "it maps a device",
            "end the part of the program that uses the device",
        )
    } else if name == b"[uprobes]" {
        (
            "a tracer of the whole machine has a breakpoint in it (uprobes)",
            "end the tracing",
        )
    } else {
        (
            "it is a mapping of an unknown kind",
            "report it, with this name",
        )
    };
    refuse(pid, area, reason.to_owned(), remedy)
}

fn refuse_flag(pid: i32, area: &DetailedArea, flag: [u8; 2]) -> Obstacle {
    match REFUSED.iter().find(|(known, ..)| **known == flag) {
        Some((_, reason, remedy)) => refuse(pid, area, (*reason).to_owned(), remedy),
        None => {
            let flag = String::from_utf8_lossy(&flag).into_owned();
            refuse(
                pid,
                area,
                format!("it has the unknown property \"{flag}\""),
                "report it, with this name",
            )
        }
    }
}

fn refuse(pid: i32, area: &DetailedArea, reason: String, remedy: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: describe(area),
        reason,
        remedy: remedy.to_owned(),
        transient: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::smaps;

    fn classify_line(name: &str, sharing: char, flags: &str) -> Result<Kind, Obstacle> {
        let text = format!("7f00-8f00 rw-{sharing} 00000000 00:00 0    {name}\nVmFlags: {flags}\n");
        classify(7, &smaps::parse(text.as_bytes()).unwrap()[0])
    }

    #[test]
    fn kinds_by_name() {
        let cases = [
            ("", 'p', "rd wr mr mw me ac", Kind::Anonymous),
            ("[anon:x]", 'p', "rd", Kind::Anonymous),
            ("anon_inode:[io_uring]", 's', "rd sh de mm", Kind::Ring),
            ("[anon_shmem:x y]", 's', "rd sh", Kind::Shared),
            ("/usr/bin/x", 'p', "rd ex", Kind::File),
            ("/dev/shm/x", 's', "rd sh", Kind::File),
            ("/dev/shm/sem.x (deleted)", 's', "rd sh", Kind::File),
            ("/tmp/x (deleted)", 'p', "rd", Kind::File),
            ("/dev/zero (deleted)", 's', "rd sh", Kind::Shared),
            ("/memfd:a (deleted)", 'p', "rd", Kind::Shared),
            ("/SYSV00000001 (deleted)", 's', "rd sh", Kind::SystemV),
            ("/anon_hugepage (deleted)", 'p', "rd de ht", Kind::Anonymous),
            ("[vvar]", 'p', "rd mr pf io de dd sd", Kind::Vvar),
        ];
        for (name, sharing, flags, kind) in cases {
            assert_eq!(classify_line(name, sharing, flags), Ok(kind), "{name}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for (name, sharing, flags) in [
            ("", 'p', "rd zz"),
            ("", 'p', "rd um"),
            ("", 'p', "rd de"),
            ("", 's', "rd"),
            ("/SYSV00000001 (deleted)", 's', "rd de ht"),
            ("/dev/dri/card0", 's', "rd"),
            ("anon_inode:[perf_event]", 's', "rd"),
            ("[new thing]", 'p', "rd"),
        ] {
            let obstacle = classify_line(name, sharing, flags).unwrap_err();
            assert!(
                obstacle.object.contains(name)
                    && !obstacle.transient
                    && !obstacle.remedy.is_empty()
            );
        }
        let text =
            b"7f00-8f00 rw-p 00000000 00:00 0\nProtectionKey: 3\nVmFlags: rd wr mr mw me ac\n";
        let obstacle = classify(7, &smaps::parse(text).unwrap()[0]).unwrap_err();
        assert!(obstacle.reason.contains("memory protection key 3"));
    }
}
