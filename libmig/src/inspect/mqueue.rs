//! POSIX message queues of an IPC namespace, by a mount of its own: a job may have none, or
//! that of another namespace, at /dev/mqueue.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Dir, Mode, OFlags, Stat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::{process, system_v};
use crate::sys::HostPid;

/// A queue that has a name.
#[derive(Debug)]
pub struct Queue {
    /// Without a slash.
    pub name: Vec<u8>,
    /// Owner and mode.
    pub stat: Stat,
    /// Whether a process wants to hear of its next message (mq_notify(3)).
    pub notifies: bool,
    /// Open for both, not blocking.
    pub file: OwnedFd,
}

/// The queues of the calling thread's namespace as a folder; nothing where the kernel has none.
///
/// # Errors
/// The kernel does not let them be mounted.
pub fn mount() -> io::Result<Option<OwnedFd>> {
    let context = match fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => return Ok(None),
        context => context?,
    };
    fsconfig_create(&context)?;
    let mounted = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    Ok(Some(mounted))
}

/// All queues below [`mount`], by name.
///
/// # Errors
/// One cannot be looked at.
pub fn list(root: impl AsFd) -> io::Result<Vec<Queue>> {
    let open = |name: &[u8], flags| rustix::fs::openat(&root, name, flags, Mode::empty());
    let folder = open(b".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
    let mut queues = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if matches!(&*name, b"." | b"..") {
            continue;
        }
        let how = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match open(&name, how) {
            // Removed since.
            Err(Errno::NOENT) => continue,
            file => file?,
        };
        queues.push(Queue {
            stat: rustix::fs::fstat(&file)?,
            notifies: notifies(&file)?,
            name,
            file,
        });
    }
    queues.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(queues)
}

/// All queues of the namespace of a process; `None` where that is the one of this process.
///
/// # Errors
/// The process is gone, or one cannot be looked at.
pub fn of(process: HostPid) -> io::Result<Option<Vec<Queue>>> {
    system_v::within(process, || match mount()? {
        Some(root) => list(root),
        None => Ok(Vec::new()),
    })
}

/// The name of the queue with this device and inode in the namespace of the capsule that the
/// first process of a job is a child in.
///
/// # Errors
/// The process is gone.
pub fn name_of(first: HostPid, identity: (u64, u64)) -> io::Result<Option<Vec<u8>>> {
    let queues = of(process::stat(first)?.ppid)?.unwrap_or_default();
    let found = queues
        .into_iter()
        .find(|queue| (queue.stat.st_dev, queue.stat.st_ino) == identity);
    Ok(found.map(|queue| queue.name))
}

/// `NOTIFY_PID:` of what can be read in the file of a queue.
fn notifies(file: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 256];
    let length = rustix::io::pread(file, &mut buffer, 0)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    let (_, pid) = text
        .split_once("NOTIFY_PID:")
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(pid.trim() != "0")
}
