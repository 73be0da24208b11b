//! POSIX message queues, made anew in the IPC namespace of the calling thread.

use std::{
    ffi::CString,
    fs::Permissions,
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
};

use rustix::fs::{AtFlags, Gid, Uid};

use crate::{
    image::PosixQueue,
    inspect::mqueue::{list, mount},
    sys::mqueue as calls,
};

/// Makes a queue with what waits in it.
pub(super) fn make(queue: &PosixQueue) -> io::Result<()> {
    let made = calls::make(&name(&queue.name)?, queue.most, queue.longest)?;
    for (priority, text) in &queue.messages {
        calls::send(&made, *priority, text)?;
    }
    let owner = (Uid::from_raw(queue.uid), Gid::from_raw(queue.gid));
    rustix::fs::fchown(&made, Some(owner.0), Some(owner.1))?;
    let mode = Permissions::from_mode(queue.mode & 0o7777);
    std::fs::File::from(made).set_permissions(mode)
}

/// Removes all queues.
pub(super) fn remove_all() -> io::Result<()> {
    let Some(root) = mount()? else {
        return Ok(());
    };
    for queue in list(&root)? {
        rustix::fs::unlinkat(&root, queue.name.as_slice(), AtFlags::empty())?;
    }
    Ok(())
}

/// Opens one that is there.
pub(super) fn open(queue: &[u8], flags: i32) -> io::Result<OwnedFd> {
    const HOW: i32 = libc::O_ACCMODE | libc::O_NONBLOCK;
    calls::open(&name(queue)?, flags & HOW)
}

fn name(name: &[u8]) -> io::Result<CString> {
    match name.contains(&b'/') {
        true => Err(io::ErrorKind::InvalidData.into()),
        false => Ok(CString::new(name)?),
    }
}
