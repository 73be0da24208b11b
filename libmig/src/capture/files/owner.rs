//! Who gets SIGIO: the kernel answers in the IDs of whoever asks, the image
//! speaks in those of the capsule.

use super::{FileSource, FilesError, table::Found};
use crate::{
    image::{AsyncOwner, Pid},
    inspect::{refusal, text},
    sys::{HostPid, descriptor},
};

const F_OWNER_PGRP: i32 = 2;

pub(super) fn capture(
    processes: &[FileSource<'_>],
    found: &Found,
) -> Result<Option<AsyncOwner>, FilesError> {
    if found.seen.opaque() {
        return Ok(None);
    }
    let (kind, id) = descriptor::owner(&found.copy).map_err(found.host("the owner"))?;
    let signal = descriptor::owner_signal(&found.copy).map_err(found.host("the signal"))?;
    if id == 0 && signal == 0 {
        return Ok(None);
    }
    let inside = match id {
        0 => Some(0),
        _ if kind == F_OWNER_PGRP => group_in_capsule(processes, id),
        _ => id_in_capsule(processes, id, "NSpid"),
    };
    let id = inside.ok_or_else(|| {
        let refusal = refusal::foreign_owner(&found.seen.name());
        found.refused(&refusal)
    })?;
    Ok(Some(AsyncOwner { kind, id, signal }))
}

/// A process group of this namespace in the capsule's numbers. Its leader may
/// be gone, so a member is asked.
pub(super) fn group_in_capsule(processes: &[FileSource<'_>], group: i32) -> Option<Pid> {
    in_capsule(processes, group, "NSpgid")
}

/// A session of this namespace in the capsule's numbers.
pub(super) fn session_in_capsule(processes: &[FileSource<'_>], session: i32) -> Option<Pid> {
    in_capsule(processes, session, "NSsid")
}

fn in_capsule(processes: &[FileSource<'_>], id: i32, field: &str) -> Option<Pid> {
    processes
        .iter()
        .find_map(|source| {
            let (here, inside) = here_and_inside(processes, source.host.raw(), field)?;
            (here == id).then_some(inside)
        })
        .or_else(|| id_in_capsule(processes, id, field))
}

fn id_in_capsule(processes: &[FileSource<'_>], id: i32, field: &str) -> Option<Pid> {
    let (here, inside) = here_and_inside(processes, id, field)?;
    (here == id).then_some(inside)
}

/// The ID for the daemon and the one in the capsule of an `NS...` line of `/proc/PID/status`.
fn here_and_inside(processes: &[FileSource<'_>], pid: i32, field: &str) -> Option<(i32, Pid)> {
    // A capsule's pid namespace is the daemon's child, and below it there may be more.
    let level = usize::from(processes.iter().any(|one| one.host.raw() != one.pid));
    let status = text::string(format!("/proc/{}/status", HostPid::new(pid))).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let mut ids = line.split_whitespace().map_while(|id| id.parse().ok());
    let here = ids.next()?;
    let inside = match level {
        0 => here,
        _ => ids.next()?,
    };
    Some((here, inside))
}
