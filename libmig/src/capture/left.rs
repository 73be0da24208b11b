//! Names of sockets and files that a job leaves behind when it has moved: removed, since
//! nobody answers there any more, or they are elsewhere now; but only while they are those of the job.

use std::{ffi::OsStr, io, os::fd::AsFd, os::unix::ffi::OsStrExt, path::Path};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Stat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::image::{FileObject, JobImage, SharedKind};

/// The name of a socket or file, and what tells it from whatever has its name later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftName {
    /// Absolute path in the job's root.
    pub path: Vec<u8>,
    /// st_dev and st_ino.
    pub identity: (u64, u64),
    /// The change time in nanoseconds, of a socket: it may have ended, and its inode be another's.
    pub changed: Option<i64>,
}

/// The names of all sockets of an image, and of the files that the job brings along.
#[must_use]
pub fn names(image: &JobImage) -> Vec<LeftName> {
    let files = image.files.iter().filter_map(|file| match &file.object {
        FileObject::Unix(socket) => socket.file.as_ref(),
        _ => None,
    });
    let sockets = files.filter_map(|file| {
        let (device, inode, changed) = file.identity;
        Some(LeftName {
            path: file.path.clone()?,
            identity: (device, inode),
            changed: Some(changed),
        })
    });
    let own = image.shared.iter().filter_map(|memory| {
        let SharedKind::File(file) = &memory.kind else {
            return None;
        };
        let own = file.own.as_ref()?;
        Some(LeftName {
            path: file.path.clone(),
            identity: (own.device, own.inode),
            changed: None,
        })
    });
    sockets.chain(own).collect()
}

/// Removes those that are still what they were. Can be repeated; to be called
/// while the job's frozen copy still has the sockets open.
pub fn remove(root: impl AsFd, names: &[LeftName]) {
    for left in names {
        if let Err(error) = remove_one(&root, left) {
            let path = Path::new(OsStr::from_bytes(&left.path)).display();
            tracing::warn!(%path, %error, "the name of a socket or file that has moved is left");
        }
    }
}

fn remove_one(root: &impl AsFd, left: &LeftName) -> io::Result<()> {
    let path = Path::new(OsStr::from_bytes(&left.path));
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let parent = rustix::fs::openat2(root, parent, flags, Mode::empty(), resolve)?;
    let look = |name: &OsStr| rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let (device, inode) = left.identity;
    let same = |stat: &Stat| (stat.st_dev, stat.st_ino) == (device, inode);
    let unchanged = |stat: &Stat| left.changed.is_none_or(|changed| change(stat) == changed);
    match look(name) {
        Ok(stat) if same(&stat) && unchanged(&stat) => {}
        // The destination has replaced it in a folder that both see, or somebody else has.
        Ok(_) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // Whoever replaces it just now is not to lose the new one.
    let aside = format!(".mig-left-{inode:x}-{device:x}");
    let aside = OsStr::new(&aside);
    rustix::fs::renameat(&parent, name, &parent, aside)?;
    let stat = look(aside)?;
    if same(&stat) {
        rustix::fs::unlinkat(&parent, aside, AtFlags::empty())?;
    } else {
        rustix::fs::renameat_with(&parent, aside, &parent, name, RenameFlags::NOREPLACE)?;
    }
    Ok(())
}

fn change(stat: &Stat) -> i64 {
    let changed = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    i64::try_from(changed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_is_still_the_same_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).unwrap();
        let stat = rustix::fs::stat(&path).unwrap();
        let left = LeftName {
            path: b"/socket".to_vec(),
            identity: (stat.st_dev, stat.st_ino),
            changed: Some(change(&stat)),
        };
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        remove(&root, std::slice::from_ref(&left));
        assert!(path.exists(), "it is that of another socket by now");
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(folder.path().join("aside"), &path).unwrap();
        let stat = rustix::fs::stat(&path).unwrap();
        let left = LeftName {
            identity: (stat.st_dev, stat.st_ino),
            changed: Some(change(&stat)),
            ..left
        };
        remove(&root, &[left.clone(), left]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
