//! One open file description after the other.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    event::EventfdFlags,
    fs::{Gid, Mode, OFlags, ResolveFlags, SeekFrom, Uid},
};

use super::{FilesError, inet, pipe::Pipes, socket, terminal::Terminals, timer};
use crate::{
    image::{
        FileId, FileObject, FilePath, JobImage, OpenFile, SharedId, SharedKind, Stdio, UnlinkedFile,
    },
    inspect::manifest,
    restore::{RestoreHost, mounts::Roots},
    sys::descriptor,
};

/// Flags that say how a file is open. O_CREAT, O_EXCL and O_TRUNC said once
/// how it was opened, and O_ASYNC is set by the process that it signals.
const KEPT: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECT
    | libc::O_NOATIME
    | libc::O_SYNC
    | libc::O_PATH
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW;
/// Flags that F_SETFL changes.
const SETTABLE: i32 = libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME;

/// The flags to open a file with again: no terminal becomes ours, no process
/// that we start inherits it.
pub(super) fn flags(flags: i32) -> OFlags {
    let kept = (flags & KEPT) | libc::O_NOCTTY | libc::O_CLOEXEC;
    OFlags::from_bits_retain(kept.cast_unsigned())
}

/// A new description of the file behind `fd`.
pub(super) fn reopen(fd: &impl AsRawFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(link, flags - OFlags::NOFOLLOW, Mode::empty())
}

/// A place in the tree below `root`, checked before it is opened.
pub(super) fn find(root: BorrowedFd<'_>, file: &FilePath) -> Result<OwnedFd, FilesError> {
    let name = || String::from_utf8_lossy(&file.path);
    let found = manifest::place(root, file).map_err(|error| {
        if manifest::is_absent(&error) {
            FilesError::differs(&file.path, manifest::ABSENT)
        } else {
            FilesError::make(name())(error)
        }
    })?;
    let stat = rustix::fs::fstat(&found).map_err(FilesError::make(name()))?;
    match manifest::difference(&stat, file, true) {
        Some(reason) => Err(FilesError::differs(&file.path, reason)),
        None => Ok(found),
    }
}

/// Opens what is there under a name.
pub(super) fn by_name(
    root: BorrowedFd<'_>,
    path: &FilePath,
    how: OFlags,
) -> Result<OwnedFd, FilesError> {
    let found = find(root, path)?;
    if how.contains(OFlags::PATH) {
        return Ok(found);
    }
    let what = || String::from_utf8_lossy(&path.path);
    if !how.contains(OFlags::NOFOLLOW) {
        return reopen(&found, how).map_err(FilesError::make(what()));
    }
    // F_GETFL tells of O_NOFOLLOW, and the link to what was found is one.
    let opened = rustix::fs::openat2(
        root,
        Path::new(std::ffi::OsStr::from_bytes(&path.path)),
        how,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let opened = opened.map_err(FilesError::make(what()))?;
    let inode = |file: &OwnedFd| {
        let stat = rustix::fs::fstat(file).map_err(FilesError::make(what()))?;
        Ok::<_, FilesError>((stat.st_dev, stat.st_ino))
    };
    if inode(&opened)? == inode(&found)? {
        Ok(opened)
    } else {
        Err(FilesError::differs(&path.path, "it has just been replaced"))
    }
}

/// What stands for every file of `/proc`, and every pidfd, until that can be opened.
fn proc_root() -> FilePath {
    FilePath {
        space: None,
        path: b"/proc".to_vec(),
        mode: libc::S_IFDIR,
        size: 0,
    }
}

/// What is needed to open descriptions.
pub(super) struct Objects<'a> {
    roots: Roots<'a>,
    host: &'a mut dyn RestoreHost,
    shared: &'a dyn Fn(SharedId) -> Option<OwnedFd>,
    terminals: &'a Terminals,
    pipes: Pipes,
    streams: HashMap<Stdio, FileId>,
    unlinked: HashMap<FileId, File>,
    /// Those of the shared objects that are no files, and cannot be opened again.
    rings: HashSet<SharedId>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(
        image: &JobImage,
        roots: Roots<'a>,
        host: &'a mut dyn RestoreHost,
        shared: &'a dyn Fn(SharedId) -> Option<OwnedFd>,
        terminals: &'a Terminals,
    ) -> Result<Self, FilesError> {
        let shared_objects = (0..).zip(&image.shared);
        let rings = shared_objects.filter(|(_, one)| matches!(one.kind, SharedKind::Ring(_)));
        Ok(Self {
            roots,
            host,
            shared,
            terminals,
            pipes: Pipes::make(image, roots)?,
            streams: HashMap::new(),
            unlinked: HashMap::new(),
            rings: rings.map(|(id, _)| id).collect(),
        })
    }

    pub(super) fn into_unlinked(self) -> HashMap<FileId, File> {
        self.unlinked
    }

    /// Opens the description `file`; `earlier` are those before it.
    pub(super) fn open(
        &mut self,
        file: FileId,
        description: &OpenFile,
        earlier: &[OwnedFd],
    ) -> Result<OwnedFd, FilesError> {
        let how = flags(description.flags);
        let opened = match &description.object {
            FileObject::Path(path) => self.path(path, how)?,
            // Its process is not there yet: see `Opened::open_views`, `Opened::open_processes`;
            // queues are of another namespace: see `Opened::open_queues`.
            FileObject::Proc { .. } | FileObject::Pid(_) | FileObject::Queue(_) => self.path(&proc_root(), OFlags::PATH | OFlags::CLOEXEC)?,
            FileObject::Device { path, major, minor } => {
                self.device(path, (*major, *minor), how)?
            }
            FileObject::Unlinked(unlinked) => self.unlinked(file, unlinked, how)?,
            FileObject::Pipe(pipe) => self.pipes.end(*pipe, description)?,
            FileObject::Stdio(stream) => self.stream(file, *stream, how, earlier)?,
            FileObject::TtyMaster(tty) => self.terminals.master(*tty)?,
            FileObject::TtySlave(tty) | FileObject::ControllingTty(tty) => {
                self.terminals.slave(*tty, self.roots.home, how)?
            }
            FileObject::Shared(object) => {
                let memory = (self.shared)(*object);
                let memory = memory.ok_or(FilesError::Malformed("such shared object"))?;
                if self.rings.contains(object) {
                    memory
                } else {
                    reopen(&memory, how).map_err(FilesError::make("a shared memory object"))?
                }
            }
            FileObject::Event { .. }
            | FileObject::Timer(_)
            | FileObject::Signal { .. }
            | FileObject::Epoll(_)
            // Its watches come last: see `Opened::watch`.
            | FileObject::Inotify(_) => counter(&description.object)?,
            // Its peer is not there yet: see `Opened::connect`.
            FileObject::Unix(state) => socket::alone(state)?,
            // Connected when all are there.
            FileObject::Inet(state) => inet::alone(state)?,
        };
        if !matches!(
            description.object,
            FileObject::Proc { .. } | FileObject::Pid(_) | FileObject::Queue(_)
        ) {
            finish(&opened, description)?;
        }
        Ok(opened)
    }

    fn path(&self, path: &FilePath, how: OFlags) -> Result<OwnedFd, FilesError> {
        by_name(self.root(path)?, path, how)
    }

    fn root(&self, file: &FilePath) -> Result<BorrowedFd<'a>, FilesError> {
        let root = self.roots.of(file.space);
        root.map_err(FilesError::make(String::from_utf8_lossy(&file.path)))
    }

    fn device(
        &self,
        path: &FilePath,
        numbers: (u32, u32),
        how: OFlags,
    ) -> Result<OwnedFd, FilesError> {
        let found = find(self.root(path)?, path)?;
        let what = String::from_utf8_lossy(&path.path);
        let device = rustix::fs::fstat(&found)
            .map_err(FilesError::make(what.clone()))?
            .st_rdev;
        if (rustix::fs::major(device), rustix::fs::minor(device)) != numbers {
            return Err(FilesError::differs(&path.path, "it is another device here"));
        }
        reopen(&found, how).map_err(FilesError::make(what))
    }

    /// Both ends of a program's standard stream are made by the capsule's init;
    /// a second description of the same stream is opened from the first.
    fn stream(
        &mut self,
        file: FileId,
        stream: Stdio,
        how: OFlags,
        earlier: &[OwnedFd],
    ) -> Result<OwnedFd, FilesError> {
        let what = format!("the standard stream {stream:?}");
        if let Some(first) = self.streams.get(&stream) {
            return reopen(&earlier[*first as usize], how).map_err(FilesError::make(what));
        }
        self.streams.insert(stream, file);
        self.host.stdio(stream).map_err(FilesError::make(what))
    }

    fn unlinked(
        &mut self,
        file: FileId,
        unlinked: &UnlinkedFile,
        how: OFlags,
    ) -> Result<OwnedFd, FilesError> {
        let first = unlinked.same_as.unwrap_or(file);
        if first == file {
            let nameless = self.nameless(unlinked)?;
            self.unlinked.insert(file, nameless);
        }
        let base = self
            .unlinked
            .get(&first)
            .ok_or(FilesError::Malformed("such unlinked file"))?;
        reopen(base, how).map_err(FilesError::make("an unlinked file"))
    }

    /// A file without a name in the same directory, or else in /tmp.
    fn nameless(&self, unlinked: &UnlinkedFile) -> Result<File, FilesError> {
        let path = Path::new(std::ffi::OsStr::from_bytes(&unlinked.path));
        let directory = path.parent().unwrap_or(Path::new("/"));
        let what = || format!("the unlinked file {}", path.display());
        let made = nameless(self.roots.home, directory).map_err(FilesError::make(what()))?;
        let owner = (Uid::from_raw(unlinked.uid), Gid::from_raw(unlinked.gid));
        rustix::fs::fchown(&made, Some(owner.0), Some(owner.1))
            .and_then(|()| rustix::fs::fchmod(&made, Mode::from_raw_mode(unlinked.mode & 0o7777)))
            .and_then(|()| rustix::fs::ftruncate(&made, unlinked.size))
            .map_err(FilesError::make(what()))?;
        Ok(made)
    }
}

/// A file that never has a name, on the file system of `directory`, or else of /tmp.
pub(in crate::restore) fn nameless(
    root: BorrowedFd<'_>,
    directory: &Path,
) -> rustix::io::Result<File> {
    let make = |directory: &Path| {
        rustix::fs::openat2(
            root,
            directory,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let made = make(directory).or_else(|_| make(Path::new("/tmp")))?;
    Ok(made.into())
}

/// The kinds that are nothing but a counter, a clock or a list.
fn counter(object: &FileObject) -> Result<OwnedFd, FilesError> {
    match object {
        FileObject::Event { count, semaphore } => event(*count, *semaphore),
        FileObject::Timer(state) => {
            let made = descriptor::timerfd(state.clock).map_err(FilesError::make("a timer"))?;
            timer::set(&made, state, 0).map_err(FilesError::make("a timer"))?;
            Ok(made)
        }
        FileObject::Signal { mask } => {
            descriptor::signalfd(*mask).map_err(FilesError::make("a signalfd"))
        }
        FileObject::Inotify(_) => {
            rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC)
                .map_err(FilesError::make("an inotify descriptor"))
        }
        _ => rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)
            .map_err(FilesError::make("an epoll")),
    }
}

fn event(count: u64, semaphore: bool) -> Result<OwnedFd, FilesError> {
    let mut flags = EventfdFlags::CLOEXEC;
    flags.set(EventfdFlags::SEMAPHORE, semaphore);
    let made = rustix::event::eventfd(0, flags).map_err(FilesError::make("an eventfd"))?;
    // The highest value is one that only the kernel can reach.
    let count = count.min(u64::MAX - 1);
    if count > 0 {
        let mut writer = File::from(made);
        writer
            .write_all(&count.to_ne_bytes())
            .map_err(FilesError::make("an eventfd"))?;
        return Ok(writer.into());
    }
    Ok(made)
}

/// Offset and changeable flags.
pub(super) fn finish(opened: &OwnedFd, description: &OpenFile) -> Result<(), FilesError> {
    if description.flags & libc::O_PATH != 0 {
        return Ok(());
    }
    let seekable = matches!(
        description.object,
        FileObject::Path(_) | FileObject::Unlinked(_) | FileObject::Shared(_)
    );
    if seekable && description.position != 0 {
        let position = u64::try_from(description.position)
            .map_err(|_| FilesError::Malformed("negative offsets"))?;
        rustix::fs::seek(opened, SeekFrom::Start(position))
            .map_err(FilesError::make("the offset of a file"))?;
    }
    let now = descriptor::status_flags(opened).map_err(FilesError::make("the flags of a file"))?;
    let wanted = (now & !SETTABLE) | (description.flags & SETTABLE);
    if now != wanted {
        descriptor::set_status_flags(opened, wanted)
            .map_err(FilesError::make("the flags of a file"))?;
    }
    Ok(())
}
