//! The tmpfs that a capsule has at /dev/shm, and where the file behind a mapping is found.

use std::{
    fs::{self, Metadata},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{fd, smaps::DetailedArea};
use crate::sys::HostPid;

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// The folder /dev/shm of a job, when it has one of its own.
#[derive(Debug)]
pub struct Shm {
    folder: OwnedFd,
    device: u64,
}

/// Something in it.
#[derive(Debug)]
pub struct ShmFound {
    /// Relative to /dev/shm; empty for /dev/shm itself.
    pub path: PathBuf,
    /// Of itself, not of what a link leads to.
    pub metadata: Metadata,
}

impl ShmFound {
    /// What cannot move, by its kind.
    #[must_use]
    pub fn foreign(&self) -> Option<&'static str> {
        let kind = self.metadata.file_type();
        if kind.is_socket() {
            Some("socket")
        } else if kind.is_block_device() || kind.is_char_device() {
            Some("device")
        } else {
            None
        }
    }
}

impl Shm {
    /// /dev/shm below `root`; `None` where that is the one that this process sees too.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of(root: impl AsFd) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let folder = match rustix::fs::openat2(root, "dev/shm", flags, Mode::empty(), within) {
            Ok(folder) => folder,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let device = rustix::fs::fstat(&folder)?.st_dev;
        let ours = fs::metadata("/dev/shm").map(|metadata| metadata.dev());
        let apart = ours.map_or(true, |ours| ours != device);
        Ok(apart.then_some(Self { folder, device }))
    }

    /// Another directory, with all that is below it.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn at(folder: OwnedFd) -> io::Result<Self> {
        let device = rustix::fs::fstat(&folder)?.st_dev;
        Ok(Self { folder, device })
    }

    /// st_dev of its files.
    #[must_use]
    pub fn device(&self) -> u64 {
        self.device
    }

    /// The folder, opened with O_PATH.
    #[must_use]
    pub fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// A path of this process to what is in it.
    #[must_use]
    pub fn path(&self, inside: &Path) -> PathBuf {
        let folder = PathBuf::from(format!("/proc/self/fd/{}/.", self.folder.as_raw_fd()));
        folder.join(inside)
    }

    /// All that is in it, folders before their contents, in the order of the names.
    ///
    /// # Errors
    /// When it changes while it is read, or cannot be read.
    pub fn walk(&self) -> io::Result<Vec<ShmFound>> {
        let mut found = Vec::new();
        self.visit(Path::new(""), &mut found)?;
        Ok(found)
    }

    fn visit(&self, path: &Path, found: &mut Vec<ShmFound>) -> io::Result<()> {
        let metadata = fs::symlink_metadata(self.path(path))?;
        // Another file system that is mounted there is the host's.
        if metadata.dev() != self.device {
            return Ok(());
        }
        let folder = metadata.is_dir();
        found.push(ShmFound {
            path: path.to_owned(),
            metadata,
        });
        if folder {
            let entries = fs::read_dir(self.path(path))?;
            let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
            let mut names = names.collect::<io::Result<Vec<_>>>()?;
            names.sort_unstable();
            for name in names {
                self.visit(&path.join(name), found)?;
            }
        }
        Ok(())
    }
}

/// Where the file behind a mapping is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// By its name.
    Named,
    /// Nowhere: its contents travel.
    Object,
    /// Nowhere, and it cannot be copied.
    Lost(&'static str),
}

/// Judges a mapping of a file by the metadata of the file. `shm` is the device of the
/// capsule's /dev/shm.
#[must_use]
pub fn whereabouts(
    root: &OwnedFd,
    shm: Option<u64>,
    area: &DetailedArea,
    file: &Metadata,
) -> Whereabouts {
    let regular = file.is_file();
    if regular && shm == Some(file.dev()) {
        return Whereabouts::Object;
    }
    if fd::leads_to(root, &area.area.name, (file.dev(), file.ino())) {
        return Whereabouts::Named;
    }
    if !regular {
        return Whereabouts::Lost("what is mapped has been deleted, and is no regular file");
    }
    if area.has(b"ht") {
        return Whereabouts::Lost("it is a file of hugetlbfs that has been deleted");
    }
    // A copy is as good as the file for whoever only reads it; what somebody
    // writes must reach those who use the other link.
    if file.nlink() > 0 && area.area.shared && area.has(b"mw") {
        return Whereabouts::Lost(
            "the name of the file that is mapped is gone or means another file now, and other links of it exist",
        );
    }
    Whereabouts::Object
}

/// The program of a process, when it is not found by its name any more.
///
/// # Errors
/// The process is gone.
pub fn nameless_program(root: &OwnedFd, host: HostPid) -> io::Result<Option<PathBuf>> {
    let magic = format!("/proc/{host}/exe");
    let path = fs::read_link(&magic)?;
    let metadata = fs::metadata(&magic)?;
    let bytes = path.as_os_str().as_bytes();
    let found = fd::leads_to(root, bytes, (metadata.dev(), metadata.ino()));
    Ok((!found && bytes.ends_with(DELETED)).then_some(path))
}

/// A name without what the kernel appends to it.
#[must_use]
pub fn before_unlink(name: &[u8]) -> &[u8] {
    name.strip_suffix(DELETED).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::smaps;

    fn area(name: &str, sharing: char, flags: &str) -> DetailedArea {
        let text = format!("7f00-8f00 rw-{sharing} 00000000 00:00 0    {name}\nVmFlags: {flags}\n");
        smaps::parse(text.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_file_without_a_name_is_an_object_unless_its_writes_must_reach_another_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = fd::root(HostPid::own()).unwrap();
        let path = folder.path().join("file");
        let file = fs::File::create(&path).unwrap();
        let name = path.display().to_string();
        let judge = |name: &str, sharing, flags| {
            whereabouts(
                &root,
                None,
                &area(name, sharing, flags),
                &file.metadata().unwrap(),
            )
        };
        assert_eq!(judge(&name, 's', "rd wr sh mr mw"), Whereabouts::Named);
        fs::hard_link(&path, folder.path().join("other")).unwrap();
        fs::remove_file(&path).unwrap();
        let gone = format!("{name} (deleted)");
        assert_eq!(judge(&gone, 'p', "rd wr mr mw"), Whereabouts::Object);
        assert_eq!(judge(&gone, 's', "rd sh mr"), Whereabouts::Object);
        let shared = judge(&gone, 's', "rd sh mr mw");
        assert!(matches!(shared, Whereabouts::Lost(_)), "{shared:?}");
        fs::remove_file(folder.path().join("other")).unwrap();
        assert_eq!(judge(&gone, 's', "rd sh mr mw"), Whereabouts::Object);
        let own = Some(file.metadata().unwrap().dev());
        let metadata = file.metadata().unwrap();
        let in_shm = whereabouts(&root, own, &area(&name, 's', "rd"), &metadata);
        assert_eq!(in_shm, Whereabouts::Object);
    }

    #[test]
    fn what_all_see_is_not_the_jobs() {
        let root = fd::root(HostPid::own()).unwrap();
        assert!(Shm::of(&root).unwrap().is_none());
    }
}
