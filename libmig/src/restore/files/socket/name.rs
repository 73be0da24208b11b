//! Addresses of Unix sockets. Where an address is a path, its file is made in
//! a hidden folder (see [`crate::restore::names`]): bound there by a thread
//! whose root directory that folder is, under the very path that
//! getsockname(2) is to tell.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    thread,
};

use nix::sched::CloneFlags;
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

pub(super) use crate::restore::names::FILE;

use super::{End, made, make::Target};
use crate::{
    api::Obstacle,
    image::{FileId, SocketFile, UnixSocket},
    inspect::manifest,
    restore::{
        RestoreHost,
        files::FilesError,
        names::{self, CELL, Over, StagedName, os},
    },
};

/// The hidden folders of a tree's sockets.
#[derive(Debug, Default)]
pub(super) struct Names {
    folders: BTreeMap<FileId, OwnedFd>,
    /// For sockets that live for a moment, or whose name is gone.
    spare: Option<OwnedFd>,
    pub(super) staged: Vec<StagedName>,
}

impl Names {
    /// Makes a folder for every socket that needs one, beside the `earlier` ones of files. The host knows of
    /// them before they are there.
    pub(super) fn stage(
        root: BorrowedFd<'_>,
        host: &mut dyn RestoreHost,
        sockets: &[End<'_>],
        earlier: &[StagedName],
    ) -> Result<Self, FilesError> {
        let mut plan: Vec<(Option<FileId>, StagedName)> = Vec::new();
        let unique = names::unique();
        let folder = |number: usize| format!(".mig-{unique:016x}-{number}").into_bytes();
        for (id, state) in sockets {
            let Some(file) = &state.file else { continue };
            let (directory, name) = match &file.path {
                Some(path) => split(path)?,
                None => (b"/tmp".to_vec(), None),
            };
            let staged = StagedName {
                directory,
                folder: folder(plan.len()),
                name,
                over: Over::Anything,
                made: Vec::new(),
            };
            vacant(root, &staged, file)?;
            plan.push((Some(*id), staged));
        }
        if sockets.iter().any(|(_, state)| needs_spare(state)) {
            let staged = StagedName {
                directory: b"/tmp".to_vec(),
                folder: folder(plan.len()),
                name: None,
                over: Over::Anything,
                made: Vec::new(),
            };
            plan.push((None, staged));
        }
        let staged: Vec<StagedName> = plan.iter().map(|(_, staged)| staged.clone()).collect();
        if !staged.is_empty() {
            host.names(&[earlier, &staged].concat())
                .map_err(FilesError::make("a record of the names of sockets"))?;
        }
        let mut made = Self::default();
        for (id, staged) in plan {
            let directory = &staged.directory;
            let folder = staged.make(root).map_err(|error| {
                if manifest::is_absent(&error) {
                    FilesError::differs(directory, manifest::ABSENT)
                } else {
                    let place = Path::new(os(directory)).display();
                    FilesError::make(format!("a socket in {place}"))(error)
                }
            })?;
            match id {
                Some(id) => _ = made.folders.insert(id, folder),
                None => made.spare = Some(folder),
            }
        }
        made.staged = staged;
        Ok(made)
    }

    /// Gives a socket its address.
    pub(super) fn bind(
        &self,
        id: FileId,
        state: &UnixSocket,
        own: BorrowedFd<'_>,
    ) -> Result<(), FilesError> {
        let Some(name) = &state.name else {
            return Ok(());
        };
        let (Some(folder), Some(file)) = (self.folders.get(&id), &state.file) else {
            return bind_abstract(own, name);
        };
        let label = || format!("the socket {}", String::from_utf8_lossy(name));
        bind_below(folder.as_fd(), own, name).map_err(FilesError::make(label()))?;
        let owner = (Uid::from_raw(file.owner.0), Gid::from_raw(file.owner.1));
        rustix::fs::chownat(
            folder,
            FILE,
            Some(owner.0),
            Some(owner.1),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .and_then(|()| {
            let mode = Mode::from_raw_mode(file.mode & 0o7777);
            rustix::fs::chmodat(folder, FILE, mode, AtFlags::empty())
        })
        .map_err(FilesError::make(label()))
    }

    /// Gives a socket an address at which nobody is to find it.
    pub(super) fn bind_aside(&self, own: BorrowedFd<'_>, name: &[u8]) -> Result<(), FilesError> {
        if name.first() == Some(&0) {
            return bind_abstract(own, name);
        }
        let folder = self.spare.as_ref();
        let folder = folder.ok_or(FilesError::Malformed("such address of a socket"))?;
        let label = || format!("the socket {}", String::from_utf8_lossy(name));
        match rustix::fs::unlinkat(folder, FILE, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(FilesError::make(label())(error)),
        }
        bind_below(folder.as_fd(), own, name).map_err(FilesError::make(label()))
    }

    /// Where the socket `id` with this address is reached; without an ID, the one bound aside last.
    pub(super) fn target<'a>(
        &'a self,
        id: Option<FileId>,
        name: &'a [u8],
    ) -> Result<Target<'a>, FilesError> {
        if name.first() == Some(&0) {
            return Ok(Target::Abstract(name));
        }
        let folder = match id {
            Some(id) => self.folders.get(&id),
            None => self.spare.as_ref(),
        };
        let folder = folder.ok_or(FilesError::Malformed("such address of a socket"))?;
        Ok(Target::Staged(folder.as_fd()))
    }
}

fn needs_spare(state: &UnixSocket) -> bool {
    let path = |name: &Vec<u8>| name.first() != Some(&0);
    let orphan = state.orphan && state.name.as_ref().is_some_and(path);
    let mut senders = state
        .queue
        .iter()
        .filter_map(|message| message.from.as_ref());
    orphan || senders.any(path)
}

/// Directory and name of a path.
fn split(path: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), FilesError> {
    let malformed = FilesError::Malformed("such path of a socket");
    let path = Path::new(os(path));
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) if path.is_absolute() => Ok((
            directory.as_os_str().as_bytes().to_vec(),
            Some(name.as_bytes().to_vec()),
        )),
        _ => Err(malformed),
    }
}

/// Refuses a name that something else has: what the source has there (in a
/// folder that both see), or nobody listens at, is replaced when the job runs.
fn vacant(root: BorrowedFd<'_>, staged: &StagedName, file: &SocketFile) -> Result<(), FilesError> {
    let (Some(name), Some(path)) = (&staged.name, &file.path) else {
        return Ok(());
    };
    let Ok(directory) = staged.open_directory(root) else {
        return Ok(());
    };
    let Ok(stat) = rustix::fs::statat(&directory, os(name), AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let changed = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    let (_, inode, then) = file.identity;
    if (stat.st_ino, changed) == (inode, i128::from(then)) {
        return Ok(());
    }
    let socket = stat.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    if socket && !answers(&directory, name) {
        return Ok(());
    }
    Err(FilesError::Refused(Obstacle {
        pid: None,
        object: format!("socket {}", String::from_utf8_lossy(path)),
        reason: if socket {
            "somebody at the destination listens there".to_owned()
        } else {
            "another file at the destination has that name".to_owned()
        },
        remedy: "end that program or remove the file, or move to another node".to_owned(),
        transient: false,
    }))
}

/// Whether somebody has this socket open. A datagram socket is connected to
/// it: no other kind notices, nor does one of that kind.
fn answers(directory: &OwnedFd, name: &[u8]) -> bool {
    let probe = || {
        let flags = SocketFlags::CLOEXEC;
        let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&probe, &reach(directory.as_fd(), name)?)
    };
    probe() != Err(rustix::io::Errno::CONNREFUSED)
}

/// The address of a file in a directory that this process has open.
pub(super) fn reach(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<SocketAddrUnix> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    SocketAddrUnix::new(path)
}

/// bind(2) to a path that leads into `folder`, where the socket is then [`FILE`].
fn bind_below(folder: BorrowedFd<'_>, own: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    let address = SocketAddrUnix::new(path)?;
    let bound = thread::scope(|scope| {
        let bind = || {
            // The thread's own, and gone with it.
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
            rustix::fs::mkdirat(folder, CELL, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let cell = rustix::fs::openat(folder, CELL, flags, Mode::empty())?;
            rustix::process::fchdir(&cell)?;
            rustix::process::chroot(".")?;
            let path = Path::new(os(path));
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            std::fs::create_dir_all(parent)?;
            rustix::net::bind(own, &address)?;
            let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(rustix::fs::renameat(&parent, name, folder, FILE)?)
        };
        let binder = scope.spawn(bind);
        binder
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that binds has panicked")))
    });
    names::clear(folder);
    bound
}

/// Takes an abstract address. It belongs to the node's network: someone else
/// may have it here.
fn bind_abstract(own: BorrowedFd<'_>, name: &[u8]) -> Result<(), FilesError> {
    let label = || String::from_utf8_lossy(name.get(1..).unwrap_or_default()).into_owned();
    let address = match name.first() {
        Some(0) => SocketAddrUnix::new_abstract_name(&name[1..]).map_err(made())?,
        _ => return Err(FilesError::Malformed("such address of a socket")),
    };
    match rustix::net::bind(own, &address) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ADDRINUSE) => Err(FilesError::Refused(Obstacle {
            pid: None,
            object: format!("abstract socket address @{}", label()),
            reason: "somebody at the destination has it".to_owned(),
            remedy: "end that program, or move to another node".to_owned(),
            transient: false,
        })),
        Err(error) => Err(FilesError::make(format!("the socket address @{}", label()))(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn only_what_nobody_has_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let staged = StagedName {
            directory: b"/".to_vec(),
            folder: b".hidden".to_vec(),
            name: Some(b"socket".to_vec()),
            over: Over::Anything,
            made: Vec::new(),
        };
        let file = SocketFile {
            path: Some(b"/socket".to_vec()),
            mode: 0o777,
            owner: (0, 0),
            identity: (0, 0, 0),
        };
        let path = folder.path().join("socket");
        let refused = |file: &SocketFile| vacant(root.as_fd(), &staged, file).is_err();
        assert!(!refused(&file));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(refused(&file));
        assert!(listener.set_nonblocking(true).is_ok() && listener.accept().is_err());
        let stat = rustix::fs::stat(&path).unwrap();
        let changed = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
        let same = SocketFile {
            identity: (9, stat.st_ino, i64::try_from(changed).unwrap()),
            ..file.clone()
        };
        assert!(!refused(&same), "what the source has there");
        drop(listener);
        assert!(!refused(&file), "nobody has it open");
        std::fs::remove_file(&path).unwrap();
        let datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(refused(&file));
        drop(datagrams);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "text").unwrap();
        assert!(refused(&file));
    }

    #[test]
    fn a_socket_is_told_the_path_that_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let opened = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let home = std::env::current_dir().unwrap();
        for path in ["/no/such/../folder/a", "relative/b", "c", "../d"] {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
            bind_below(opened.as_fd(), socket.as_fd(), path.as_bytes()).unwrap();
            let socket = UnixDatagram::from(socket);
            let told = socket.local_addr().unwrap();
            assert_eq!(told.as_pathname(), Some(Path::new(path)));
            let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert_eq!(names.len(), 1);
            std::fs::remove_file(folder.path().join(FILE)).unwrap();
        }
        assert_eq!(std::env::current_dir().unwrap(), home);
    }
}
