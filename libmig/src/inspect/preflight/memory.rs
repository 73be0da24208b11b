//! The program of a process, its mappings and its directories.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use super::{
    namespaces,
    subject::{Finding, Subject},
};
use crate::{
    inspect::{
        atlas::Atlas,
        fd,
        mapping_rules::{self, Kind},
        refusal::{self, Refusal},
        shm::{self, Shm, Whereabouts, whereabouts},
        smaps::{self, DetailedArea},
        uring,
    },
    sys::HostPid,
};

const DELETED: &[u8] = b" (deleted)";
const RESTART: &str = "restart the program, so that it uses the file that is there now";

pub(super) fn check(subject: &mut Subject, init: HostPid, atlas: Option<&Atlas>) {
    let class = program_class(subject.host);
    if let Some(class) = subject.read("its program", class)
        && class != ELFCLASS64
    {
        subject.refuse_process(Finding::new(
            "it is a 32-bit program",
            "use the 64-bit version of the program",
        ));
    }
    let Some(atlas) = atlas else {
        return;
    };
    for (link, remedy) in [
        ("exe", RESTART),
        ("cwd", "let the program change to a directory that exists"),
        ("root", "start the program in a directory that exists"),
    ] {
        check_link(subject, atlas, link, remedy);
    }
    let own = HostPid::own();
    let apart = namespaces::link(init, "ipc") != namespaces::link(own, "ipc");
    check_mappings(subject, atlas, apart);
}

const ELFCLASS64: u8 = 2;

/// EI_CLASS of the program; what runs without ELF (there is nothing else) is
/// taken for 64-bit.
fn program_class(host: HostPid) -> io::Result<u8> {
    let mut head = [0; 5];
    let mut program = File::open(format!("/proc/{host}/exe"))?;
    match program.read_exact(&mut head) {
        Ok(()) if head.starts_with(b"\x7fELF") => Ok(head[4]),
        Ok(()) => Ok(ELFCLASS64),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(ELFCLASS64),
        Err(error) => Err(error),
    }
}

/// A link of `/proc/PID` has to lead to what the same path leads to at the
/// destination: a path in the job's root.
fn check_link(subject: &mut Subject, atlas: &Atlas, link: &'static str, remedy: &'static str) {
    let magic = format!("/proc/{}/{link}", subject.host);
    let root = atlas.place(Path::new(&magic)).root;
    let seen = fs::read_link(&magic).and_then(|path| Ok((path, fs::metadata(&magic)?)));
    let Some((path, metadata)) = subject.read(link, seen) else {
        return;
    };
    // The contents of a program travel when its name is gone.
    if link == "exe" && matches!(shm::nameless_program(root, subject.host), Ok(Some(_))) {
        return;
    }
    let path = path.as_os_str().as_bytes();
    let identity = (metadata.dev(), metadata.ino());
    let reason = if path.ends_with(DELETED) && !fd::leads_to(root, path, identity) {
        "it has been deleted"
    } else if !fd::leads_to(root, path, identity) {
        "its name means something else in the root directory of the job"
    } else {
        return;
    };
    let object = format!("{link} {}", String::from_utf8_lossy(path));
    subject.refuse(object, Finding::new(reason, remedy));
}

/// `apart`: the job has an IPC namespace of its own.
fn check_mappings(subject: &mut Subject, atlas: &Atlas, apart: bool) {
    let areas = smaps::read(subject.host);
    let Some(areas) = subject.read("its mappings", areas) else {
        return;
    };
    let own = Shm::of(atlas.home()).ok().flatten().map(|shm| shm.device());
    // A file has several mappings as a rule: one look, and each reason once.
    let mut looked = BTreeSet::new();
    let mut told = BTreeSet::new();
    for area in &areas {
        let writes = area.area.shared && area.has(b"mw");
        let file = (area.area.device, area.area.inode, writes, &area.area.name);
        match mapping_rules::classify(subject.pid, area) {
            Ok(Kind::File) if looked.insert(file) => {
                // An error: the mapping has changed since.
                if let Ok(Some(finding)) = unreachable(subject.host, atlas, own, area) {
                    subject.refuse(mapping_rules::describe(area), finding);
                }
            }
            Ok(Kind::SystemV) if !apart && looked.insert(file) => {
                let remedy = "start the program with `mig exec`";
                let finding = Finding::new(mapping_rules::FOREIGN_SEGMENT, remedy);
                subject.refuse(mapping_rules::describe(area), finding);
            }
            Ok(Kind::Ring) => {
                if let Ok(None) = uring::descriptor(subject.host, area.area.inode) {
                    let refusal = Refusal::closed_ring();
                    let finding = Finding::new(refusal.reason, refusal::NO_RINGS);
                    subject.refuse(mapping_rules::describe(area), finding);
                }
            }
            Ok(_) => {}
            Err(obstacle) => {
                if area.area.inode == 0 || told.insert((file, obstacle.reason.clone())) {
                    subject.push(obstacle);
                }
            }
        }
    }
}

/// Why the file of a mapping would not be found by its name.
fn unreachable(
    host: HostPid,
    atlas: &Atlas,
    own: Option<u64>,
    area: &DetailedArea,
) -> io::Result<Option<Finding>> {
    let (start, end) = (area.area.start, area.area.end);
    let link = format!("/proc/{host}/map_files/{start:x}-{end:x}");
    let mapped = fs::metadata(&link)?;
    Ok(
        match whereabouts(atlas.place(Path::new(&link)).root, own, area, &mapped) {
            Whereabouts::Named | Whereabouts::Object => None,
            Whereabouts::Lost(reason) => Some(Finding::new(reason, RESTART)),
        },
    )
}
