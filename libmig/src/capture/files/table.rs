//! Which descriptors there are, and which of them are one open file description.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use super::{CapsuleStdio, FileSource, FilesError, locks::Locks};
use crate::{
    image::{Descriptor, FileId, Pid},
    inspect::{
        atlas::Atlas,
        fd::{self, Kind, Seen},
        files::{self, moves},
        refusal,
    },
    sys::descriptor,
};

/// An open file description, and one descriptor of it.
pub(super) struct Found {
    /// Index of the process that it was found in.
    pub(super) process: usize,
    /// That process, in its capsule.
    pub(super) pid: Pid,
    /// What it looks like from there.
    pub(super) seen: Seen,
    /// A duplicate: shares offset and flags with the program.
    pub(super) copy: OwnedFd,
    /// What it is open on.
    pub(super) kind: Kind,
}

impl Found {
    /// Names this descriptor in an error of the kernel.
    pub(super) fn host<E: Into<std::io::Error>>(
        &self,
        part: &'static str,
    ) -> impl FnOnce(E) -> FilesError {
        let (pid, number) = (self.pid, self.seen.number);
        move |source| FilesError::Host {
            pid,
            number,
            part,
            source: source.into(),
        }
    }

    /// Access mode, O_RDONLY and so on.
    pub(super) fn access(&self) -> i32 {
        self.seen.info.flags & libc::O_ACCMODE
    }

    pub(super) fn refused(&self, refusal: &refusal::Refusal) -> FilesError {
        FilesError::refused(self.pid, self.seen.number, refusal)
    }
}

/// All descriptors of a tree.
pub(super) struct Table {
    /// Open file descriptions; a [`FileId`] is an index.
    pub(super) files: Vec<Found>,
    /// The descriptor table of each process.
    pub(super) descriptors: Vec<Vec<Descriptor>>,
    pub(super) locks: Locks,
    /// Where names are looked up; `None` when there is no process.
    pub(super) atlas: Option<Arc<Atlas>>,
}

/// Only descriptors that agree in this can be one description.
type Likeness = (u64, u64, i64, i32);

impl Table {
    pub(super) fn read(
        processes: &[FileSource<'_>],
        stdio: &CapsuleStdio,
        atlas: Option<Arc<Atlas>>,
    ) -> Result<Self, FilesError> {
        let root = processes.first().map(|first| {
            let pid = first.pid;
            files::root(processes, stdio).map_err(|source| FilesError::List { pid, source })
        });
        let root = root.transpose()?;
        let devpts = root.as_ref().and_then(fd::devpts);
        let atlas = atlas.or_else(|| root.map(|root| Arc::new(Atlas::new(root))));
        let mut table = Self {
            files: Vec::new(),
            descriptors: Vec::with_capacity(processes.len()),
            locks: Locks::default(),
            atlas,
        };
        let mut alike: HashMap<Likeness, Vec<FileId>> = HashMap::new();
        for (process, source) in processes.iter().enumerate() {
            let pid = source.pid;
            let numbers =
                fd::numbers(source.host).map_err(|source| FilesError::List { pid, source })?;
            let mut own = Vec::with_capacity(numbers.len());
            for number in numbers {
                let seen = Seen::look(source.host, number)
                    .map_err(|source| FilesError::See { pid, source })?;
                let close_on_exec = seen.info.close_on_exec();
                let lines = seen.info.locks.clone();
                let file = table.intern(processes, process, seen, (stdio, devpts), &mut alike)?;
                table.locks.note(pid, number, file, &lines);
                own.push(Descriptor {
                    number,
                    close_on_exec,
                    file,
                });
            }
            table.descriptors.push(own);
        }
        Ok(table)
    }

    fn intern(
        &mut self,
        processes: &[FileSource<'_>],
        process: usize,
        mut seen: Seen,
        (stdio, devpts): (&CapsuleStdio, Option<u64>),
        alike: &mut HashMap<Likeness, Vec<FileId>>,
    ) -> Result<FileId, FilesError> {
        let number = seen.number;
        let source = &processes[process];
        let pid = source.pid;
        let fail = |part| {
            move |source: std::io::Error| FilesError::Host {
                pid,
                number,
                part,
                source,
            }
        };
        let copy = source.duplicate(number).map_err(fail("a duplicate"))?;
        let flags = seen.info.flags & !libc::O_CLOEXEC;
        let likeness = (
            seen.stat.st_dev,
            seen.stat.st_ino,
            seen.info.position,
            flags,
        );
        let candidates = alike.entry(likeness).or_default();
        for candidate in candidates.iter() {
            let other = &self.files[index(*candidate)];
            // All anonymous inodes are one inode: what they say tells more.
            let comparable = other.seen.info.event == seen.info.event
                && other.seen.info.epoll == seen.info.epoll
                && other.seen.info.inotify == seen.info.inotify;
            if comparable
                && descriptor::same_description(other.copy.as_fd(), copy.as_fd())
                    .map_err(fail("the identity"))?
            {
                return Ok(*candidate);
            }
        }
        let kind = seen
            .kind(stdio, devpts)
            .map_err(|refusal| FilesError::refused(pid, number, &refusal))?;
        if let (Kind::Proc(about), Some(atlas)) = (kind, &self.atlas)
            && (atlas.place_of(&copy).space.is_some()
                || files::is_view(processes, &seen, about, atlas))
        {
            let refusal = refusal::view(&seen.name());
            return Err(FilesError::refused(pid, number, &refusal));
        }
        if let Kind::Proc(about) = kind
            && !(moves(processes, about) && self.leads_here(&seen))
        {
            let refusal = refusal::foreign_process(&seen.name());
            return Err(FilesError::refused(pid, number, &refusal));
        }
        let named = match kind {
            Kind::Named => true,
            Kind::Fifo => !seen.deleted(),
            _ => false,
        };
        if let Some(atlas) = self.atlas.as_ref().filter(|_| seen.link.starts_with(b"/")) {
            let place = atlas.place_of(&copy);
            seen.space = place.space;
            if named {
                let found = seen.find_name(place.root);
                found.map_err(|refusal| FilesError::refused(pid, number, &refusal))?;
            }
        }
        let file = FileId::try_from(self.files.len()).expect("fewer than 2^32 descriptors");
        candidates.push(file);
        self.files.push(Found {
            process,
            pid,
            seen,
            copy,
            kind,
        });
        Ok(file)
    }

    /// The capsule's root.
    pub(super) fn root(&self) -> Option<&OwnedFd> {
        self.atlas.as_ref().map(|atlas| atlas.home())
    }

    /// By its name in the capsule, also for a process with another root
    /// directory: names in /proc are relative to the reader's root.
    fn leads_here(&self, seen: &Seen) -> bool {
        self.root().is_some_and(|root| seen.leads_here(root))
    }
}

/// A table index from an ID.
pub(super) fn index(id: u32) -> usize {
    id as usize
}
