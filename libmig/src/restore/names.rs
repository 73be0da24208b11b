//! Names of sockets and of files that a job brings along: each is made in a hidden folder beside its name,
//! and gets the name when the job is to run here. Until then nobody sees
//! whether there is a copy, also not the source that has the same folder.

use std::{
    ffi::OsStr,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// The socket or file in its hidden folder.
pub(super) const FILE: &str = "s";
/// Where the socket is bound: the root directory of whoever binds it.
pub(super) const CELL: &str = "t";

/// A hidden folder with a socket or a file, and what is to become of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedName {
    /// Directory of both, in the job's root.
    pub directory: Vec<u8>,
    /// The hidden folder.
    pub folder: Vec<u8>,
    /// The name that it gets; `None` for one that has lost its name.
    pub name: Option<Vec<u8>>,
    /// What it may take the name from.
    pub over: Over,
    /// Folders above that are made for it, outermost first.
    pub made: Vec<Vec<u8>>,
}

/// What may have a name that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Over {
    /// Whatever has it.
    Anything,
    /// Nothing: a file that somebody else has made keeps its name.
    Nothing,
    /// The file with this device and inode, which is that of the source, or nothing.
    This(u64, u64),
}

impl StagedName {
    /// Makes the hidden folder.
    ///
    /// # Errors
    /// NotFound without the directory, and what else the file system says.
    pub(super) fn make(&self, root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        self.make_in(&self.open_directory(root)?)
    }

    /// Makes it in the directory, which is open already.
    pub(super) fn make_in(&self, directory: &OwnedFd) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(directory, os(&self.folder), Mode::RWXU)?;
        self.open_folder(directory)
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
        let directory = match self.open_directory(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !publish => return Ok(()),
            other => other?,
        };
        let folder = match self.open_folder(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let named = match self.name.as_ref().filter(|_| publish) {
            Some(name) => self.take_over(&folder, &directory, os(name)),
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

    fn take_over(&self, folder: &OwnedFd, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let rename = |flags| rustix::fs::renameat_with(folder, FILE, directory, name, flags);
        match (self.over, rename(RenameFlags::NOREPLACE)) {
            (Over::Anything, Err(Errno::EXIST)) => rename(RenameFlags::empty()),
            (Over::This(device, inode), Err(Errno::EXIST)) => {
                let there = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if (there.st_dev, there.st_ino) == (device, inode) {
                    return rename(RenameFlags::empty());
                }
                self.give_up(folder)
            }
            (Over::Nothing, Err(Errno::EXIST)) => self.give_up(folder),
            (_, named) => named,
        }
    }

    /// Somebody has taken the name since: the job keeps what it has open.
    fn give_up(&self, folder: &OwnedFd) -> Result<(), Errno> {
        rustix::fs::unlinkat(folder, FILE, AtFlags::empty())?;
        Err(Errno::EXIST)
    }

    /// Removes the folders that were made for it and that nobody uses.
    fn unmake(&self, root: BorrowedFd<'_>) {
        for folder in self.made.iter().rev() {
            let path = Path::new(os(folder));
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let removed = rustix::fs::openat2(root, parent, flags, Mode::empty(), within)
                .and_then(|parent| rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR));
            if let Err(error) = removed {
                tracing::debug!(path = %path.display(), %error, "a folder made for a file is left");
            }
        }
    }
}

/// What no other folder has in its name.
pub(super) fn unique() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Gives all sockets and files their names. Can be repeated.
pub fn publish(root: impl AsFd, names: &[StagedName]) {
    settle(root.as_fd(), names, true);
}

/// Removes the hidden folders, and what has no name yet. Can be repeated.
pub fn withdraw(root: impl AsFd, names: &[StagedName]) {
    settle(root.as_fd(), names, false);
    for staged in names {
        staged.unmake(root.as_fd());
    }
}

fn settle(root: BorrowedFd<'_>, names: &[StagedName], publish: bool) {
    for staged in names {
        if let Err(error) = staged.settle(root, publish) {
            let directory = Path::new(os(&staged.directory)).display();
            let name = staged.name.as_deref().map(String::from_utf8_lossy);
            tracing::warn!(%directory, ?name, publish, %error, "the name of a socket or file");
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
            over: Over::Anything,
            made: Vec::new(),
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
    fn a_file_takes_its_name_from_nobody_but_its_original() {
        for over in [Over::Nothing, Over::This(0, 0)] {
            let (root, opened, staged) = staged(Some("socket"));
            let name = root.path().join("run/socket");
            std::fs::write(&name, "another").unwrap();
            let staged = StagedName { over, ..staged };
            publish(&opened, &[staged]);
            assert_eq!(std::fs::read(&name).unwrap(), b"another");
            assert!(!root.path().join("run/.hidden").exists());
        }
        let (root, opened, staged) = staged(Some("socket"));
        let name = root.path().join("run/socket");
        std::fs::write(&name, "the original").unwrap();
        let original = std::fs::metadata(&name).unwrap();
        let over = Over::This(original.dev(), original.ino());
        publish(&opened, &[StagedName { over, ..staged }]);
        assert_ne!(std::fs::metadata(&name).unwrap().ino(), original.ino());
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
