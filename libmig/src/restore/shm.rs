//! The capsule's /dev/shm, made anew, and files without a name. Contents come
//! later; owners, modes and times are set when they are there ([`Tree::settle`]).

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path},
};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::error::{RestoreError, host};
use crate::{
    api::Obstacle,
    image::{Attributes, JobImage, SharedFile, SharedId, SharedKind, ShmEntry, ShmNode},
    inspect::shm::Shm,
};

/// Removes everything from the /dev/shm of a capsule whose job has left.
///
/// # Errors
/// What cannot be removed. A /dev/shm that is not the capsule's own is left alone.
pub fn clear(root: impl AsFd) -> io::Result<()> {
    let Some(shm) = Shm::of(root)? else {
        return Ok(());
    };
    for entry in fs::read_dir(shm.path(Path::new("")))? {
        let path = entry?.path();
        match fs::symlink_metadata(&path)?.is_dir() {
            true => fs::remove_dir_all(&path)?,
            false => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// Files that were made, by their numbers.
pub(super) type Files = BTreeMap<SharedId, File>;

/// A /dev/shm with all its names.
#[derive(Debug)]
pub(super) struct Tree {
    shm: Option<Shm>,
}

impl Tree {
    /// Makes all names, and all files that are shared objects, of their size and empty, but for
    /// those that are there.
    pub(super) fn make(
        image: &JobImage,
        root: BorrowedFd<'_>,
        mut files: Files,
    ) -> Result<(Self, Files), RestoreError> {
        let failed = || host::<io::Error>("make the capsule's /dev/shm");
        clear(root).map_err(host("empty the capsule's /dev/shm"))?;
        let tree = Self {
            shm: Shm::of(root).map_err(failed())?,
        };
        tree.make_folders(&image.shm)?;
        let objects = objects(image);
        // Those without a name first: the name may be another file's by now.
        for (id, file, size) in &objects {
            if !file.named && !files.contains_key(id) {
                let made = tree.nameless(file, root)?;
                rustix::fs::ftruncate(&made, *size).map_err(making(&file.path))?;
                files.insert(*id, made);
            }
        }
        tree.name_all(&image.shm, &objects, &mut files)?;
        Ok((tree, files))
    }

    /// Another tmpfs, which is empty.
    pub(super) fn of(shm: Shm) -> Self {
        Self { shm: Some(shm) }
    }

    /// Makes all names in it.
    pub(super) fn fill(
        &self,
        entries: &[ShmEntry],
        image: &JobImage,
        files: &mut Files,
    ) -> Result<(), RestoreError> {
        self.make_folders(entries)?;
        self.name_all(entries, &objects(image), files)
    }

    fn make_folders(&self, entries: &[ShmEntry]) -> Result<(), RestoreError> {
        for entry in entries {
            if let (false, ShmNode::Directory(_)) = (entry.path.is_empty(), &entry.node) {
                let (parent, name) = self.place(&entry.path)?;
                rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(making(&entry.path))?;
            }
        }
        Ok(())
    }

    fn name_all(
        &self,
        entries: &[ShmEntry],
        objects: &[Object<'_>],
        files: &mut Files,
    ) -> Result<(), RestoreError> {
        for ShmEntry { path, node } in entries {
            let what = making(path);
            match node {
                ShmNode::Directory(_) => {}
                ShmNode::Symlink(target, _) => {
                    let (parent, name) = self.place(path)?;
                    rustix::fs::symlinkat(target.as_slice(), &parent, name).map_err(what)?;
                }
                ShmNode::Fifo(_) => {
                    let (parent, name) = self.place(path)?;
                    let kind = rustix::fs::FileType::Fifo;
                    rustix::fs::mknodat(&parent, name, kind, Mode::RUSR, 0).map_err(what)?;
                }
                ShmNode::File(id) => {
                    let (parent, name) = self.place(path)?;
                    if let Some(made) = files.get(id) {
                        link(made, &parent, name).map_err(what)?;
                        continue;
                    }
                    let object = objects
                        .iter()
                        .find(|(known, file, _)| known == id && file.named);
                    let (_, _, size) = object.ok_or_else(|| malformed(path))?;
                    let made = create(&parent, name).map_err(what)?;
                    rustix::fs::ftruncate(&made, *size).map_err(making(path))?;
                    files.insert(*id, made);
                }
            }
        }
        Ok(())
    }

    /// A file whose name is gone: of the same last name in /dev/shm, which nobody else
    /// sees yet; elsewhere without ever having one.
    fn nameless(&self, file: &SharedFile, root: BorrowedFd<'_>) -> Result<File, RestoreError> {
        let inside = file.path.strip_prefix(b"/dev/shm/").unwrap_or_default();
        if file.in_shm
            && let Ok((parent, name)) = self.place(inside)
            && let Ok(made) = create(&parent, name)
        {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(making(&file.path))?;
            return Ok(made);
        }
        let folder = if file.in_shm {
            Path::new("/dev/shm")
        } else {
            let path = Path::new(OsStr::from_bytes(&file.path));
            path.parent().unwrap_or(Path::new("/"))
        };
        super::files::nameless(root, folder).map_err(making(&file.path))
    }

    /// The folder and the last name of a path in /dev/shm.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), RestoreError> {
        let shm = self.shm.as_ref().ok_or_else(|| malformed(path))?;
        let whole = Path::new(OsStr::from_bytes(path));
        let mut names = whole.components();
        let Some(Component::Normal(name)) = names.next_back() else {
            return Err(malformed(path));
        };
        let parent = match names.as_path() {
            parent if parent.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = rustix::fs::openat2(shm.folder(), parent, flags, Mode::empty(), within);
        Ok((parent.map_err(making(path))?, name))
    }

    /// Owners, modes, extended attributes, and times last.
    pub(super) fn settle(
        &self,
        image: &JobImage,
        files: &super::sources::SharedObjects,
    ) -> Result<(), RestoreError> {
        for (id, memory) in (0..).zip(&image.shared) {
            let Some(made) = files.get(id) else {
                continue;
            };
            match &memory.kind {
                // Elsewhere the file system may not have all of them.
                SharedKind::File(file) => {
                    settle_file(made, &file.attributes, file.in_shm).map_err(making(&file.path))?
                }
                SharedKind::Memfd {
                    attributes, name, ..
                } => settle_file(made, attributes, false).map_err(host(format!(
                    "give memfd {} its owner",
                    String::from_utf8_lossy(name)
                )))?,
                SharedKind::Anonymous { .. } | SharedKind::SystemV(_) | SharedKind::Ring(_) => {}
            }
        }
        self.settle_names(&image.shm)
    }

    /// The same of names that are no files.
    pub(super) fn settle_names(&self, entries: &[ShmEntry]) -> Result<(), RestoreError> {
        // What is inside changes the times of a folder.
        entries
            .iter()
            .rev()
            .try_for_each(|entry| self.settle_name(entry))
    }

    fn settle_name(&self, entry: &ShmEntry) -> Result<(), RestoreError> {
        let path = &entry.path;
        let attributes = match &entry.node {
            ShmNode::File(_) => return Ok(()),
            ShmNode::Directory(attributes)
            | ShmNode::Symlink(_, attributes)
            | ShmNode::Fifo(attributes) => attributes,
        };
        let shm = self.shm.as_ref().ok_or_else(|| malformed(path))?;
        let place = shm.path(Path::new(OsStr::from_bytes(path)));
        let link = matches!(entry.node, ShmNode::Symlink(..));
        let last = if link {
            AtFlags::SYMLINK_NOFOLLOW
        } else {
            AtFlags::empty()
        };
        let here = rustix::fs::CWD;
        let (uid, gid) = owner(attributes);
        rustix::fs::chownat(here, &place, Some(uid), Some(gid), last).map_err(making(path))?;
        for (name, value) in &attributes.extended {
            rustix::fs::lsetxattr(&place, name.as_slice(), value, XattrFlags::empty())
                .map_err(making(path))?;
        }
        if !link {
            rustix::fs::chmodat(here, &place, mode(attributes), AtFlags::empty())
                .map_err(making(path))?;
        }
        rustix::fs::utimensat(here, &place, &times(attributes), last).map_err(making(path))
    }
}

/// A shared object that is a file: its number, what it is, its size.
type Object<'a> = (SharedId, &'a SharedFile, u64);

fn objects(image: &JobImage) -> Vec<Object<'_>> {
    let all = (0..).zip(&image.shared);
    let files = all.filter_map(|(id, memory)| match &memory.kind {
        SharedKind::File(file) => Some((id, file, memory.size)),
        _ => None,
    });
    files.collect()
}

fn settle_file(file: &File, attributes: &Attributes, exact: bool) -> io::Result<()> {
    let (uid, gid) = owner(attributes);
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    for (name, value) in &attributes.extended {
        let set = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
        if exact {
            set?;
        }
    }
    rustix::fs::fchmod(file, mode(attributes))?;
    Ok(rustix::fs::futimens(file, &times(attributes))?)
}

fn owner(attributes: &Attributes) -> (Uid, Gid) {
    (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid))
}

fn mode(attributes: &Attributes) -> Mode {
    Mode::from_raw_mode(attributes.mode & 0o7777)
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    Timestamps {
        last_access: time(attributes.accessed),
        last_modification: time(attributes.modified),
    }
}

fn create(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn link(file: &File, parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::linkat(file, "", parent, name, AtFlags::EMPTY_PATH)
}

fn making<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> RestoreError + use<E> {
    host(format!("make /dev/shm/{}", String::from_utf8_lossy(path)))
}

fn malformed(path: &[u8]) -> RestoreError {
    Obstacle {
        pid: None,
        object: format!("/dev/shm/{}", String::from_utf8_lossy(path)),
        reason: "is not a place in a /dev/shm of its own, or no file belongs to it".into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    }
    .into()
}
