//! Semaphore sets and message queues, made anew with their IDs.

use std::{fs, io};

use super::error::{RestoreError, host};
use crate::{
    image::{IpcObject, MessageQueue, SemaphoreSet, SystemV},
    inspect::system_v::{self, table},
    sys::{
        HostPid,
        system_v::{self as calls, Kind},
    },
};

/// What an earlier stay of the job has left in its capsule at home.
fn remove_all() -> io::Result<()> {
    for (name, kind) in [("sem", Kind::Semaphores), ("msg", Kind::Queue)] {
        for line in table(name)? {
            calls::remove(kind, line.object.id)?;
        }
    }
    Ok(())
}

/// Makes all objects in the namespace of `init`.
pub(super) fn make(init: HostPid, image: &SystemV) -> Result<(), RestoreError> {
    let work = || {
        remove_all()?;
        image.semaphores.iter().try_for_each(set)?;
        image.queues.iter().try_for_each(queue)
    };
    let done = system_v::within(init, work);
    let done = done.map_err(host("make the System V objects of the job"))?;
    if done.is_none() && *image != SystemV::default() {
        let missing = io::Error::other("the capsule has no IPC namespace of its own");
        return Err(host("make the System V objects of the job")(missing));
    }
    Ok(())
}

fn set(set: &SemaphoreSet) -> io::Result<()> {
    make_one(Kind::Semaphores, &set.object, set.values.len())?;
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
fn make_one(kind: Kind, object: &IpcObject, count: usize) -> io::Result<()> {
    let next = match kind {
        Kind::Semaphores => "/proc/sys/kernel/sem_next_id",
        Kind::Queue => "/proc/sys/kernel/msg_next_id",
    };
    fs::write(next, object.id.to_string())?;
    calls::become_user(object.creator_uid, object.creator_gid)?;
    let made = calls::make(kind, object.key, count, object.mode);
    calls::become_user(0, 0)?;
    if made? == object.id {
        Ok(())
    } else {
        Err(io::Error::other(format!("ID {} is not free", object.id)))
    }
}
