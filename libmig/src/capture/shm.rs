//! The capsule's /dev/shm: every name in it, and its files as shared objects.

use std::{
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::Path,
};

use super::{CaptureError, SharedRegistry, hindrance::obstacle};
use crate::{
    api::Obstacle,
    image::{Attributes, SharedFile, ShmEntry, ShmNode},
    inspect::shm::{Shm, ShmFound},
    sys::HostPid,
};

/// All of it; nothing moves in there, since the whole job is stopped.
pub(super) fn capture(
    init: HostPid,
    shm: Option<&Shm>,
    shared: &mut SharedRegistry,
) -> Result<Vec<ShmEntry>, CaptureError> {
    let Some(shm) = shm else {
        return Ok(Vec::new());
    };
    let failed = |error| CaptureError::proc(init, "/dev/shm")(error);
    let mut entries = Vec::new();
    for found in shm.walk().map_err(failed)? {
        if let Some(kind) = found.foreign() {
            return Err(obstacle(foreign(&found, kind)));
        }
        let path = [b"/dev/shm/", found.path.as_os_str().as_bytes()].concat();
        entries.push(entry(shm, found, path, shared).map_err(failed)?);
    }
    Ok(entries)
}

/// What has a name in a tmpfs; `name` is the absolute one.
pub(super) fn entry(
    shm: &Shm,
    found: ShmFound,
    name: Vec<u8>,
    shared: &mut SharedRegistry,
) -> io::Result<ShmEntry> {
    let place = shm.path(&found.path);
    let attributes = attributes(&Place::At(&place), &found.metadata)?;
    let kind = found.metadata.file_type();
    let path = found.path.into_os_string().into_vec();
    let node = if kind.is_dir() {
        ShmNode::Directory(attributes)
    } else if kind.is_symlink() {
        let target = fs::read_link(&place)?.into_os_string().into_vec();
        ShmNode::Symlink(target, attributes)
    } else if kind.is_file() {
        let file = SharedFile {
            path: name,
            in_shm: true,
            named: true,
            attributes,
            own: None,
        };
        ShmNode::File(shared.intern_file(&place, file)?)
    } else {
        ShmNode::Fifo(attributes)
    };
    Ok(ShmEntry { path, node })
}

/// What has attributes.
pub(super) enum Place<'a> {
    /// What is at a path; of a link, the link itself.
    At(&'a Path),
    /// A file.
    Open(&'a fs::File),
}

/// Owner, mode, times and extended attributes of something.
pub(super) fn attributes(place: &Place<'_>, metadata: &fs::Metadata) -> io::Result<Attributes> {
    let mut names = vec![0; 64 * 1024];
    let listed = match place {
        Place::At(path) => rustix::fs::llistxattr(*path, names.as_mut_slice()),
        Place::Open(file) => rustix::fs::flistxattr(file, names.as_mut_slice()),
    };
    let length = match listed {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let names = names[..length].split(|byte| *byte == 0);
    let mut extended = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let got = match place {
            Place::At(path) => rustix::fs::lgetxattr(*path, name, value.as_mut_slice()),
            Place::Open(file) => rustix::fs::fgetxattr(file, name, value.as_mut_slice()),
        };
        let length = match got {
            // Listed by a security module that does not say more.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => continue,
            length => length?,
        };
        value.truncate(length);
        extended.push((name.to_vec().into(), value.into()));
    }
    Ok(Attributes {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        accessed: (metadata.atime(), metadata.atime_nsec()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        extended,
    })
}

fn foreign(found: &ShmFound, kind: &str) -> Obstacle {
    Obstacle {
        pid: None,
        object: format!("{kind} /dev/shm/{}", found.path.display()),
        reason: format!("a {kind} in the capsule's /dev/shm cannot move yet"),
        remedy: "let the program remove it before the move".to_owned(),
        transient: false,
    }
}
