//! semctl(2), msgctl(2) and their like, which neither nix nor rustix has. All act on
//! the IPC namespace of the calling thread.

use std::{io, mem};

use super::segment;
use crate::image::IpcObject;

/// Which table an ID is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Semaphore sets.
    Semaphores,
    /// Message queues.
    Queue,
    /// Segments of shared memory.
    Segment,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// GETALL of a set of `count` semaphores.
///
/// # Errors
/// semctl(2).
pub fn values(id: i32, count: usize) -> io::Result<Vec<u16>> {
    let mut values = vec![0u16; count];
    // SAFETY: the set has `count` semaphores, which never changes.
    check(unsafe { libc::syscall(libc::SYS_semctl, id, 0, libc::GETALL, values.as_mut_ptr()) })?;
    Ok(values)
}

/// SETALL. The set must have as many.
///
/// # Errors
/// semctl(2).
pub fn set_values(id: i32, values: &[u16]) -> io::Result<()> {
    // SAFETY: the caller made the set with this number of semaphores; the kernel reads that many.
    check(unsafe { libc::syscall(libc::SYS_semctl, id, 0, libc::SETALL, values.as_ptr()) })?;
    Ok(())
}

/// A semop(2) that finds the first semaphore of a fresh set at 0 and changes nothing but sem_otime.
///
/// # Errors
/// semop(2).
pub fn operate(id: i32) -> io::Result<()> {
    let mut nothing = libc::sembuf {
        sem_num: 0,
        sem_op: 0,
        sem_flg: 0x800, // IPC_NOWAIT
    };
    // SAFETY: one operation at a valid address.
    check(unsafe { libc::syscall(libc::SYS_semop, id, &raw mut nothing, 1) })?;
    Ok(())
}

/// semget(2), msgget(2) or shmget(2) of something new, of `size` semaphores or bytes.
///
/// # Errors
/// The call.
pub fn make(kind: Kind, key: i32, size: u64, mode: u16) -> io::Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | i32::from(mode);
    // SAFETY: no pointer is passed.
    let id = check(unsafe {
        match kind {
            Kind::Semaphores => libc::syscall(libc::SYS_semget, key, size, flags),
            Kind::Queue => libc::syscall(libc::SYS_msgget, key, flags),
            Kind::Segment => return segment::make(key, size, mode),
        }
    })?;
    i32::try_from(id).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// IPC_RMID.
///
/// # Errors
/// The call.
pub fn remove(kind: Kind, id: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe {
        match kind {
            Kind::Semaphores => libc::syscall(libc::SYS_semctl, id, 0, libc::IPC_RMID, 0),
            Kind::Queue => libc::syscall(libc::SYS_msgctl, id, libc::IPC_RMID, 0),
            Kind::Segment => libc::syscall(libc::SYS_shmctl, id, libc::IPC_RMID, 0),
        }
    })?;
    Ok(())
}

/// IPC_SET: owner and mode; of a queue also msg_qbytes.
///
/// # Errors
/// The call.
pub fn set_owner(kind: Kind, object: &IpcObject, capacity: u64) -> io::Result<()> {
    // SAFETY: all structures are plain numbers; the kernel reads owner, mode and msg_qbytes.
    check(unsafe {
        match kind {
            Kind::Semaphores => {
                let mut state: libc::semid_ds = mem::zeroed();
                fill(&mut state.sem_perm, object);
                libc::syscall(
                    libc::SYS_semctl,
                    object.id,
                    0,
                    libc::IPC_SET,
                    &raw mut state,
                )
            }
            Kind::Queue => {
                let mut state: libc::msqid_ds = mem::zeroed();
                fill(&mut state.msg_perm, object);
                state.msg_qbytes = capacity;
                libc::syscall(libc::SYS_msgctl, object.id, libc::IPC_SET, &raw mut state)
            }
            Kind::Segment => {
                let mut state: libc::shmid_ds = mem::zeroed();
                fill(&mut state.shm_perm, object);
                libc::syscall(libc::SYS_shmctl, object.id, libc::IPC_SET, &raw mut state)
            }
        }
    })?;
    Ok(())
}

fn fill(permissions: &mut libc::ipc_perm, object: &IpcObject) {
    permissions.uid = object.uid;
    permissions.gid = object.gid;
    permissions.mode = object.mode;
}

/// msg_qbytes.
///
/// # Errors
/// msgctl(2).
pub fn capacity(id: i32) -> io::Result<u64> {
    // SAFETY: plain numbers, which the kernel fills.
    let mut state: libc::msqid_ds = unsafe { mem::zeroed() };
    // SAFETY: `state` is what IPC_STAT writes.
    check(unsafe { libc::syscall(libc::SYS_msgctl, id, libc::IPC_STAT, &raw mut state) })?;
    Ok(state.msg_qbytes)
}

/// The message at a place of a queue, which keeps it (MSG_COPY, Linux 3.8); nothing behind the last.
///
/// # Errors
/// msgrcv(2).
pub fn peek(id: i32, place: i64, longest: usize) -> io::Result<Option<(i64, Vec<u8>)>> {
    const MSG_COPY: i32 = 0o40_000;
    let flags = libc::IPC_NOWAIT | MSG_COPY;
    let mut buffer = vec![0u8; longest + 8];
    // SAFETY: the kernel writes the type and at most `longest` bytes.
    let got = check(unsafe {
        libc::syscall(
            libc::SYS_msgrcv,
            id,
            buffer.as_mut_ptr(),
            longest,
            place,
            flags,
        )
    });
    match got {
        Err(error) if error.raw_os_error() == Some(libc::ENOMSG) => Ok(None),
        Err(error) => Err(error),
        Ok(length) => {
            let text = buffer.split_off(8);
            let kind = buffer
                .first_chunk()
                .map_or(0, |kind| i64::from_ne_bytes(*kind));
            let length = usize::try_from(length).unwrap_or(0);
            Ok(Some((kind, text[..length].to_vec())))
        }
    }
}

/// msgsnd(2) with IPC_NOWAIT.
///
/// # Errors
/// msgsnd(2).
pub fn send(id: i32, kind: i64, text: &[u8]) -> io::Result<()> {
    let message = [&kind.to_ne_bytes(), text].concat();
    // SAFETY: the kernel reads the type and as many bytes as the text has.
    check(unsafe {
        libc::syscall(
            libc::SYS_msgsnd,
            id,
            message.as_ptr(),
            text.len(),
            libc::IPC_NOWAIT,
        )
    })?;
    Ok(())
}

/// Effective user and group of the calling thread alone; the saved ones stay.
///
/// # Errors
/// setresuid(2), setresgid(2).
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let same = u32::MAX;
    // SAFETY: no pointer is passed. The calls of the C library would change all threads.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, same, gid, same))?;
        check(libc::syscall(libc::SYS_setresuid, same, uid, same))?;
    }
    Ok(())
}
