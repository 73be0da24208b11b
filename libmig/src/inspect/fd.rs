//! What a descriptor is, judged from outside by its `/proc` entries alone, and
//! whether it can travel. Anything that is not known by name is a refusal.
//!
//! Used by the preflight of a running process and, with the same judgement, by
//! the capture of a stopped one.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::{
    fdinfo::{FdInfo, FdInfoError},
    lock::HeldLock,
    proc_file::{self, About},
    refusal::{self, Refusal},
    stdio::CapsuleStdio,
};
use crate::{
    image::{NamespaceId, Stdio},
    sys::HostPid,
};

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const MQUEUE_MAGIC: i64 = 0x1980_0202;
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// File systems whose files mean something else on another node.
const FOREIGN_FILE_SYSTEMS: &[(i64, &str)] = &[
    (PROC_SUPER_MAGIC, "proc"),
    (0x6e73_6673, "nsfs"),
    (0x5049_4446, "pidfs"),
    (0x5345_434d, "secretmem"),
    (MQUEUE_MAGIC, "mqueue"),
    (0xcafe_4a11, "bpf"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x6270_6673, "cgroup"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
];
/// Links that say all of a file: a tree of processes has thousands of pipes.
const NO_FILE_SYSTEM: &[&[u8]] = &[b"pipe:[", b"socket:[", b"anon_inode:"];
/// Character devices that mean the same on every node: null zero full random urandom.
const COMMON_DEVICES: &[(u32, u32)] = &[(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];
const CONTROLLING_TTY: (u32, u32) = (5, 0);
const PTMX: (u32, u32) = (5, 2);
const PTY_SLAVE_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// A descriptor as its `/proc` entries show it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number.
    pub number: i32,
    /// What `/proc/PID/fd/N` points to.
    pub link: Vec<u8>,
    /// fstat(2).
    pub stat: Stat,
    /// statfs(2) f_type; none for what the link says all of.
    pub file_system: Option<i64>,
    /// `/proc/PID/fdinfo/N`.
    pub info: FdInfo,
    /// The mount namespace that the link is one of; the capsule's unless somebody has looked.
    pub space: Option<NamespaceId>,
}

/// A kind of file that can travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By name: regular file, directory, or anything opened with O_PATH.
    Named,
    /// A text or a directory of /proc.
    Proc(About),
    /// A regular file that has no name any more.
    Unlinked,
    /// memfd_create(2).
    Memfd,
    /// A device that is the same everywhere.
    Device,
    /// pipe(2).
    Pipe,
    /// A FIFO, whose name may be gone.
    Fifo,
    /// A standard stream towards home.
    Stdio(Stdio),
    /// Master of the pty with this index.
    TtyMaster(u32),
    /// Slave of the pty with this index.
    TtySlave(u32),
    /// A terminal that was opened as /dev/tty.
    ControllingTty,
    /// eventfd(2).
    Event,
    /// timerfd_create(2).
    Timer,
    /// signalfd(2).
    Signal,
    /// epoll_create(2).
    Epoll,
    /// io_uring_setup(2) without requests under way.
    Ring,
    /// inotify_init(2), its watches judged further in [`super::inotify`].
    Inotify,
    /// pidfd_open(2), whom it names judged further in [`super::pidfd`].
    Pid,
    /// mq_open(3), whose name is judged further in [`super::mqueue`].
    Queue,
    /// A socket, judged further in [`super::unix_socket`].
    Socket,
}

/// Why a descriptor could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SeeError {
    /// A `/proc` entry or the file behind it.
    #[error("cannot look at fd {number} of process {host}")]
    Look {
        /// The process.
        host: HostPid,
        /// The descriptor.
        number: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Its fdinfo is not understood.
    #[error("fd {number} of process {host}")]
    Info {
        /// The process.
        host: HostPid,
        /// The descriptor.
        number: i32,
        /// The line.
        #[source]
        source: FdInfoError,
    },
}

impl Seen {
    /// Looks at descriptor `number` of a process, without touching it.
    ///
    /// # Errors
    /// The process or the descriptor is gone, or fdinfo is not understood.
    pub fn look(host: HostPid, number: i32) -> Result<Self, SeeError> {
        let fail = |source| SeeError::Look {
            host,
            number,
            source,
        };
        let path = format!("/proc/{host}/fd/{number}");
        let link = fs::read_link(&path).map_err(fail)?;
        let text = super::text::piece(format!("/proc/{host}/fdinfo/{number}")).map_err(fail)?;
        let text = String::from_utf8_lossy(&text);
        let info = FdInfo::parse(&text).map_err(|source| SeeError::Info {
            host,
            number,
            source,
        })?;
        let link = link.as_os_str().as_bytes().to_vec();
        let file_system = if NO_FILE_SYSTEM.iter().any(|kind| link.starts_with(kind)) {
            None
        } else {
            let found = rustix::fs::statfs(&path).map_err(|e| fail(e.into()))?;
            Some(found.f_type)
        };
        Ok(Self {
            number,
            link,
            stat: rustix::fs::stat(&path).map_err(|e| fail(e.into()))?,
            file_system,
            info,
            space: None,
        })
    }

    /// What it is open on.
    ///
    /// # Errors
    /// Why it cannot travel.
    pub fn kind(&self, stdio: &CapsuleStdio, devpts: Option<u64>) -> Result<Kind, Refusal> {
        let kind = self.kind_but_for_locks(stdio, devpts)?;
        let carried = matches!(
            kind,
            Kind::Named | Kind::Unlinked | Kind::Memfd | Kind::Device
        );
        let mut locks = self.info.locks.iter();
        if locks.all(|line| carried && HeldLock::parse(line).is_some()) {
            Ok(kind)
        } else {
            Err(refusal::locked(&self.info.locks))
        }
    }

    fn kind_but_for_locks(
        &self,
        stdio: &CapsuleStdio,
        devpts: Option<u64>,
    ) -> Result<Kind, Refusal> {
        if let Some(stream) = stdio.stream(self.stat.st_dev, self.stat.st_ino) {
            return Ok(Kind::Stdio(stream));
        }
        if self.link.starts_with(b"anon_inode:") {
            return self.anonymous_kind();
        }
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::Socket if self.opaque() => Err(refusal::unknown(&self.name())),
            FileType::Socket => Ok(Kind::Socket),
            _ if self.opaque() => self.named_kind(),
            FileType::Fifo if self.link.starts_with(b"pipe:[") => Ok(Kind::Pipe),
            FileType::Fifo => Ok(Kind::Fifo),
            FileType::CharacterDevice => self.device_kind(devpts),
            FileType::BlockDevice => Err(refusal::device(&self.name())),
            _ => self.named_kind(),
        }
    }

    /// The name for people.
    #[must_use]
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.link).into_owned()
    }

    /// The last known path of a file whose name is gone.
    #[must_use]
    pub fn path_before_unlink(&self) -> &[u8] {
        self.link.strip_suffix(DELETED).unwrap_or(&self.link)
    }

    /// O_PATH: nothing but a place in the tree.
    #[must_use]
    pub fn opaque(&self) -> bool {
        self.info.flags & libc::O_PATH != 0
    }

    /// Major and minor number of a device.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        let device = self.stat.st_rdev;
        (rustix::fs::major(device), rustix::fs::minor(device))
    }

    /// Whether the name still leads to this file, below `root`.
    #[must_use]
    pub fn leads_here(&self, root: &OwnedFd) -> bool {
        leads_to(root, &self.link, (self.stat.st_dev, self.stat.st_ino))
    }

    /// Takes the name of another link in the same directory, where the one that it was opened by
    /// is gone.
    ///
    /// # Errors
    /// Why no name below `root` leads to it.
    pub fn find_name(&mut self, root: &OwnedFd) -> Result<(), Refusal> {
        if self.leads_here(root) {
            return Ok(());
        }
        if !self.link.ends_with(DELETED) && place(root, &self.link).is_err() {
            return Err(refusal::outside(&self.name()));
        }
        let identity = (self.stat.st_dev, self.stat.st_ino);
        let found = sibling(root, self.path_before_unlink(), identity);
        self.link = found.ok_or_else(|| refusal::misnamed(&self.name()))?;
        Ok(())
    }

    /// Whether no name leads to it any more.
    #[must_use]
    pub fn deleted(&self) -> bool {
        self.stat.st_nlink == 0
    }

    fn anonymous_kind(&self) -> Result<Kind, Refusal> {
        let name = self.link.strip_prefix(b"anon_inode:").unwrap_or_default();
        match name {
            b"[eventfd]" if self.info.event.is_some() => Ok(Kind::Event),
            b"[timerfd]" if self.info.timer.is_some() => Ok(Kind::Timer),
            b"[signalfd]" if self.info.signal_mask.is_some() => Ok(Kind::Signal),
            b"[eventpoll]" => Ok(Kind::Epoll),
            b"[pidfd]" if self.info.pid.is_some() => Ok(Kind::Pid),
            b"inotify" | b"[inotify]" => Ok(Kind::Inotify),
            b"[io_uring]" => match self.info.ring.clone().unwrap_or_default().refusal() {
                Some(refusal) => Err(refusal),
                None => Ok(Kind::Ring),
            },
            other => Err(refusal::anonymous(other)),
        }
    }

    fn device_kind(&self, devpts: Option<u64>) -> Result<Kind, Refusal> {
        let numbers = self.device();
        if numbers == PTMX {
            // Of a devpts that is not the capsule's.
            let elsewhere = self.file_system == Some(DEVPTS_SUPER_MAGIC)
                && devpts.is_some_and(|devpts| devpts != self.stat.st_dev);
            if elsewhere {
                return Err(refusal::foreign_terminal(&self.name()));
            }
            let index = self.info.tty_index;
            return index
                .map(Kind::TtyMaster)
                .ok_or_else(|| refusal::device(&self.name()));
        }
        if PTY_SLAVE_MAJORS.contains(&numbers.0) {
            let ours = devpts.is_none_or(|devpts| devpts == self.stat.st_dev);
            return if ours {
                Ok(Kind::TtySlave(numbers.1))
            } else {
                Err(refusal::foreign_terminal(&self.name()))
            };
        }
        if numbers == CONTROLLING_TTY {
            return Ok(Kind::ControllingTty);
        }
        if COMMON_DEVICES.contains(&numbers) {
            return Ok(Kind::Device);
        }
        Err(refusal::device(&self.name()))
    }

    fn named_kind(&self) -> Result<Kind, Refusal> {
        if self.deleted() && self.link.starts_with(b"/memfd:") {
            return Ok(Kind::Memfd);
        }
        if self.file_system == Some(PROC_SUPER_MAGIC)
            && let Some(about) = proc_file::about(&self.link, self.info.flags)
        {
            return Ok(Kind::Proc(about));
        }
        let regular = FileType::from_raw_mode(self.stat.st_mode) == FileType::RegularFile;
        if self.file_system == Some(MQUEUE_MAGIC) && regular && !self.opaque() {
            return Ok(Kind::Queue);
        }
        let foreign = FOREIGN_FILE_SYSTEMS
            .iter()
            .find(|(magic, _)| Some(*magic) == self.file_system);
        if let Some((_, name)) = foreign {
            return Err(refusal::foreign_file_system(name, &self.name()));
        }
        if !self.link.starts_with(b"/") {
            return Err(refusal::unknown(&self.name()));
        }
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::RegularFile if self.deleted() => Ok(Kind::Unlinked),
            FileType::Directory if self.deleted() => Err(refusal::deleted("directory")),
            _ => Ok(Kind::Named),
        }
    }
}

/// The numbers of a process' open descriptors, rising.
///
/// # Errors
/// The process is gone.
pub fn numbers(host: HostPid) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(format!("/proc/{host}/fd"))? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The root directory of a process, to look names up from.
///
/// # Errors
/// The process is gone or may not be looked at.
pub fn root(host: HostPid) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        format!("/proc/{host}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Whether a path below `root` is the file with this device and inode.
#[must_use]
pub fn leads_to(root: &OwnedFd, path: &[u8], identity: (u64, u64)) -> bool {
    place(root, path)
        .and_then(|found| Ok(rustix::fs::fstat(found)?))
        .is_ok_and(|found| (found.st_dev, found.st_ino) == identity)
}

/// What a path below `root` is, opened with O_PATH; a symbolic link itself.
///
/// # Errors
/// Nothing is there.
pub fn place(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        root,
        Path::new(std::ffi::OsStr::from_bytes(path)),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Another name in the directory of `path` that leads to the file with this identity.
fn sibling(root: &OwnedFd, path: &[u8], identity: (u64, u64)) -> Option<Vec<u8>> {
    /// Names that are looked at.
    const MOST: usize = 10_000;
    let folder = Path::new(std::ffi::OsStr::from_bytes(path)).parent()?;
    let open = rustix::fs::openat2(
        root,
        folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let entries =
        fs::read_dir(format!("/proc/self/fd/{}", open.as_ref().ok()?.as_raw_fd())).ok()?;
    let names = entries
        .take(MOST)
        .filter_map(|entry| Some(folder.join(entry.ok()?.file_name())));
    let mut paths = names.map(|name| name.as_os_str().as_bytes().to_vec());
    paths.find(|path| leads_to(root, path, identity))
}

/// st_dev of the devpts that a process sees at /dev/pts, if it sees one.
#[must_use]
pub fn devpts(root: &OwnedFd) -> Option<u64> {
    let place = rustix::fs::openat2(
        root,
        "dev/pts",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )
    .ok()?;
    let right = rustix::fs::fstatfs(&place).ok()?.f_type == DEVPTS_SUPER_MAGIC;
    right.then(|| rustix::fs::fstat(&place).ok().map(|stat| stat.st_dev))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_root_is_told_from_one_that_has_lost_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("root");
        fs::create_dir(&inside).unwrap();
        let root = OwnedFd::from(fs::File::open(&inside).unwrap());
        let (path, other) = (folder.path().join("stderr"), folder.path().join("other"));
        let file = fs::File::create(&path).unwrap();
        let look = || Seen::look(HostPid::own(), file.as_raw_fd()).unwrap();
        let reason = |root| look().find_name(root).unwrap_err().reason;
        assert!(reason(&root).contains("not below the root directory"));
        let whole = self::root(HostPid::own()).unwrap();
        assert_eq!(look().find_name(&whole), Ok(()));
        fs::hard_link(&path, &other).unwrap();
        fs::remove_file(&path).unwrap();
        let mut seen = look();
        assert_eq!(seen.find_name(&whole), Ok(()));
        assert_eq!(seen.link, other.as_os_str().as_bytes());
        fs::rename(&other, inside.join("other")).unwrap();
        assert!(reason(&whole).contains("other links"));
    }
}
