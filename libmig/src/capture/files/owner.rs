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
        _ => id_in_capsule(id, "NSpid"),
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
            let (here, inside) = outer_and_inner(source.host.raw(), field)?;
            (here == id).then_some(inside)
        })
        .or_else(|| id_in_capsule(id, field))
}

pub(super) fn id_in_capsule(id: i32, field: &str) -> Option<Pid> {
    let (here, inside) = outer_and_inner(id, field)?;
    (here == id).then_some(inside)
}

/// The outermost and the innermost ID of an `NS...` line of `/proc/PID/status`.
fn outer_and_inner(pid: i32, field: &str) -> Option<(i32, Pid)> {
    let status = text::string(format!("/proc/{}/status", HostPid::new(pid))).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let mut ids = line.split_whitespace().map(str::parse);
    let here = ids.next()?.ok()?;
    let inside = ids.next_back().map_or(Some(here), Result::ok)?;
    Some((here, inside))
}
