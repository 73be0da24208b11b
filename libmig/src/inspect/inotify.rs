//! Watches of inotify(7): which files they are on. The kernel tells inode and file
//! handle, no name; the name that the handle leads to is looked up again, and must
//! be the same file. Where handles lead nowhere, the file is searched.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
};

use rustix::fs::{Mode, OFlags};

use super::{atlas::Place, fd};
use crate::{
    image::FilePath,
    sys::{HostPid, descriptor},
};

/// A line of fdinfo: one watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchLine {
    /// Its number.
    pub wd: i32,
    /// IN_* bits.
    pub mask: u32,
    /// Inode number.
    pub inode: u64,
    /// Device as the kernel has it: major << 20 | minor.
    pub device: u64,
    /// Type of the file handle.
    pub handle_type: i32,
    /// The file handle; empty where the file system has none.
    pub handle: Vec<u8>,
}

impl WatchLine {
    /// `inotify wd:1 ino:2 sdev:fe00000 mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:..`,
    /// all numbers hexadecimal.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut watch = Self::default();
        for word in line.strip_prefix("inotify ")?.split_whitespace() {
            let (name, value) = word.split_once(':')?;
            let number = || u64::from_str_radix(value, 16).ok();
            match name {
                "wd" => watch.wd = i32::try_from(number()?).ok()?,
                "mask" => watch.mask = u32::try_from(number()?).ok()?,
                "ino" => watch.inode = number()?,
                "sdev" => watch.device = number()?,
                "fhandle-type" => watch.handle_type = i32::try_from(number()?).ok()?,
                "f_handle" => watch.handle = bytes(value)?,
                _ => {}
            }
        }
        (watch.wd > 0).then_some(watch)
    }

    /// The file that it is on, by its handle.
    fn locate(&self, host: HostPid, root: &OwnedFd) -> Option<FilePath> {
        let mounts = fs::read_to_string(format!("/proc/{host}/mountinfo")).ok()?;
        let here = mounts.lines().filter_map(mount);
        let mut here = here.filter(|mount| mount.device == self.device);
        here.find_map(|mount| self.below(host, &mount.point, root))
    }

    /// The same, by one mount of its file system.
    fn below(&self, host: HostPid, point: &str, root: &OwnedFd) -> Option<FilePath> {
        let point = format!("/proc/{host}/root{point}");
        // Not opened where it need not be: that would be an event.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mounted = rustix::fs::open(&point, flags, Mode::empty()).ok()?;
        let found = if rustix::fs::fstat(&mounted).ok()?.st_ino == self.inode {
            mounted
        } else {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let anchor = rustix::fs::open(&point, flags, Mode::empty()).ok()?;
            descriptor::open_by_handle(&anchor, self.handle_type, &self.handle).ok()?
        };
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        let path = fs::read_link(&link).ok()?.into_os_string().into_vec();
        let metadata = fs::metadata(&link).ok()?;
        let same = metadata.ino() == self.inode
            && fd::leads_to(root, &path, (metadata.dev(), metadata.ino()));
        same.then(|| FilePath {
            space: None,
            path,
            mode: metadata.mode(),
            size: 0,
        })
    }
}

/// The files that watches are on, below `root`, which is the root directory of `host`.
#[must_use]
pub fn locate(
    watches: &[WatchLine],
    host: HostPid,
    Place { space, root }: Place<'_>,
) -> Vec<Option<FilePath>> {
    let found = watches.iter().map(|watch| watch.locate(host, root));
    let mut found: Vec<Option<FilePath>> = found.collect();
    if found.iter().any(Option::is_none) {
        super::search::fill(watches, host, root, &mut found);
    }
    for file in found.iter_mut().flatten() {
        file.space = space;
    }
    found
}

/// A line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: i32,
    /// Major << 20 | minor.
    pub(super) device: u64,
    pub(super) point: String,
}

/// Reads a line of mountinfo. Points with a space, a tab or a
/// backslash in them are passed over.
pub(super) fn mount(line: &str) -> Option<Mount> {
    let mut words = line.split(' ');
    let id = words.next()?.parse().ok()?;
    let mut words = words.skip(1);
    let (major, minor) = words.next()?.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    let point = words.nth(1)?;
    (!point.contains('\\')).then(|| Mount {
        id,
        device: major << 20 | minor,
        point: point.to_owned(),
    })
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = "inotify wd:1f ino:9e7e sdev:800013 mask:4000fce ignored_mask:0 \
                    fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d";
        let watch = WatchLine::parse(line).unwrap();
        assert_eq!((watch.wd, watch.mask), (31, 0x0400_0fce));
        assert_eq!((watch.inode, watch.device), (0x9e7e, 0x0080_0013));
        assert_eq!(watch.handle, [0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d]);
        assert_eq!(WatchLine::parse("inotify wd:0 ino:1"), None);
        assert_eq!(WatchLine::parse("inotify wd:1 f_handle:7"), None);
    }

    #[test]
    fn mounts_are_told_by_their_device() {
        let line = "29 1 254:3 / /some/place rw,relatime - ext4 /dev/vda rw";
        let wanted = Mount {
            id: 29,
            device: 254 << 20 | 3,
            point: "/some/place".to_owned(),
        };
        assert_eq!(mount(line), Some(wanted));
        assert_eq!(mount("29 1 0:3 / /a\\040b rw"), None);
    }
}
