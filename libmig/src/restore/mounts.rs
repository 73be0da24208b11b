//! Mount namespaces that the job had made. First the *stage*, a namespace in which there is
//! nothing but what they will be made of: what is bound of the capsule, and file systems of
//! the job's own. A maker enters it, unshares in the owner's name, and has a copy, in which the
//! kernel has locked what came along with others, as it had for the job. Of that the daemon makes the tree.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags,
    },
};

use super::{
    error::{self, RestoreError},
    late_mounts::{Late, What},
    names::os,
    shm::{Files, Tree},
};
use crate::{
    api::Obstacle,
    image::{
        FileSystem, JobImage, Mount, MountSource, NamespaceId, NamespaceKind, Propagation,
        SharedKind, ShmNode, SystemKind,
    },
    inspect::{shm::Shm, visit},
    sys::mount::{self, ATIME},
};

/// Namespaces, and mounts in one, that an image may have.
const MOST: usize = 1 << 16;
const STEP: &str = "mount what the job had mounted";

/// What the mount namespaces are made of.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// The stage.
    stage: Option<File>,
    roots: BTreeMap<NamespaceId, OwnedFd>,
    /// With their numbers.
    trees: Vec<(usize, Tree)>,
    /// What can be mounted when the processes are there.
    pub(super) late: Vec<Late>,
}

/// Where names are looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roots<'a> {
    pub(super) home: BorrowedFd<'a>,
    pub(super) mounts: &'a BTreeMap<NamespaceId, OwnedFd>,
}

impl<'a> Roots<'a> {
    /// The root of a mount namespace; `None` stands for the capsule's.
    pub(super) fn of(self, space: Option<NamespaceId>) -> io::Result<BorrowedFd<'a>> {
        match space {
            None => Ok(self.home),
            Some(id) => {
                let root = self.mounts.get(&id).map(AsFd::as_fd);
                root.ok_or_else(|| io::Error::other("no such mount namespace"))
            }
        }
    }
}

/// The mount namespaces of an image.
fn namespaces(image: &JobImage) -> impl Iterator<Item = (NamespaceId, &[Mount])> {
    let all = (0..).zip(&image.namespaces);
    all.filter_map(|(id, namespace)| match &namespace.kind {
        NamespaceKind::Mount(mounts) => Some((id, mounts.as_slice())),
        _ => None,
    })
}

/// The name of a bound directory or file on the stage.
fn bound(id: NamespaceId, at: usize) -> String {
    format!("/{id}-{at}")
}

fn system_name(system: usize) -> String {
    format!("/s{system}")
}

/// Where the root of a namespace is put together.
const ROOT: &str = "/root";

impl Mounts {
    /// Roots of the namespaces by number.
    pub(super) fn roots(&self) -> &BTreeMap<NamespaceId, OwnedFd> {
        &self.roots
    }

    /// The stage, for makers.
    pub(super) fn stage(&self) -> Option<&File> {
        self.stage.as_ref()
    }

    /// Makes of `stage`, a copy of the capsule's mount namespace, the stage of an image.
    pub(super) fn make(
        stage: File,
        image: &JobImage,
        files: &mut Files,
    ) -> Result<Self, RestoreError> {
        let mut made = Vec::new();
        let mut trees = Vec::new();
        for (number, system) in image.systems.iter().enumerate().take(MOST) {
            let (mount, tree) = make_system(system, image, files)?;
            made.extend(mount.map(|mount| (system_name(number), mount)));
            trees.extend(tree.map(|tree| (number, tree)));
        }
        visit::within_mounts(&stage, |_| set(image, made)).map_err(error::host(STEP))?;
        Ok(Self {
            stage: Some(stage),
            trees,
            ..Self::default()
        })
    }

    /// Makes of a copy of the stage what the namespace was.
    pub(super) fn fill(
        &mut self,
        id: NamespaceId,
        namespace: &File,
        mounts: &[Mount],
        systems: &[FileSystem],
    ) -> Result<(), RestoreError> {
        for (at, one) in mounts.iter().enumerate() {
            let above = one.parent.map(|parent| parent as usize);
            if above.is_none() != (at == 0) || above.is_some_and(|above| above >= at) {
                return Err(odd("a mount namespace of the job is no tree").into());
            }
        }
        let work = |_: BorrowedFd<'_>| put_together(id, mounts, systems);
        let (root, late) = visit::within_mounts(namespace, work).map_err(error::host(STEP))?;
        self.roots.insert(id, root);
        self.late.extend(late);
        Ok(())
    }

    /// Has the files of the job's own tmpfs open by the names that the job knows, as it has them.
    pub(super) fn reopen(&self, image: &JobImage, files: &mut Files) {
        for system in &image.systems {
            let SystemKind::Tmpfs { space, entries, .. } = &system.kind else {
                continue;
            };
            let ids = entries.iter().filter_map(|entry| match entry.node {
                ShmNode::File(id) => Some(id),
                _ => None,
            });
            for id in ids {
                let object = image.shared.get(id as usize).map(|object| &object.kind);
                if let (Some(root), Some(SharedKind::File(file)), Some(made)) =
                    (self.roots.get(space), object, files.get_mut(&id))
                    // Hidden, or on a mount that nobody may write to: as it is.
                    && let Ok(found) = open_file(root, &file.path)
                    && same(&found, made).unwrap_or(false)
                {
                    *made = found;
                }
            }
        }
    }

    /// Owners, modes and times of what is in the file systems.
    pub(super) fn settle(&self, systems: &[FileSystem]) -> Result<(), RestoreError> {
        for (number, tree) in &self.trees {
            if let Some(SystemKind::Tmpfs { entries, .. }) =
                systems.get(*number).map(|one| &one.kind)
            {
                tree.settle_names(entries)?;
            }
        }
        Ok(())
    }
}

/// A file system, mounted nowhere yet, but for those that only processes of the job can make.
fn make_system(
    system: &FileSystem,
    image: &JobImage,
    files: &mut Files,
) -> Result<(Option<OwnedFd>, Option<Tree>), RestoreError> {
    let failed = || error::host::<io::Error>("make a file system of the job");
    match &system.kind {
        SystemKind::Proc(_) => Ok((None, None)),
        SystemKind::Devpts => Ok((
            Some(new("devpts", &system.options).map_err(failed())?),
            None,
        )),
        SystemKind::Tmpfs { base, entries, .. } => {
            let mount = new("tmpfs", &system.options).map_err(failed())?;
            let folder = folder(&mount, base).map_err(failed())?;
            let tree = Tree::of(Shm::at(folder).map_err(failed())?);
            tree.fill(entries, image, files)?;
            Ok((Some(mount), Some(tree)))
        }
    }
}

/// A new file system.
fn new(kind: &str, options: &[(String, String)]) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, name.as_str())?;
        } else {
            rustix::mount::fsconfig_set_string(&context, name.as_str(), value.as_str())?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(
        &context,
        flags,
        MountAttrFlags::empty(),
    )?)
}

/// The directory above all that is mounted of a new file system.
fn folder(mount: &OwnedFd, base: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::openat(mount, ".", flags, Mode::empty())?;
    for name in base
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
    {
        rustix::fs::mkdirat(&here, os(name), Mode::from_raw_mode(0o755))?;
        here = rustix::fs::openat(&here, os(name), flags, Mode::empty())?;
    }
    Ok(here)
}

/// On the stage: binds what the namespaces have of the capsule, and leaves nothing else.
fn set(image: &JobImage, mut made: Vec<(String, OwnedFd)>) -> io::Result<()> {
    for (id, mounts) in namespaces(image) {
        for (at, one) in mounts.iter().enumerate() {
            if let MountSource::Capsule {
                path, recursive, ..
            } = &one.source
            {
                let place = open_in(&open(Path::new("/"))?, path).map_err(naming(path))?;
                made.push((bound(id, at), clone(&place, b"", *recursive)?));
            }
        }
    }
    let scratch = new("tmpfs", &[("mode".to_owned(), "755".to_owned())])?;
    let proc = open(Path::new("/proc"))?;
    put(&scratch, &proc)?;
    rustix::process::fchdir(&scratch)?;
    // The rest goes.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    for (name, mount) in made {
        make_point(&name, &mount)?;
        put(&mount, &open(Path::new(&name))?)?;
    }
    for (id, mounts) in namespaces(image) {
        for (at, one) in mounts.iter().enumerate() {
            if let MountSource::Capsule { without, .. } = &one.source {
                leave_out(&bound(id, at), &one.point, without);
            }
        }
    }
    Ok(())
}

/// Mounts that the job did not have there. This node may not have them either.
fn leave_out(bound: &str, point: &[u8], without: &[serde_bytes::ByteBuf]) {
    for one in without {
        let Some(rest) = crate::inspect::mounts::below(one, point) else {
            continue;
        };
        let path = [bound.as_bytes(), rest].concat();
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = rustix::mount::unmount(path.as_slice(), flags) {
            tracing::debug!(path = %String::from_utf8_lossy(&path), %error, "not mounted here");
        }
    }
}

/// A directory for a directory, a file for anything else.
fn make_point(name: &str, mount: &OwnedFd) -> io::Result<()> {
    let mode = rustix::fs::fstat(mount)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode).is_dir() {
        Ok(rustix::fs::mkdir(name, Mode::RWXU)?)
    } else {
        File::create(name).map(drop)
    }
}

/// In a copy of the stage: the tree of a namespace, and its root.
fn put_together(
    id: NamespaceId,
    mounts: &[Mount],
    systems: &[FileSystem],
) -> io::Result<(OwnedFd, Vec<Late>)> {
    let mut late = Vec::new();
    let mut waits = vec![false; mounts.len()];
    let mut root = None;
    for (at, one) in mounts.iter().enumerate() {
        waits[at] = one.parent.is_some_and(|above| waits[above as usize]);
        let mount = match &one.source {
            MountSource::Along => None,
            MountSource::Capsule { .. } => {
                Some(clone(&open(Path::new(&bound(id, at)))?, b"", true)?)
            }
            MountSource::System { system, root } => {
                let number = *system as usize;
                let system = systems.get(number).ok_or(io::ErrorKind::InvalidData)?;
                if let SystemKind::Proc(space) = system.kind {
                    waits[at] = true;
                    late.push(Late {
                        namespace: id,
                        mount: one.clone(),
                        what: What::Proc(space, system.options.clone()),
                    });
                    continue;
                }
                let whole = open(Path::new(&system_name(number)))?;
                let part = open_in(&whole, root).map_err(naming(root))?;
                Some(clone(&part, b"", false)?)
            }
        };
        match (mount, &root) {
            (Some(mount), _) if waits[at] => late.push(Late {
                namespace: id,
                mount: one.clone(),
                what: What::Made(mount),
            }),
            (Some(mount), None) => {
                make_point(ROOT, &mount)?;
                change(&mount, one)?;
                put(&mount, &open(Path::new(ROOT))?)?;
                root = Some(open(Path::new(ROOT))?);
            }
            (Some(mount), Some(root)) => attach(&mount, root, one)?,
            (None, Some(root)) => amend(root, one),
            (None, None) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let root = root.ok_or(io::ErrorKind::InvalidData)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok((open(Path::new("/"))?, late))
}

/// A mount at its point below the root of its namespace.
pub(super) fn attach(mount: &OwnedFd, root: &OwnedFd, wanted: &Mount) -> io::Result<()> {
    change(mount, wanted)?;
    let point = open_in(root, &wanted.point).map_err(naming(&wanted.point))?;
    put(mount, &point).map_err(naming(&wanted.point))
}

/// What came along: if this node has it, it has the job's attributes.
fn amend(root: &OwnedFd, wanted: &Mount) {
    let changed = open_in(root, &wanted.point).and_then(|place| {
        // Without a mount of its own here, it is a part of the one that it is on.
        let is_root = mount::id_of(&place)? != mount::id_of(parent(root, &wanted.point)?)?;
        if is_root {
            change(&place, wanted)
        } else {
            Ok(())
        }
    });
    if let Err(error) = changed {
        let point = String::from_utf8_lossy(&wanted.point).into_owned();
        tracing::debug!(point, %error, "a mount that came along is left as it is");
    }
}

fn parent(root: &OwnedFd, point: &[u8]) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let above = Path::new(os(point)).parent().unwrap_or(Path::new("/"));
    open_in(root, above.as_os_str().as_bytes())
}

/// Attributes and propagation. What the node forbids stays forbidden.
fn change(mount: &OwnedFd, wanted: &Mount) -> io::Result<()> {
    let propagation = match wanted.propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
    };
    mount::change(mount, 0, 0, propagation.bits().into())?;
    mount::change(mount, wanted.attributes & !ATIME, 0, 0)?;
    // EPERM: the node's own is locked.
    if let Err(error) = mount::change(mount, wanted.attributes & ATIME, ATIME, 0) {
        tracing::debug!(%error, "times of access are noted as they are on this node");
    }
    Ok(())
}

pub(super) fn clone(place: &OwnedFd, path: &[u8], recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(rustix::mount::open_tree(place, path, flags)?)
}

fn put(mount: &OwnedFd, point: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", point, "", flags)?)
}

pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The path of a mount, which has no symbolic links in it.
fn open_in(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        root,
        os(path),
        flags,
        Mode::empty(),
        within,
    )?)
}

fn open_file(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let place = open_in(root, path)?;
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    File::options().read(true).write(true).open(link)
}

fn same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn naming(path: &[u8]) -> impl FnOnce(io::Error) -> io::Error + use<> {
    let path = String::from_utf8_lossy(path).into_owned();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn odd(reason: &str) -> Obstacle {
    Obstacle {
        pid: None,
        object: "mount namespace".into(),
        reason: reason.into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    }
}
