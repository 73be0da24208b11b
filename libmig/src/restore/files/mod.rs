//! Tables of the image -> descriptors of a tree.
//!
//! Every open file description is made in the daemon ([`open`]); each process
//! then fetches those that it has with pidfd_getfd in its own batch
//! ([`place()`]), and shares them with whoever else fetches them.

mod error;
mod fifo;
mod inet;
mod inotify;
mod object;
pub(super) mod pidfd;
mod pipe;
mod place;
mod queue;
mod socket;
mod terminal;
mod timer;
mod view;

pub use error::FilesError;
pub(super) use object::nameless;
pub use place::{Seat, place, take_terminal};

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{RestoreHost, clocks, mounts::Roots, names::StagedName};
use crate::image::{
    Clocks, EpollEntry, FileId, FileObject, JobImage, NamespaceId, OpenFile, Pid, ProcessKind,
    SharedId,
};

/// Every open file description of a tree, made and filled, in this process.
#[derive(Debug)]
pub struct Opened {
    /// By [`FileId`].
    files: Vec<OwnedFd>,
    /// Writable descriptions of unlinked files, by the first [`FileId`] of each.
    unlinked: HashMap<FileId, File>,
    /// Slaves of terminals that control a session.
    terminals: Vec<ControllingTerminal>,
    interests: Vec<Interest>,
    signals: Vec<SignalDriven>,
    signalfds: HashSet<FileId>,
    /// Names that sockets and files get when the job runs.
    pub(super) names: Vec<StagedName>,
}

/// The terminal of a session.
#[derive(Debug)]
pub struct ControllingTerminal {
    slave: OwnedFd,
    session: Pid,
    foreground: Pid,
    /// Who sets the foreground group: any member of the session.
    member: Option<Pid>,
}

impl ControllingTerminal {
    /// For a session that is being made.
    #[must_use]
    pub fn of(slave: OwnedFd, session: Pid) -> Self {
        Self {
            slave,
            session,
            foreground: 0,
            member: None,
        }
    }
}

/// An epoll entry, and the process that is to add it.
#[derive(Debug)]
struct Interest {
    pid: Pid,
    epoll: FileId,
    entry: EpollEntry,
    /// An EPOLLONESHOT entry that has been reported waits for nothing, not even
    /// for what epoll_ctl(2) adds to every entry. Only the kernel itself makes it
    /// so: by reporting it.
    fired: bool,
}

/// A description that raises SIGIO, and the process that is to say so: si_fd
/// is the number by which it was asked for.
#[derive(Debug)]
struct SignalDriven {
    pid: Pid,
    file: FileId,
    description: OpenFile,
}

/// Makes every open file description of the image. `root` is the capsule's
/// root directory; `shared` gives the memfds.
///
/// Timers run from now on: see [`Opened::set_timers`].
///
/// # Errors
/// [`FilesError::Refused`] names a file that is not here or is another one;
/// nothing is left open.
pub fn open(
    image: &JobImage,
    root: BorrowedFd<'_>,
    host: &mut dyn RestoreHost,
    shared: &dyn Fn(SharedId) -> Option<OwnedFd>,
) -> Result<Opened, FilesError> {
    static NONE: BTreeMap<NamespaceId, OwnedFd> = BTreeMap::new();
    let roots = Roots {
        home: root,
        mounts: &NONE,
    };
    open_in(image, roots, host, shared)
}

/// The same, where the job has mount namespaces of its own.
pub(super) fn open_in(
    image: &JobImage,
    roots: Roots<'_>,
    host: &mut dyn RestoreHost,
    shared: &dyn Fn(SharedId) -> Option<OwnedFd>,
) -> Result<Opened, FilesError> {
    let terminals = terminal::Terminals::open(image, roots.home, host)?;
    let mut objects = object::Objects::new(image, roots, host, shared, &terminals)?;
    let mut files = Vec::with_capacity(image.files.len());
    for (file, description) in (0..).zip(&image.files) {
        let opened = objects.open(file, description, &files)?;
        files.push(opened);
    }
    let unlinked = objects.into_unlinked();
    inet::connect(image, &mut files)?;
    Ok(Opened {
        files,
        unlinked,
        terminals: terminals.finish()?,
        interests: interests(image),
        signals: signals(image),
        signalfds: (0..)
            .zip(&image.files)
            .filter(|(_, file)| matches!(file.object, FileObject::Signal { .. }))
            .map(|(id, _)| id)
            .collect(),
        names: Vec::new(),
    })
}

impl Opened {
    /// Terminals that control sessions.
    #[must_use]
    pub fn terminals(&self) -> &[ControllingTerminal] {
        &self.terminals
    }

    /// The description with this ID, in this process.
    #[must_use]
    pub fn file(&self, file: FileId) -> Option<BorrowedFd<'_>> {
        self.files.get(file as usize).map(AsFd::as_fd)
    }

    /// Whether something could be read from it or written to it now, whoever
    /// asks (what a signalfd has depends on that).
    fn is_ready(&self, file: FileId) -> bool {
        let Some(file) = self.file(file).filter(|_| !self.signalfds.contains(&file)) else {
            return false;
        };
        let mut poll = [PollFd::from_borrowed_fd(
            file,
            PollFlags::IN | PollFlags::OUT,
        )];
        let now = Timespec::default();
        let asked = rustix::event::poll(&mut poll, Some(&now));
        let ready = poll[0].revents().intersects(PollFlags::IN | PollFlags::OUT);
        asked.is_ok() && ready
    }

    /// Writes contents of an unlinked file.
    ///
    /// # Errors
    /// For a file that is not one, and what the file system says.
    pub fn write_unlinked(&self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let target = self.unlinked.get(&file).ok_or(io::ErrorKind::NotFound)?;
        target.write_all_at(bytes, offset)
    }

    /// Sets every timerfd to the time at which it would have expired. `now` are
    /// the job's clocks as they will be when it runs again; without this call
    /// timers expire later by the time since [`open`].
    ///
    /// # Errors
    /// What timerfd_settime(2) says.
    pub fn set_timers(&self, image: &JobImage, now: &Clocks) -> io::Result<()> {
        for (opened, description) in self.files.iter().zip(&image.files) {
            if let FileObject::Timer(state) = description.object {
                let passed = clocks::passed(state.clock, &image.capsule.clocks, now);
                timer::set(opened, &state, passed)?;
            }
        }
        Ok(())
    }
}

/// Every process with its table, by capsule ID.
fn tables(image: &JobImage) -> impl Iterator<Item = (Pid, &[crate::image::Descriptor])> {
    image.processes.iter().filter_map(|process| {
        let ProcessKind::Live(live) = &process.kind else {
            return None;
        };
        Some((process.pid, live.descriptors.as_slice()))
    })
}

fn interests(image: &JobImage) -> Vec<Interest> {
    /// What epoll_ctl(2) adds to every entry.
    const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP).cast_unsigned();
    let mut interests = Vec::new();
    for (epoll, description) in (0..).zip(&image.files) {
        let FileObject::Epoll(entries) = &description.object else {
            continue;
        };
        let holders: Vec<_> = tables(image)
            .filter(|(_, own)| own.iter().any(|descriptor| descriptor.file == epoll))
            .collect();
        for entry in entries {
            let fits = |own: &[crate::image::Descriptor]| {
                own.iter()
                    .any(|one| one.number == entry.number && one.file == entry.file)
            };
            let adder = holders.iter().find(|(_, own)| fits(own));
            if let Some((pid, _)) = adder.or_else(|| holders.first()) {
                interests.push(Interest {
                    pid: *pid,
                    epoll,
                    entry: *entry,
                    fired: entry.events & ALWAYS == 0,
                });
            }
        }
    }
    interests
}

fn signals(image: &JobImage) -> Vec<SignalDriven> {
    let driven = |file: &OpenFile| file.owner.is_some() || file.flags & libc::O_ASYNC != 0;
    (0..)
        .zip(&image.files)
        .filter(|(_, description)| driven(description))
        .filter_map(|(file, description)| {
            let (pid, _) = tables(image)
                .find(|(_, own)| own.iter().any(|descriptor| descriptor.file == file))?;
            Some(SignalDriven {
                pid,
                file,
                description: description.clone(),
            })
        })
        .collect()
}
