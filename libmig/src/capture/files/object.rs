//! What each open file description is open on.

use std::{collections::BTreeMap, fs::File, os::fd::AsRawFd, path::Path};

use super::{
    CapsuleStdio, FileSource, FileTables, FilesError, Hold, SharedRegistry, UnlinkedContents,
    epoll, owner, pipe,
    socket::Sockets,
    table::{Found, Table},
    terminal::Terminals,
};
use crate::{
    capture::ring::{self, RingError},
    image::{
        FileId, FileObject, FilePath, InotifyWatch, OpenFile, PidFile, Pipe, PipeId, SharedId,
        TextPlace, TimerFile, UnlinkedFile,
    },
    inspect::{
        fd::{Kind, Seen},
        inotify, mqueue,
        pidfd::{self, Target},
        refusal, text_place,
    },
    sys::{self, descriptor, tty},
};

const PID_FS_MAGIC: i64 = 0x5049_4446;
/// __O_TMPFILE, which says how the file was made and not how it is open.
const O_TMPFILE: i32 = 0o20_000_000;

/// The objects behind the descriptions, as they are found.
pub(super) struct Objects<'a> {
    processes: &'a [FileSource<'a>],
    table: &'a Table,
    shared: &'a mut SharedRegistry,
    terminals: Terminals<'a>,
    sockets: Sockets<'a>,
    pipes: Vec<Pipe>,
    pipe_ids: BTreeMap<(u64, u64), PipeId>,
    unlinked: UnlinkedContents,
    unlinked_ids: BTreeMap<(u64, u64), FileId>,
    /// First pidfds of those who have been waited for.
    ended: BTreeMap<(u64, u64), FileId>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(
        processes: &'a [FileSource<'a>],
        stdio: &'a CapsuleStdio,
        table: &'a Table,
        shared: &'a mut SharedRegistry,
    ) -> Self {
        Self {
            processes,
            table,
            shared,
            terminals: Terminals::new(processes, stdio, table),
            sockets: Sockets::new(processes, table),
            pipes: Vec::new(),
            pipe_ids: BTreeMap::new(),
            unlinked: UnlinkedContents::default(),
            unlinked_ids: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    pub(super) fn capture(mut self, hold: &mut dyn Hold) -> Result<FileTables, FilesError> {
        self.sockets.look(hold)?;
        let mut files = Vec::with_capacity(self.table.files.len());
        for (found, file) in self.table.files.iter().zip(0..) {
            let object = self.object(file, found)?;
            // Only a name can be opened with O_NOFOLLOW, and it says nothing of what was found.
            let nameless = matches!(object, FileObject::Shared(_) | FileObject::Unlinked(_));
            let unseen = if nameless { libc::O_NOFOLLOW } else { 0 };
            files.push(OpenFile {
                flags: flags(found)? & !unseen,
                position: found.seen.info.position,
                owner: owner::capture(self.processes, found)?,
                object,
            });
        }
        Ok(FileTables {
            files,
            pipes: self.pipes,
            ttys: self.terminals.capture()?,
            descriptors: self.table.descriptors.clone(),
            locks: self.table.locks.found.clone(),
            unlinked: self.unlinked,
        })
    }

    fn object(&mut self, file: FileId, found: &Found) -> Result<FileObject, FilesError> {
        let info = &found.seen.info;
        let stat = &found.seen.stat;
        // The same object as a mapping, or as another name in /dev/shm.
        let place = found.seen.opaque() && found.kind == Kind::Named;
        if !place
            && matches!(found.kind, Kind::Named | Kind::Unlinked)
            && let Some(object) = self.shared.known(stat.st_dev, stat.st_ino)
        {
            return Ok(FileObject::Shared(object));
        }
        if found.kind == Kind::Named
            && let Some(atlas) = &self.table.atlas
        {
            let link = format!("/proc/self/fd/{}", found.copy.as_raw_fd());
            let place = atlas.place_of(&found.copy);
            let own = self.shared.named(place, Path::new(&link), &found.seen.link);
            if let Some(object) = own.map_err(found.host("the file"))? {
                return Ok(FileObject::Shared(object));
            }
        }
        Ok(match found.kind {
            Kind::Named => FileObject::Path(path(&found.seen)),
            Kind::Proc(_) => FileObject::Proc {
                file: path(&found.seen),
                place: text_place(found),
            },
            Kind::Unlinked => self.unlinked(file, found)?,
            Kind::Memfd => {
                let interned = self.shared.intern(&found.copy, &found.seen.link);
                FileObject::Shared(interned.map_err(|source| FilesError::Shared {
                    pid: found.pid,
                    number: found.seen.number,
                    source,
                })?)
            }
            Kind::Ring => FileObject::Shared(self.ring(found)?),
            Kind::Device => {
                let (major, minor) = found.seen.device();
                FileObject::Device {
                    path: path(&found.seen),
                    major,
                    minor,
                }
            }
            Kind::Pipe | Kind::Fifo => FileObject::Pipe(self.pipe(found)?),
            Kind::Stdio(stream) => FileObject::Stdio(stream),
            Kind::TtyMaster(index) => FileObject::TtyMaster(self.terminals.id(index)),
            Kind::TtySlave(index) => FileObject::TtySlave(self.terminals.slave(index, found)?),
            Kind::ControllingTty => {
                let device = tty::device(&found.copy).map_err(found.host("the terminal"))?;
                FileObject::ControllingTty(self.terminals.slave(device.1, found)?)
            }
            Kind::Event => {
                let (count, semaphore) = info.event.unwrap_or_default();
                FileObject::Event { count, semaphore }
            }
            Kind::Timer => FileObject::Timer(self.timer(found)?),
            Kind::Signal => FileObject::Signal {
                mask: info.signal_mask.unwrap_or_default(),
            },
            Kind::Socket => match self.sockets.network.capture(found) {
                Some(socket) => FileObject::Inet(Box::new(socket?)),
                None => FileObject::Unix(Box::new(self.sockets.capture(found)?)),
            },
            Kind::Queue => FileObject::Queue(self.queue(found)?),
            Kind::Pid => FileObject::Pid(self.pid(file, found)?),
            Kind::Inotify => FileObject::Inotify(self.watches(found)?),
            Kind::Epoll => {
                FileObject::Epoll(epoll::interest(self.processes, self.table, file, found)?)
            }
        })
    }

    fn ring(&mut self, found: &Found) -> Result<SharedId, FilesError> {
        let info = found.seen.info.ring.clone().unwrap_or_default();
        ring::intern(self.shared, &found.copy, &info).map_err(|error| match error {
            RingError::Refused(refusal) => found.refused(&refusal),
            RingError::Host(source) => found.host("the ring")(source),
        })
    }

    fn queue(&self, found: &Found) -> Result<Vec<u8>, FilesError> {
        let identity = (found.seen.stat.st_dev, found.seen.stat.st_ino);
        let first = self.processes.first().expect("somebody has it open").host;
        let name = mqueue::name_of(first, identity).map_err(found.host("the message queue"))?;
        name.ok_or_else(|| found.refused(&refusal::foreign_queue(&found.seen.name())))
    }

    fn pid(&mut self, file: FileId, found: &Found) -> Result<PidFile, FilesError> {
        match pidfd::target(&found.seen.info, self.processes) {
            Target::Process(pid) | Target::Thread(pid) => Ok(PidFile::Task(pid)),
            Target::Outside => Err(found.refused(&refusal::foreign_pidfd())),
            Target::Ended => {
                let place = rustix::fs::fstatfs(&found.copy).map_err(found.host("a pidfd"))?;
                let key = (found.seen.stat.st_dev, found.seen.stat.st_ino);
                // Before Linux 6.9 all of them have one inode.
                let first = match place.f_type == PID_FS_MAGIC {
                    true => *self.ended.entry(key).or_insert(file),
                    false => file,
                };
                let status = sys::pidfd::wait_status(&found.copy);
                Ok(PidFile::Ended { first, status })
            }
        }
    }

    fn watches(&self, found: &Found) -> Result<Vec<InotifyWatch>, FilesError> {
        let waiting = rustix::io::ioctl_fionread(&found.copy);
        if waiting.map_err(found.host("the events"))? != 0 {
            return Err(found.refused(&refusal::unread_events()));
        }
        let host = self.processes[found.process].host;
        let lines = &found.seen.info.inotify;
        let place = self.table.atlas.as_ref();
        let place = place.map(|atlas| atlas.place(Path::new(&format!("/proc/{host}/root"))));
        let files = place.map(|place| inotify::locate(lines, host, place));
        let watches = lines
            .iter()
            .zip(files.unwrap_or_default())
            .map(|(line, file)| {
                let file = file.ok_or_else(|| found.refused(&refusal::unnamed_watch(line.wd)))?;
                Ok(InotifyWatch {
                    wd: line.wd,
                    mask: line.mask,
                    file,
                })
            });
        let mut watches = watches.collect::<Result<Vec<_>, FilesError>>()?;
        watches.sort_by_key(|watch| watch.wd);
        Ok(watches)
    }

    fn pipe(&mut self, found: &Found) -> Result<PipeId, FilesError> {
        let key = (found.seen.stat.st_dev, found.seen.stat.st_ino);
        if let Some(known) = self.pipe_ids.get(&key) {
            return Ok(*known);
        }
        let pipe = pipe::capture(self.table, found)?;
        let id = PipeId::try_from(self.pipes.len()).expect("fewer pipes than descriptors");
        self.pipes.push(pipe);
        self.pipe_ids.insert(key, id);
        Ok(id)
    }

    fn unlinked(&mut self, file: FileId, found: &Found) -> Result<FileObject, FilesError> {
        let stat = &found.seen.stat;
        let key = (stat.st_dev, stat.st_ino);
        let same_as = self.unlinked_ids.get(&key).copied();
        if same_as.is_none() {
            self.unlinked_ids.insert(key, file);
            self.unlinked.add(file, found)?;
        }
        Ok(FileObject::Unlinked(UnlinkedFile {
            path: found.seen.path_before_unlink().to_vec(),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            same_as,
        }))
    }

    /// A periodic timer that has expired stands still until somebody reads it
    /// or asks for the time left; only then does the kernel count what was missed.
    fn timer(&self, found: &Found) -> Result<TimerFile, FilesError> {
        let timer = found.seen.info.timer;
        let timer = timer.expect("a descriptor is a timer only if fdinfo says so");
        if timer.ticks == 0 || timer.interval_ns == 0 || timer.remaining_ns != 0 {
            return Ok(timer);
        }
        descriptor::settle_timerfd(&found.copy).map_err(found.host("the timer"))?;
        let host = self.processes[found.process].host;
        let again = Seen::look(host, found.seen.number);
        let again = again.map_err(|source| FilesError::See {
            pid: found.pid,
            source,
        })?;
        Ok(again.info.timer.unwrap_or(timer))
    }
}

/// Read anew by a description of our own: the job's must not notice. A text that cannot be
/// read any more (its process has ended) has bytes only.
fn text_place(found: &Found) -> Option<TextPlace> {
    let position = u64::try_from(found.seen.info.position).ok()?;
    let regular = found.seen.stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    if position == 0 || !regular || found.seen.opaque() {
        return None;
    }
    let text = File::open(format!("/proc/self/fd/{}", found.copy.as_raw_fd())).ok()?;
    text_place::find(&text_place::read(text).ok()?, position)
}

/// F_GETFL, without what only says how the file was made.
fn flags(found: &Found) -> Result<i32, FilesError> {
    let flags = descriptor::status_flags(&found.copy).map_err(found.host("the flags"))?;
    Ok(if flags & O_TMPFILE != 0 {
        flags & !(O_TMPFILE | libc::O_DIRECTORY)
    } else {
        flags
    })
}

/// The name, and what the other node compares.
pub(super) fn path(seen: &Seen) -> FilePath {
    let regular = seen.stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    FilePath {
        space: seen.space,
        path: seen.link.clone(),
        mode: seen.stat.st_mode,
        size: if regular {
            u64::try_from(seen.stat.st_size).unwrap_or(0)
        } else {
            0
        },
    }
}
