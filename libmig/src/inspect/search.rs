//! Files that are known by their handles alone, in file systems that do not open by handle
//! (an overlay, as a rule): looked for where programs get the files from that they watch.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsStr,
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{fd, inotify::WatchLine};
use crate::{
    image::FilePath,
    sys::{HostPid, descriptor},
};

/// Names that are looked at, at most: some tenths of a second.
const MOST: usize = 20_000;
/// Events that looking into a folder causes there.
const SHY: u32 = libc::IN_OPEN | libc::IN_ACCESS | libc::IN_CLOSE_NOWRITE;

/// Finds files for those watches of `host` that have none yet, below `root`.
pub(super) fn fill(
    watches: &[WatchLine],
    host: HostPid,
    root: &OwnedFd,
    found: &mut [Option<FilePath>],
) {
    let mounts = fs::read_to_string(format!("/proc/{host}/mountinfo")).unwrap_or_default();
    let mounts: Vec<_> = mounts.lines().filter_map(super::inotify::mount).collect();
    let mut search = Search {
        root,
        devices: mounts
            .iter()
            .map(|mount| (mount.id, mount.device))
            .collect(),
        watches,
        found,
        shy: HashSet::new(),
        left: MOST,
    };
    let known = known(host);
    for path in &known {
        search.look(path);
        if let Some(parent) = path.parent() {
            search.look(parent);
        }
    }
    let wanted: HashSet<u64> = watches.iter().map(|watch| watch.device).collect();
    let points = mounts
        .into_iter()
        .filter(|mount| wanted.contains(&mount.device));
    let points = points.map(|mount| PathBuf::from(mount.point));
    search.walk(known.into_iter().chain(points).collect());
}

/// The directory of a process, what it has open and what was said on its command line.
fn known(host: HostPid) -> Vec<PathBuf> {
    let cwd = fs::read_link(format!("/proc/{host}/cwd")).unwrap_or_default();
    let line = fs::read(format!("/proc/{host}/cmdline")).unwrap_or_default();
    let words = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    let words = words.map(|word| cwd.join(OsStr::from_bytes(word)));
    let open = fd::numbers(host).unwrap_or_default().into_iter();
    let open = open.filter_map(|number| fs::read_link(format!("/proc/{host}/fd/{number}")).ok());
    let all = std::iter::once(cwd.clone()).chain(words).chain(open);
    all.filter(|path| path.is_absolute()).collect()
}

struct Search<'a> {
    root: &'a OwnedFd,
    /// Device of each mount.
    devices: HashMap<i32, u64>,
    watches: &'a [WatchLine],
    found: &'a mut [Option<FilePath>],
    /// Watched folders in which nobody may look unseen.
    shy: HashSet<PathBuf>,
    left: usize,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.left == 0 || self.found.iter().all(Option::is_some)
    }

    /// Looks at a name and what it leads to; returns the folder that it is, if it is one
    /// of a file system that is looked in.
    fn look(&mut self, path: &Path) -> Option<PathBuf> {
        self.left = self.left.saturating_sub(1);
        let folder = self.judge(path, OFlags::empty());
        let link = folder.is_none() && self.found.iter().any(Option::is_none);
        if link {
            self.judge(path, OFlags::NOFOLLOW);
        }
        folder
    }

    fn judge(&mut self, path: &Path, last: OFlags) -> Option<PathBuf> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | last;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = rustix::fs::openat2(self.root, path, flags, Mode::empty(), within).ok()?;
        let (mount, kind, handle) = descriptor::handle(&place).ok()?;
        let device = *self.devices.get(&mount)?;
        let link = format!("/proc/self/fd/{}", place.as_raw_fd());
        let name = fs::read_link(&link).ok()?;
        let metadata = fs::metadata(&link).ok()?;
        let identity = (metadata.dev(), metadata.ino());
        let matching = |watch: &WatchLine| {
            let same = (watch.device, watch.handle_type) == (device, kind);
            same && !watch.handle.is_empty() && watch.handle == handle
        };
        let bytes = name.as_os_str().as_bytes();
        let reached = fd::leads_to(self.root, bytes, identity);
        for (watch, found) in self.watches.iter().zip(self.found.iter_mut()) {
            if reached && matching(watch) {
                if watch.mask & SHY != 0 {
                    self.shy.insert(name.clone());
                }
                found.get_or_insert_with(|| FilePath {
                    space: None,
                    path: name.clone().into_os_string().into_vec(),
                    mode: metadata.mode(),
                    size: 0,
                });
            }
        }
        let inside = self.watches.iter().any(|watch| watch.device == device);
        (metadata.is_dir() && inside).then_some(name)
    }

    /// Looks at all that is below these places, the nearest first.
    fn walk(&mut self, mut places: VecDeque<PathBuf>) {
        let mut been = HashSet::new();
        while let Some(place) = places.pop_front() {
            if self.is_over() {
                return;
            }
            let Some(folder) = self.look(&place) else {
                continue;
            };
            let parent = folder
                .parent()
                .is_some_and(|parent| self.shy.contains(parent));
            if parent || self.shy.contains(&folder) || !been.insert(folder.clone()) {
                continue;
            }
            let names = self.names(&folder);
            places.extend(names.into_iter().map(|name| folder.join(name)));
        }
    }

    fn names(&self, folder: &Path) -> Vec<PathBuf> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let open = rustix::fs::openat2(self.root, folder, flags, Mode::empty(), within);
        let entries = open
            .ok()
            .and_then(|open| fs::read_dir(format!("/proc/self/fd/{}", open.as_raw_fd())).ok());
        let entries = entries.into_iter().flatten().take(self.left);
        let names = entries.filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name())));
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch on a file, as fdinfo would show it.
    fn watch(path: &Path, mask: u32, devices: &[(i32, u64)]) -> WatchLine {
        let place = fs::File::open(path).unwrap();
        let (mount, handle_type, handle) = descriptor::handle(&place).unwrap();
        let device = devices.iter().find(|(id, _)| *id == mount).unwrap().1;
        WatchLine {
            wd: 1,
            mask,
            device,
            handle_type,
            handle,
            ..WatchLine::default()
        }
    }

    #[test]
    fn what_is_near_is_found_but_not_behind_who_would_notice() {
        let own = HostPid::own();
        let root = fd::root(own).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts: Vec<_> = mounts
            .lines()
            .filter_map(super::super::inotify::mount)
            .collect();
        let devices: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.id, mount.device))
            .collect();
        // Below what this process has open.
        let folder = tempfile::tempdir().unwrap();
        let _open = fs::File::open(folder.path()).unwrap();
        let (inner, file) = (
            folder.path().join("inner"),
            folder.path().join("inner/file"),
        );
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "").unwrap();
        let find = |watches: &[WatchLine]| {
            let mut found = vec![None; watches.len()];
            fill(watches, own, &root, &mut found);
            let path = |one: Option<FilePath>| one.map(|file| OsStr::from_bytes(&file.path).into());
            found
                .into_iter()
                .map(path)
                .collect::<Vec<Option<PathBuf>>>()
        };
        let quiet = watch(&inner, libc::IN_MODIFY, &devices);
        let of_file = watch(&file, libc::IN_MODIFY, &devices);
        let both = find(&[quiet, of_file.clone()]);
        assert_eq!(both, [Some(inner.clone()), Some(file.clone())]);
        let noticing = watch(&inner, libc::IN_OPEN, &devices);
        assert_eq!(find(&[noticing, of_file.clone()]), [Some(inner), None]);
        let gone = WatchLine {
            handle: vec![1, 2, 3],
            ..of_file
        };
        assert_eq!(find(&[gone]), [None]);
    }
}
