//! What the processes of a capsule see: the host's mounts, and over them a
//! `/proc`, `/dev/shm`, `/dev/mqueue` and `/dev/pts` of their own.
//!
//! Runs in the init, in its new mount namespace. The host's later mounts
//! still arrive (the tree is a slave of the host's), and nothing of ours gets out.

use std::{ffi::CString, fs, io, os::unix::fs::FileTypeExt, path::Path};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

/// Mounts the capsule's own file systems.
pub(crate) fn make() -> Result<()> {
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context("the capsule's mounts cannot be made private")?;
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC;
    fresh("proc", "/proc", plain | MountFlags::NODEV, "")?;
    fresh(
        "tmpfs",
        "/dev/shm",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=1777",
    )?;
    fresh("mqueue", "/dev/mqueue", plain | MountFlags::NODEV, "")?;
    let options = match tty_group() {
        Some(gid) => format!("newinstance,ptmxmode=0666,mode=620,gid={gid}"),
        None => "newinstance,ptmxmode=0666,mode=600".to_owned(),
    };
    fresh("devpts", "/dev/pts", plain, &options)?;
    // Where /dev/ptmx is a link to pts/ptmx, it already leads to ours.
    let ptmx = fs::symlink_metadata("/dev/ptmx");
    if ptmx.is_ok_and(|m| m.file_type().is_char_device()) {
        mount_bind("/dev/pts/ptmx", "/dev/ptmx").context("/dev/ptmx cannot be replaced")?;
    }
    Ok(())
}

/// One new file system over a folder; a host without that folder does without.
fn fresh(kind: &str, at: &str, flags: MountFlags, options: &str) -> Result<()> {
    if !Path::new(at).is_dir() {
        return Ok(());
    }
    let options = CString::new(options).expect("no zero byte in our own words");
    mount(kind, at, kind, flags, options.as_c_str())
        .with_context(|| format!("{kind} cannot be mounted on {at}"))
}

/// The group that owns terminals, by the file: no name service is asked here.
fn tty_group() -> Option<u32> {
    let groups = read_group_file().unwrap_or_default();
    let line = groups.lines().find(|line| line.starts_with("tty:"))?;
    line.split(':').nth(2)?.parse().ok()
}

fn read_group_file() -> io::Result<String> {
    fs::read_to_string("/etc/group")
}
