//! Files that a job has made itself in the temporary directories of its node:
//! what other nodes cannot have, and what goes along.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::time::ClockId;

use super::{boot, fd, process};
use crate::{image::OwnFile, sys::HostPid};

/// Where programs put what concerns this node and this run alone (file-hierarchy(7)).
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/run"];
/// File systems of this node alone: tmpfs, ramfs, ext2 to ext4, xfs, btrfs, f2fs, overlay, zfs, bcachefs.
const LOCAL: [i64; 9] = [
    0x0102_1994,
    0x8584_58f6,
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x794c_7630,
    0x2fc1_2fc1,
    0xca45_1a4e,
];
/// Largest file that goes along, in bytes: it is copied while the job stands still.
pub const LARGEST: u64 = 256 << 20;
/// A tick of `/proc/PID/stat`, and the coarsest clock of a file system.
const TICK: Duration = Duration::from_millis(10);

/// The rule by which a job's own files are known.
#[derive(Debug, Clone, Default)]
pub struct OwnFiles {
    /// Nothing older is the job's.
    since: Option<SystemTime>,
    /// Effective users of its processes.
    users: BTreeSet<u32>,
    /// The run of this kernel.
    boot: String,
    /// Inodes that its processes watch: they would see how a file gets its name.
    watched: BTreeSet<u64>,
}

impl OwnFiles {
    /// The rule for a job that has been on this node since `eldest` was started: the
    /// capsule's init, or the first process where there is no capsule.
    #[must_use]
    pub fn of(eldest: HostPid, processes: impl IntoIterator<Item = HostPid>) -> Self {
        let processes: Vec<HostPid> = processes.into_iter().collect();
        let users = processes.iter();
        let users = users.filter_map(|host| Some(process::status(*host).ok()?.uids[1]));
        Self {
            watched: processes.iter().flat_map(|host| watched(*host)).collect(),
            since: process::stat(eldest).ok().map(|stat| moment(stat.started)),
            users: users.collect(),
            boot: boot::id().unwrap_or_default(),
        }
    }

    /// What is said of the file at `path` below `root` if it is one: a regular file
    /// with this one name, in a temporary directory that no other node sees, made
    /// by a user of the job since that is here, not too large, and not watched by the job.
    #[must_use]
    pub fn judge(&self, root: &OwnedFd, path: &[u8], file: &Metadata) -> Option<OwnFile> {
        let folders = folders(path)?;
        let plain = file.is_file() && file.nlink() == 1 && file.len() <= LARGEST;
        let ours =
            plain && self.users.contains(&file.uid()) && file.created().ok()? >= self.since?;
        if !ours
            || !fd::leads_to(root, path, (file.dev(), file.ino()))
            || self.sees(root, path, file)
        {
            return None;
        }
        let place = fd::place(root, path).ok()?;
        let local = LOCAL.contains(&rustix::fs::fstatfs(&place).ok()?.f_type);
        local.then(|| OwnFile {
            boot: self.boot.clone(),
            device: file.dev(),
            inode: file.ino(),
            folders: folders.iter().map(|folder| mode(root, folder)).collect(),
        })
    }
}

impl OwnFiles {
    fn sees(&self, root: &OwnedFd, path: &[u8], file: &Metadata) -> bool {
        if self.watched.is_empty() || self.watched.contains(&file.ino()) {
            return !self.watched.is_empty();
        }
        let parent = Path::new(std::ffi::OsStr::from_bytes(path)).parent();
        let parent = parent.and_then(|parent| fd::place(root, parent.as_os_str().as_bytes()).ok());
        let parent = parent.and_then(|parent| rustix::fs::fstat(parent).ok());
        parent.is_none_or(|parent| self.watched.contains(&parent.st_ino))
    }
}

/// Inodes that a process watches by inotify(7).
fn watched(host: HostPid) -> Vec<u64> {
    let watches = |number: &i32| {
        let link = fs::read_link(format!("/proc/{host}/fd/{number}")).ok()?;
        let name = link.as_os_str().as_bytes();
        let inotify = name == b"anon_inode:inotify" || name == b"anon_inode:[inotify]";
        let seen = inotify.then(|| fd::Seen::look(host, *number).ok())??;
        Some(seen.info.inotify)
    };
    let numbers = fd::numbers(host).unwrap_or_default();
    let lines = numbers.iter().filter_map(watches).flatten();
    lines.map(|watch| watch.inode).collect()
}

/// The folders between a temporary directory and a file in it, outermost first;
/// nothing for a file elsewhere.
#[must_use]
pub fn folders(path: &[u8]) -> Option<Vec<&Path>> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let top = TEMPORARY.iter().find(|top| path.starts_with(top))?;
    let above = path.ancestors().skip(1);
    let mut folders: Vec<&Path> = above.take_while(|one| *one != Path::new(top)).collect();
    folders.reverse();
    Some(folders)
}

/// Whether the file with this metadata, on this kernel, is the one that is described.
#[must_use]
pub fn is_same(own: &OwnFile, device: u64, inode: u64) -> bool {
    (own.device, own.inode) == (device, inode) && boot::id().is_ok_and(|boot| boot == own.boot)
}

fn mode(root: &OwnedFd, folder: &Path) -> u32 {
    let found = fd::place(root, folder.as_os_str().as_bytes());
    let found = found.and_then(|found| Ok(rustix::fs::fstat(&found)?));
    found.map_or(0o700, |stat| stat.st_mode & 0o7777)
}

/// The time of day at which something was started so many ticks after boot.
fn moment(ticks: u64) -> SystemTime {
    let up = rustix::time::clock_gettime(ClockId::Boottime);
    let up = Duration::new(
        u64::try_from(up.tv_sec).unwrap_or(0),
        u32::try_from(up.tv_nsec).unwrap_or(0),
    );
    let started = Duration::from_millis(ticks.saturating_mul(10));
    SystemTime::now() - up.saturating_sub(started) - TICK
}

/// The metadata of what a process has open or mapped, by a magic link of `/proc`.
///
/// # Errors
/// The process is gone.
pub fn metadata(host: HostPid, number: i32) -> io::Result<Metadata> {
    fs::metadata(format!("/proc/{host}/fd/{number}"))
}

#[cfg(test)]
mod tests {
    use rustix::fs::inotify;

    use super::*;

    #[test]
    fn only_temporary_directories_count() {
        let paths = |path: &str| {
            let found = folders(path.as_bytes())?;
            Some(found.iter().map(|one| one.display().to_string()).collect())
        };
        let wanted = |folders: &[&str]| Some(folders.iter().map(ToString::to_string).collect());
        assert_eq!(paths("/tmp/a"), wanted(&[]));
        assert_eq!(
            paths("/var/tmp/a/b/c"),
            wanted(&["/var/tmp/a", "/var/tmp/a/b"])
        );
        let none: Option<Vec<String>> = None;
        assert_eq!(paths("/tmpfile"), none);
        assert_eq!(paths("/home/x/tmp/a"), none);
    }

    #[test]
    fn what_is_older_of_others_or_has_two_names_is_not_ones_own() {
        let own = HostPid::own();
        let root = fd::root(own).unwrap();
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o710);
        fs::set_permissions(folder.path(), mode).unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "text").unwrap();
        let bytes = path.as_os_str().as_bytes();
        let judge = |rule: &OwnFiles| rule.judge(&root, bytes, &fs::metadata(&path).unwrap());
        let rule = OwnFiles::of(own, [own]);
        let found = judge(&rule).unwrap();
        assert_eq!(found.folders, [0o710]);
        assert!(is_same(&found, found.device, found.inode));
        assert!(!is_same(&found, found.device, found.inode + 1));
        let later = OwnFiles {
            since: Some(SystemTime::now() + TICK),
            ..rule.clone()
        };
        assert_eq!(judge(&later), None);
        let other = OwnFiles {
            users: BTreeSet::from([4711]),
            ..rule.clone()
        };
        assert_eq!(judge(&other), None);
        assert_eq!(judge(&OwnFiles::default()), None);
        let watching = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        for place in [path.as_path(), folder.path()] {
            let wd = inotify::add_watch(&watching, place, inotify::WatchFlags::MODIFY).unwrap();
            assert_eq!(judge(&OwnFiles::of(own, [own])), None);
            inotify::remove_watch(&watching, wd).unwrap();
        }
        assert_eq!(judge(&OwnFiles::of(own, [own])), Some(found));
        fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert_eq!(judge(&rule), None);
    }
}
