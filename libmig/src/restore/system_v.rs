//! Semaphore sets, message queues and segments of shared memory, made anew with their IDs.

use std::{
    fs::{self, File},
    io,
};

use super::{
    error::{RestoreError, host},
    mqueue,
    shm::Files,
};
use crate::{
    image::{
        IpcObject, JobImage, MessageQueue, Segment, SemaphoreSet, SharedId, SharedKind, SystemV,
    },
    inspect::system_v::{self, table},
    sys::{
        self, HostPid, process_vm,
        segment::Attachment,
        system_v::{self as calls, Kind},
    },
};

const PAGE: u64 = 4096;
const MAKE: &str = "make the System V objects of the job";
const ALL: [(&str, Kind); 3] = [
    ("sem", Kind::Semaphores),
    ("msg", Kind::Queue),
    ("shm", Kind::Segment),
];

/// Removes all objects of the IPC namespace of a capsule whose job has left.
///
/// # Errors
/// What cannot be removed.
pub fn clear(namespace: &File) -> io::Result<()> {
    system_v::enter(namespace, remove_all)
}

/// Makes all but segments in the namespace of a process.
pub(super) fn make_plain(process: HostPid, objects: &SystemV) -> Result<(), RestoreError> {
    let work = || {
        objects.semaphores.iter().try_for_each(set)?;
        objects.queues.iter().try_for_each(queue)?;
        objects.posix_queues.iter().try_for_each(mqueue::make)
    };
    system_v::within(process, work).map_err(host(MAKE))?;
    Ok(())
}

fn remove_all() -> io::Result<()> {
    for (name, kind) in ALL {
        for line in table(name)? {
            calls::remove(kind, line.object.id)?;
        }
    }
    mqueue::remove_all()
}

/// Makes all objects in the namespace of `init`; segments, without their contents, are
/// added to `files`. What is returned keeps those that have been removed, until the husks have
/// attached them.
pub(super) fn make(
    init: HostPid,
    image: &JobImage,
    files: &mut Files,
) -> Result<Vec<Attachment>, RestoreError> {
    let objects = (0..).zip(&image.shared);
    let mut segments: Vec<(SharedId, &Segment, u64)> = objects
        .filter_map(|(id, memory)| match &memory.kind {
            SharedKind::SystemV(segment) => Some((id, segment, memory.size)),
            _ => None,
        })
        .collect();
    // Their keys may be others' by now.
    segments.sort_by_key(|(_, segment, _)| !segment.removed);
    let needed = !segments.is_empty() || image.system_v != SystemV::default();
    let work = || {
        remove_all()?;
        image.system_v.semaphores.iter().try_for_each(set)?;
        image.system_v.queues.iter().try_for_each(queue)?;
        let posix_queues = &image.system_v.posix_queues;
        posix_queues.iter().try_for_each(mqueue::make)?;
        let made = segments.into_iter().map(|(id, segment, size)| {
            let (file, attachment) = self::segment(segment, size)?;
            Ok((id, file, attachment))
        });
        made.collect::<io::Result<Vec<_>>>()
    };
    let done = system_v::within(init, work).map_err(host(MAKE))?;
    if done.is_none() && needed {
        let missing = io::Error::other("the capsule has no IPC namespace of its own");
        return Err(host(MAKE)(missing));
    }
    let mut attachments = Vec::new();
    for (id, file, attachment) in done.into_iter().flatten() {
        files.insert(id, file);
        attachments.push(attachment);
    }
    Ok(attachments)
}

fn segment(segment: &Segment, size: u64) -> io::Result<(File, Attachment)> {
    let object = &segment.object;
    make_one(Kind::Segment, object, size)?;
    calls::set_owner(Kind::Segment, object, 0)?;
    let attachment = Attachment::new(object.id, size, false)?;
    let end = attachment.address() + size;
    if size.next_multiple_of(PAGE) - size < segment.tail.len() as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    process_vm::write_all(HostPid::own(), end, &segment.tail)?;
    if segment.locked {
        sys::segment::lock(object.id)?;
    }
    if segment.removed {
        calls::remove(Kind::Segment, object.id)?;
    }
    Ok((attachment.file(true)?, attachment))
}

fn set(set: &SemaphoreSet) -> io::Result<()> {
    make_one(Kind::Semaphores, &set.object, set.values.len() as u64)?;
    if set.operated {
        calls::operate(set.object.id)?;
    }
    calls::set_values(set.object.id, &set.values)?;
    calls::set_owner(Kind::Semaphores, &set.object, 0)
}

fn queue(queue: &MessageQueue) -> io::Result<()> {
    const MOST: &str = "/proc/sys/kernel/msgmnb";
    make_one(Kind::Queue, &queue.object, 0)?;
    // More than the namespace allows needs CAP_SYS_RESOURCE, or that it allows more.
    let most = fs::read_to_string(MOST)?;
    let more = most
        .trim()
        .parse::<u64>()
        .is_ok_and(|most| most < queue.capacity);
    if more {
        fs::write(MOST, queue.capacity.to_string())?;
    }
    let owned = calls::set_owner(Kind::Queue, &queue.object, queue.capacity);
    if more {
        fs::write(MOST, most)?;
    }
    owned?;
    let mut messages = queue.messages.iter();
    messages.try_for_each(|(kind, text)| calls::send(queue.object.id, *kind, text))
}

/// With its ID, as the one who made it.
fn make_one(kind: Kind, object: &IpcObject, size: u64) -> io::Result<()> {
    let next = match kind {
        Kind::Semaphores => "/proc/sys/kernel/sem_next_id",
        Kind::Queue => "/proc/sys/kernel/msg_next_id",
        Kind::Segment => "/proc/sys/kernel/shm_next_id",
    };
    fs::write(next, object.id.to_string())?;
    calls::become_user(object.creator_uid, object.creator_gid)?;
    let made = calls::make(kind, object.key, size, object.mode);
    calls::become_user(0, 0)?;
    if made? == object.id {
        Ok(())
    } else {
        Err(io::Error::other(format!("ID {} is not free", object.id)))
    }
}
