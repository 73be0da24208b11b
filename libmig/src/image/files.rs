//! Descriptors, open file descriptions, and the objects behind them.

use serde::{Deserialize, Serialize};

use super::{InetSocket, NamespaceId, Pid, SharedId, UnixSocket};

/// Index into [`super::JobImage::files`].
pub type FileId = u32;
/// Index into [`super::JobImage::pipes`].
pub type PipeId = u32;
/// Index into [`super::JobImage::ttys`].
pub type TtyId = u32;

/// An entry of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The number.
    pub number: i32,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
    /// The open file description; the same ID in two tables means that they share it.
    pub file: FileId,
}

/// An open file description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Status flags and access mode as F_GETFL gives them, in a whole image without
    /// O_CLOEXEC.
    pub flags: i32,
    /// File offset; 0 where there is none.
    pub position: i64,
    /// F_GETSIG and F_GETOWN_EX, if the program asked for SIGIO.
    pub owner: Option<AsyncOwner>,
    /// What it is open on.
    pub object: FileObject,
}

/// Who gets SIGIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsyncOwner {
    /// F_OWNER_TID, F_OWNER_PID or F_OWNER_PGRP.
    pub kind: i32,
    /// The ID, in the capsule.
    pub id: i32,
    /// F_GETSIG.
    pub signal: i32,
}

/// What an open file description is open on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileObject {
    /// A file, directory or FIFO with a name that the destination sees too.
    Path(FilePath),
    /// A text or a directory of the capsule's /proc, open for reading.
    Proc {
        /// Its name.
        file: FilePath,
        /// Where its reader is, if it is a text of which something has been read.
        place: Option<TextPlace>,
    },
    /// A regular file without a name (unlinked or O_TMPFILE); contents travel.
    Unlinked(UnlinkedFile),
    /// A character device that is the same everywhere: null zero full random urandom tty.
    Device {
        /// Path at the source.
        path: FilePath,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// One end (or both, O_RDWR) of a pipe or FIFO.
    Pipe(PipeId),
    /// A pipe end that `mig exec` was started with: the other end stays at home.
    Stdio(Stdio),
    /// The terminal of the job, or a pty that the job opened.
    TtyMaster(TtyId),
    /// The program's side of a pty.
    TtySlave(TtyId),
    /// eventfd(2).
    Event {
        /// Current count.
        count: u64,
        /// EFD_SEMAPHORE.
        semaphore: bool,
    },
    /// timerfd_create(2).
    Timer(TimerFile),
    /// signalfd(2).
    Signal {
        /// Mask, bit n-1 for signal n.
        mask: u64,
    },
    /// epoll_create(2); interest list.
    Epoll(Vec<EpollEntry>),
    /// memfd_create(2) or a shared memory object opened by name.
    Shared(SharedId),
    /// The slave of a pty, opened as /dev/tty.
    ControllingTty(TtyId),
    /// A socket of AF_UNIX.
    Unix(Box<UnixSocket>),
    /// inotify_init(2); its watches by rising number.
    Inotify(Vec<InotifyWatch>),
    /// A TCP or UDP socket.
    Inet(Box<InetSocket>),
    /// pidfd_open(2); O_EXCL among its flags is PIDFD_THREAD.
    Pid(PidFile),
    /// mq_open(3): the name of the queue, without a slash.
    Queue(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// Whom a pidfd names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidFile {
    /// A process, zombies included, the capsule's init, or a thread.
    Task(Pid),
    /// Somebody who has been waited for.
    Ended {
        /// The first description that names the same one.
        first: FileId,
        /// The wait status that the kernel keeps (Linux 6.15).
        status: Option<i32>,
    },
}

/// A watch of inotify(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyWatch {
    /// Its number.
    pub wd: i32,
    /// IN_* bits.
    pub mask: u32,
    /// What it is on; of no size.
    pub file: FilePath,
}

/// Which of the job's three standard streams a pipe end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stdio {
    /// Descriptor 0 of `mig exec`.
    In,
    /// Descriptor 1.
    Out,
    /// Descriptor 2.
    Err,
}

/// A file by name, and enough to notice that the other node has another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePath {
    /// The mount namespace that the path is one of; `None` for the capsule's.
    pub space: Option<NamespaceId>,
    /// Absolute path in the job's root, or in that of the namespace.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// st_mode: type and permissions.
    pub mode: u32,
    /// st_size in bytes; 0 for anything but regular files.
    pub size: u64,
}

/// A place in a text that differs a little between nodes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPlace {
    /// Lines before it.
    pub line: u64,
    /// Bytes before it in its line.
    pub column: u64,
}

/// A regular file whose name is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlinkedFile {
    /// Last known path, to restore it on a like file system (without " (deleted)").
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Several descriptions of one file share this number (index of the first).
    pub same_as: Option<FileId>,
}

/// timerfd state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFile {
    /// CLOCK_*.
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// TFD_TIMER_* flags of the last settime.
    pub settime_flags: i32,
    /// Nanoseconds to the next expiry; 0 when disarmed.
    pub remaining_ns: u64,
    /// Reload value in nanoseconds.
    pub interval_ns: u64,
}

/// One entry of an epoll interest list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpollEntry {
    /// Descriptor number at the time of EPOLL_CTL_ADD.
    pub number: i32,
    /// The description that it meant then.
    pub file: FileId,
    /// EPOLL* bits.
    pub events: u32,
    /// User data.
    pub data: u64,
}

/// A pipe or FIFO and its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// The name, for a FIFO.
    pub fifo: Option<Fifo>,
    /// F_GETPIPE_SZ in bytes.
    pub capacity: u32,
    /// Bytes written and not yet read; one entry per packet when `packets`.
    pub contents: Vec<serde_bytes::ByteBuf>,
    /// O_DIRECT packet mode.
    pub packets: bool,
    /// Owner, group and mode of a pipe without a name: whoever opens
    /// `/dev/stdin` again is judged by them.
    pub owner: (u32, u32, u32),
}

/// What a FIFO has beyond a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// Its name, or the last that it had.
    pub file: FilePath,
    /// It has no name any more.
    pub unlinked: bool,
    /// The source's /proc/sys/kernel/random/boot_id. A node that runs on the
    /// same kernel and finds the same inode finds the very same pipe in it.
    pub boot: String,
    /// st_dev at the source.
    pub device: u64,
    /// st_ino.
    pub inode: u64,
}

/// A pseudo-terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    /// Index in the capsule's devpts: /dev/pts/INDEX.
    pub index: u32,
    /// The job's own terminal: the capsule's init holds its master.
    pub console: bool,
    /// struct termios2, as bytes.
    #[serde(with = "serde_bytes")]
    pub termios: Vec<u8>,
    /// Rows, columns, x and y pixels.
    pub window: [u16; 4],
    /// Session whose controlling terminal it is; 0 for none.
    pub session: i32,
    /// Foreground process group; 0 for none.
    pub foreground: i32,
    /// TIOCGPTLCK.
    pub locked: bool,
    /// TIOCGPKT.
    pub packet_mode: bool,
    /// TIOCGEXCL.
    pub exclusive: bool,
    /// Owner, group and mode of the slave node.
    pub owner: (u32, u32, u32),
    /// Typed, but not yet read by the program: complete lines first.
    pub input: Vec<TtyInput>,
    /// Written by the program, but not yet read from the master.
    #[serde(with = "serde_bytes")]
    pub output: Vec<u8>,
    /// Whether any slave is open anywhere in the tree.
    pub slave_open: bool,
    /// Whether the master reads EIO because every slave has been closed.
    pub hung_up: bool,
}

/// A piece of a terminal's input queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TtyInput {
    /// A complete line (canonical mode), or raw bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// An end-of-file mark (^D).
    Eof,
}
