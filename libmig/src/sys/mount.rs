//! Attributes of mounts (mount_setattr(2), Linux 5.12), and which mount a file is on.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use linux_raw_sys::general::mount_attr;
use rustix::fs::{AtFlags, StatxFlags};

/// MOUNT_ATTR__ATIME: the bits that say when times of access are noted.
pub const ATIME: u64 = 0x70;
/// MOUNT_ATTR_NOATIME.
pub const NOATIME: u64 = 0x10;
/// MOUNT_ATTR_STRICTATIME.
pub const STRICTATIME: u64 = 0x20;
/// Changes the mount that `mount` is on, a descriptor of its root. `propagation` is
/// MS_PRIVATE and the like, or 0.
///
/// # Errors
/// EPERM for what a less privileged user namespace may not change.
pub fn change(mount: impl AsFd, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    let attributes = mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty string, the struct and its size are what the kernel expects.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<mount_attr>(),
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The ID, as in mountinfo, of the mount that the file at a path is on. Magic links are followed.
///
/// # Errors
/// Nothing is there; or a kernel before 5.8.
pub fn id_at(path: &Path) -> io::Result<u64> {
    let place = rustix::fs::CWD;
    id(&rustix::fs::statx(
        place,
        path,
        AtFlags::empty(),
        StatxFlags::MNT_ID,
    )?)
}

/// The same of an open file.
///
/// # Errors
/// A kernel before 5.8.
pub fn id_of(file: impl AsFd) -> io::Result<u64> {
    id(&rustix::fs::statx(
        file,
        "",
        AtFlags::EMPTY_PATH,
        StatxFlags::MNT_ID,
    )?)
}

fn id(found: &rustix::fs::Statx) -> io::Result<u64> {
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(found.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_on_a_mount_of_this_namespace() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ids: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let id = id_at(Path::new("/proc/self/status")).unwrap().to_string();
        assert!(ids.contains(&id.as_str()));
        let root = std::fs::File::open("/").unwrap();
        assert!(ids.contains(&id_of(root).unwrap().to_string().as_str()));
    }
}
