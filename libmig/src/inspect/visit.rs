//! Visits to the namespaces of others.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sys::namespace;

/// Does something in a namespace: in a thread of its own, since setns(2)
/// concerns the calling thread alone. Not for user and mount namespaces, which all
/// threads of a process share.
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
