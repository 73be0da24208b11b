//! Files that a job brings along with their names. Each is made in a hidden folder
//! beside its name (see [`super::names`]), where its user could make it too.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    thread,
};

use rustix::{
    fs::{Access, AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

use super::{
    RestoreHost,
    error::{RestoreError, host as failed},
    names::{FILE, Over, StagedName},
    shm::Files,
};
use crate::{
    api::Obstacle,
    image::{FileObject, JobImage, OwnFile, SharedFile, SharedId, SharedKind},
    inspect::{manifest, own},
};

/// Makes them, of their size and empty, and says which names they are to get.
///
/// # Errors
/// A name that another file has, and what the file system says to its user.
pub(super) fn make(
    image: &JobImage,
    root: BorrowedFd<'_>,
    host: &mut dyn RestoreHost,
) -> Result<(Files, Vec<StagedName>), RestoreError> {
    let mut plan = Vec::new();
    for (id, memory) in (0..).zip(&image.shared) {
        if let SharedKind::File(file) = &memory.kind
            && let Some(own) = &file.own
            && let Some(name) = stage(root, file, own, (id, is_open(image, id)))?
        {
            plan.push((id, file, own, memory.size, name));
        }
    }
    let names: Vec<StagedName> = plan.iter().map(|(.., name)| name.clone()).collect();
    if !names.is_empty() {
        host.names(&names)
            .map_err(failed("write down the names of its files"))?;
    }
    let mut files = Files::new();
    for (id, file, own, size, name) in plan {
        let made = create(root, file, own, &name).and_then(|made| {
            rustix::fs::ftruncate(&made, size)?;
            Ok(made)
        });
        files.insert(id, made.map_err(|error| refused(file, &error))?);
    }
    Ok((files, names))
}

/// Whether the job knows the file by a descriptor, and not by a mapping alone.
fn is_open(image: &JobImage, id: SharedId) -> bool {
    let mut files = image.files.iter();
    files.any(|file| file.object == FileObject::Shared(id))
}

/// The name that a file is to get; nothing where it goes without.
fn stage(
    root: BorrowedFd<'_>,
    file: &SharedFile,
    own: &OwnFile,
    (id, open): (SharedId, bool),
) -> Result<Option<StagedName>, RestoreError> {
    let path = Path::new(OsStr::from_bytes(&file.path));
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused(file, &io::ErrorKind::InvalidInput.into()));
    };
    let Some(folders) = own::folders(&file.path) else {
        return Err(refused(file, &io::ErrorKind::InvalidInput.into()));
    };
    let over = match look(root, path) {
        Err(Errno::NOENT) => Over::Nothing,
        Err(error) => return Err(refused(file, &error.into())),
        Ok(stat) if own::is_same(own, stat.st_dev, stat.st_ino) => {
            Over::This(stat.st_dev, stat.st_ino)
        }
        Ok(_) if !open => return Ok(None),
        Ok(_) => return Err(obstacle(file, manifest::TAKEN.into()).into()),
    };
    let absent = |one: &&&Path| matches!(look(root, one), Err(Errno::NOENT));
    let absent = folders.iter().filter(absent);
    Ok(Some(StagedName {
        directory: directory.as_os_str().as_bytes().to_vec(),
        folder: format!(".mig-{:016x}-{id}", super::names::unique()).into_bytes(),
        name: Some(name.as_bytes().to_vec()),
        over,
        made: absent
            .map(|one| one.as_os_str().as_bytes().to_vec())
            .collect(),
    }))
}

fn look(root: BorrowedFd<'_>, path: &Path) -> Result<rustix::fs::Stat, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::fstat(open(root, path, flags)?)
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), within)
}

fn create(
    root: BorrowedFd<'_>,
    file: &SharedFile,
    own: &OwnFile,
    name: &StagedName,
) -> io::Result<File> {
    let folders = own::folders(&file.path).unwrap_or_default();
    let there = folders.len().saturating_sub(name.made.len());
    let top = Path::new(OsStr::from_bytes(&file.path));
    let top = top.ancestors().nth(name.made.len() + 1);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = open(root, top.ok_or(io::ErrorKind::InvalidInput)?, flags)?;
    let missing: Vec<(&OsStr, u32)> = folders[there..]
        .iter()
        .filter_map(|folder| folder.file_name())
        .zip(own.folders.get(there..).unwrap_or_default().iter().copied())
        .collect();
    if missing.len() != name.made.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let directory = as_user(&file.attributes, || descend(top, &missing))?;
    let hidden = name.make_in(&directory)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&hidden, FILE, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(made.into())
}

/// Makes folders, one in the other; the last one must be one that files can be made in.
fn descend(top: OwnedFd, missing: &[(&OsStr, u32)]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = top;
    for (name, mode) in missing {
        match rustix::fs::mkdirat(&at, *name, Mode::from_raw_mode(mode & 0o7777)) {
            // Made for another file of the job.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = rustix::fs::openat(&at, *name, flags, Mode::empty())?;
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(&at, ".", access, AtFlags::EACCESS)?;
    Ok(at)
}

/// What the owner of a file may do with it; the rights of a thread end with it.
fn as_user<T: Send>(
    owner: &crate::image::Attributes,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let run = move || {
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        act()
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, run)?;
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that makes a file panicked")))
    })
}

fn refused(file: &SharedFile, error: &io::Error) -> RestoreError {
    obstacle(
        file,
        format!("its user cannot make it at the destination: {error}"),
    )
    .into()
}

fn obstacle(file: &SharedFile, reason: String) -> Obstacle {
    Obstacle {
        pid: None,
        object: format!("file {}", String::from_utf8_lossy(&file.path)),
        reason,
        remedy: "make room for it there, or keep it in a folder that both nodes share".into(),
        transient: false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::image::Attributes;

    #[test]
    fn what_its_user_may_not_make_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Attributes {
            uid: 4711,
            gid: 4712,
            ..Attributes::default()
        };
        let attempt = || {
            let top = OwnedFd::from(File::open(folder.path()).unwrap());
            let missing = [(OsStr::new("a"), 0o750), (OsStr::new("b"), 0o700)];
            as_user(&owner, || descend(top, &missing))
        };
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let refused = attempt().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o1777)).unwrap();
        attempt().unwrap();
        let made = folder.path().join("a").metadata().unwrap();
        assert_eq!(
            (made.uid(), made.gid(), made.mode() & 0o7777),
            (4711, 4712, 0o750)
        );
        attempt().unwrap();
        let top = OwnedFd::from(File::open("/etc").unwrap());
        assert!(as_user(&owner, || descend(top, &[])).is_err());
    }
}
