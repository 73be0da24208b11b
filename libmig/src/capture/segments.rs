//! Segments of System V shared memory in the capsule's IPC namespace. Their contents are
//! read through somebody's attachment, so that nobody else's is counted; only one that
//! nobody has attached is attached for a moment.

use std::{collections::BTreeMap, fs::File, io};

use rustix::fs::{SeekFrom, fstatfs, seek};

use super::shared::HUGETLBFS_MAGIC;
use crate::{
    api::Obstacle,
    image::{IpcObject, Pid, Segment},
    inspect::{
        maps::{self, Area},
        system_v::{Line, key_of_mapping},
    },
    sys::{HostPid, process_vm, segment::Attachment},
};

const PAGE: u64 = 4096;
/// SHM_DEST and SHM_LOCKED of shm_perm.mode.
const REMOVED: i64 = 0o1000;
const LOCKED: i64 = 0o2000;

/// A segment, and a file to read its contents with.
pub(super) struct Found {
    pub(super) segment: Segment,
    pub(super) size: u64,
    pub(super) file: File,
}

/// Mappings of segments in processes of the job, by the IDs of the segments.
pub(super) type Attached = BTreeMap<u64, Vec<(HostPid, Area)>>;

/// Who in the job has which segment attached.
pub(super) fn attached(processes: &[(Pid, HostPid)]) -> io::Result<Attached> {
    let mut found = Attached::new();
    for (_, host) in processes {
        for area in maps::read(*host)? {
            if key_of_mapping(&area.name).is_some() {
                found.entry(area.inode).or_default().push((*host, area));
            }
        }
    }
    Ok(found)
}

/// The segment of a line, or why it cannot move. In a thread that is in the namespace.
pub(super) fn look(line: &Line, attached: &Attached) -> io::Result<Result<Found, Obstacle>> {
    let id = u64::try_from(line.object.id).unwrap_or(u64::MAX);
    let mappings = attached.get(&id).map_or(&[][..], Vec::as_slice);
    // Every mapping counts, also one of several that a single shmat(2) is in by now.
    if i64::try_from(mappings.len()).ok() != Some(line.get("nattch")) {
        return Ok(Err(obstacle(
            line,
            "somebody who is not in the job has it attached",
            "end what came into the capsule from outside",
        )));
    }
    let size = u64::try_from(line.get("size")).unwrap_or(0);
    let (file, own) = match mappings.first() {
        Some(mapping) => (open(mapping)?, None),
        None => {
            let own = Attachment::new(line.object.id, size, true)?;
            (own.file(false)?, Some(own))
        }
    };
    if fstatfs(&file)?.f_type == HUGETLBFS_MAGIC {
        return Ok(Err(obstacle(
            line,
            "it has huge pages (SHM_HUGETLB)",
            "use ordinary pages, with transparent huge pages where they help",
        )));
    }
    let key = mappings
        .first()
        .and_then(|(_, area)| key_of_mapping(&area.name));
    let segment = Segment {
        object: IpcObject {
            key: key.unwrap_or(line.object.key),
            ..line.object.clone()
        },
        removed: line.get("perms") & REMOVED != 0,
        locked: line.get("perms") & LOCKED != 0,
        tail: tail(line.object.id, &file, size, mappings, own)?.into(),
    };
    Ok(Ok(Found {
        segment,
        size,
        file,
    }))
}

fn open((host, area): &(HostPid, Area)) -> io::Result<File> {
    let (start, end) = (area.start, area.end);
    File::open(format!("/proc/{host}/map_files/{start:x}-{end:x}"))
}

/// The last page from the end of the segment on; nothing where there is no such page, or only zeroes.
/// No file shows it, only a mapping.
fn tail(
    id: i32,
    file: &File,
    size: u64,
    mappings: &[(HostPid, Area)],
    own: Option<Attachment>,
) -> io::Result<Vec<u8>> {
    let page = size / PAGE * PAGE;
    if page == size || seek(file, SeekFrom::Data(page)).is_err() {
        return Ok(Vec::new());
    }
    let length = usize::try_from(page + PAGE - size).unwrap_or(0);
    let mut bytes = vec![0; length];
    let covers = |area: &Area| area.offset <= page && page < area.offset + area.len();
    match mappings.iter().find(|(_, area)| covers(area)) {
        Some((host, area)) => {
            let address = area.start + (size - area.offset);
            process_vm::force_read(*host, address, &mut bytes)?;
        }
        None => {
            let own = own.map_or_else(|| Attachment::new(id, size, true), Ok)?;
            process_vm::read_exact(HostPid::own(), own.address() + size, &mut bytes)?;
        }
    }
    if bytes.iter().all(|byte| *byte == 0) {
        bytes.clear();
    }
    Ok(bytes)
}

fn obstacle(line: &Line, reason: &str, remedy: &str) -> Obstacle {
    Obstacle {
        pid: None,
        object: format!("System V shared memory segment {}", line.object.id),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
        transient: false,
    }
}
