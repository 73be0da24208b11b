//! Visits to the namespaces of others.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    thread,
};

use nix::sched::CloneFlags;
use rustix::{
    fs::{Mode, OFlags},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::sys::namespace;

/// Does something in a namespace: in a thread of its own, since setns(2)
/// concerns the calling thread alone. Not for user namespaces, which all threads of a
/// process share, nor for mount namespaces: see [`within_mounts`].
///
/// # Errors
/// setns(2), or what `work` says.
pub fn within<T: Send>(
    namespace: impl AsFd + Send,
    kind: LinkNameSpaceType,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let visit = move || {
        move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        work()
    };
    visitor(visit)
}

/// Does something in a mount namespace, whose root is the root directory of the visitor
/// then. `work` gets this process's /proc, which may not be there.
///
/// # Errors
/// setns(2), or what `work` says.
pub fn within_mounts<T: Send>(
    namespace: impl AsFd + Send,
    work: impl FnOnce(BorrowedFd<'_>) -> io::Result<T> + Send,
) -> io::Result<T> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    visitor(move || {
        // Root and current directory are shared by all threads otherwise.
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        work(proc.as_fd())
    })
}

fn visitor<T: Send>(visit: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let done = thread::scope(|scope| scope.spawn(visit).join());
    done.map_err(|_| io::Error::other("the visitor of a namespace panicked"))?
}

/// The network namespace of a socket, where it is not that of this process.
///
/// # Errors
/// The kernel does not tell.
pub fn elsewhere(socket: impl AsFd) -> io::Result<Option<File>> {
    let found = File::from(namespace::of_socket(socket)?);
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    Ok((found.metadata()?.ino() != own).then_some(found))
}
