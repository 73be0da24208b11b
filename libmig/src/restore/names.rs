//! Names of sockets: each socket is made in a hidden folder beside its name,
//! and gets the name when the job is to run here. Until then nobody sees
//! whether there is a copy, also not the source that has the same folder.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// The socket in its hidden folder.
pub(super) const FILE: &str = "s";
/// Where the socket is bound: the root directory of whoever binds it.
pub(super) const CELL: &str = "t";

/// A hidden folder with a socket, and what is to become of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedName {
    /// Directory of both, in the job's root.
    pub directory: Vec<u8>,
    /// The hidden folder.
    pub folder: Vec<u8>,
    /// The name that the socket gets; `None` for one that has lost its name.
    pub name: Option<Vec<u8>>,
}

impl StagedName {
    /// Makes the hidden folder.
    ///
    /// # Errors
    /// NotFound without the directory, and what else the file system says.
    pub(super) fn make(&self, root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let directory = self.open_directory(root)?;
        rustix::fs::mkdirat(&directory, os(&self.folder), Mode::RWXU)?;
        self.open_folder(&directory)
    }

    /// The directory that the name is in.
    pub(super) fn open_directory(&self, root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat2(
            root,
            Path::new(os(&self.directory)),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?)
    }

    fn open_folder(&self, directory: &OwnedFd) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = os(&self.folder);
        Ok(rustix::fs::openat(directory, folder, flags, Mode::empty())?)
    }

    fn settle(&self, root: BorrowedFd<'_>, publish: bool) -> io::Result<()> {
        let directory = self.open_directory(root)?;
        let folder = match self.open_folder(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let named = match self.name.as_ref().filter(|_| publish) {
            Some(name) => rustix::fs::renameat(&folder, FILE, &directory, os(name)),
            None => rustix::fs::unlinkat(&folder, FILE, AtFlags::empty()),
        };
        let named = match named {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        clear(folder.as_fd());
        let removed = rustix::fs::unlinkat(&directory, os(&self.folder), AtFlags::REMOVEDIR);
        Ok(named.and(removed)?)
    }
}

/// Gives all sockets their names, in place of whatever has them. Can be repeated.
pub fn publish(root: impl AsFd, names: &[StagedName]) {
    settle(root.as_fd(), names, true);
}

/// Removes the hidden folders, and the sockets that have no name yet. Can be repeated.
pub fn withdraw(root: impl AsFd, names: &[StagedName]) {
    settle(root.as_fd(), names, false);
}

fn settle(root: BorrowedFd<'_>, names: &[StagedName], publish: bool) {
    for staged in names {
        if let Err(error) = staged.settle(root, publish) {
            let directory = Path::new(os(&staged.directory)).display();
            let name = staged.name.as_deref().map(String::from_utf8_lossy);
            tracing::warn!(%directory, ?name, publish, %error, "the name of a socket");
        }
    }
}

/// Removes the place where a socket was bound.
pub(super) fn clear(folder: BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    let cell = format!("/proc/self/fd/{}/{CELL}", folder.as_raw_fd());
    match std::fs::remove_dir_all(&cell) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(%error, cell, "the place where a socket was bound is left");
        }
        _ => {}
    }
}

/// A name as the file system takes it.
pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, net::UnixListener};

    use super::*;

    fn staged(name: Option<&str>) -> (tempfile::TempDir, OwnedFd, StagedName) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        let opened = OwnedFd::from(std::fs::File::open(root.path()).unwrap());
        let staged = StagedName {
            directory: b"/run".to_vec(),
            folder: b".hidden".to_vec(),
            name: name.map(|name| name.as_bytes().to_vec()),
        };
        staged.make(opened.as_fd()).unwrap();
        UnixListener::bind(root.path().join("run/.hidden/s")).unwrap();
        (root, opened, staged)
    }

    #[test]
    fn a_name_is_taken_over_once_and_for_all() {
        let (root, opened, staged) = staged(Some("socket"));
        let name = root.path().join("run/socket");
        UnixListener::bind(&name).unwrap();
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let (old, new) = (inode(&name), inode(&root.path().join("run/.hidden/s")));
        assert_ne!(old, new);
        for _ in 0..2 {
            publish(&opened, std::slice::from_ref(&staged));
            assert_eq!(inode(&name), new);
            assert!(!root.path().join("run/.hidden").exists());
        }
        withdraw(&opened, &[staged]);
        assert_eq!(inode(&name), new, "what has its name is not taken back");
    }

    #[test]
    fn what_is_withdrawn_leaves_nothing() {
        for name in [Some("socket"), None] {
            let (root, opened, staged) = staged(name);
            std::fs::create_dir_all(root.path().join("run/.hidden/t/a/b")).unwrap();
            withdraw(&opened, &[staged]);
            assert_eq!(
                std::fs::read_dir(root.path().join("run")).unwrap().count(),
                0
            );
        }
    }
}
