//! A frozen tree -> [`JobImage`].

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use rustix::process::{Pid as RustixPid, PidfdFlags, pidfd_open};

use super::{
    CaptureError, Frozen, SharedRegistry, adjustments,
    clock::JobClock,
    namespaces::{self, Nested},
    process::{self, Context},
    query, shm, system_v, thread,
};
use crate::{
    image::{
        CapsuleImage, Descriptor, FileLock, JobImage, OpenFile, Pid, Pipe, Process, ProcessKind,
        Tty,
    },
    inspect::{fd, own::OwnFiles, shm::Shm},
    sys::HostPid,
};

/// A live process, for whoever captures its descriptors.
#[derive(Debug, Clone, Copy)]
pub struct LiveSource<'a> {
    /// In the capsule.
    pub pid: Pid,
    /// For the daemon.
    pub host: HostPid,
    /// To fetch descriptors with (pidfd_getfd).
    pub pidfd: BorrowedFd<'a>,
}

/// Descriptors of a tree.
#[derive(Debug, Default)]
pub struct Tables {
    /// Open file descriptions.
    pub files: Vec<OpenFile>,
    /// Pipes.
    pub pipes: Vec<Pipe>,
    /// Terminals.
    pub ttys: Vec<Tty>,
    /// One table for each [`LiveSource`], in order.
    pub descriptors: Vec<Vec<Descriptor>>,
    /// Locks on files.
    pub locks: Vec<FileLock>,
}

/// A captured tree: the image, and the shared objects whose contents are to be sent.
#[derive(Debug)]
pub struct Captured {
    /// Everything but the contents of memory.
    pub image: JobImage,
    /// The objects of [`JobImage::shared`].
    pub shared: SharedRegistry,
}

impl Frozen {
    /// Captures the tree. `descriptors` is asked for the open files of all
    /// live processes; it may add shared objects.
    ///
    /// # Errors
    /// The tree stays frozen; dropping thaws it.
    pub fn capture<E>(
        &mut self,
        descriptors: impl FnOnce(&[LiveSource<'_>], &mut SharedRegistry) -> Result<Tables, E>,
    ) -> Result<Captured, CaptureError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut shared = SharedRegistry::with(self.own_files());
        let now_ns = u64::try_from(self.capsule()?.clocks.monotonic_ns).unwrap_or(0);
        let began = Instant::now();
        let root = fd::root(self.keeper).map_err(CaptureError::proc(self.keeper, "root"))?;
        let own = Shm::of(&root).map_err(CaptureError::proc(self.keeper, "/dev/shm"))?;
        let shm = shm::capture(self.keeper, own.as_ref(), &mut shared)?;
        let live = self.processes.iter().filter(|one| !one.threads.is_empty());
        let live: Vec<_> = live.map(|one| (one.pid, one.host)).collect();
        let mut system_v = system_v::capture(self.keeper, &live, &[], &mut shared)?;
        let sets = &system_v.semaphores;
        system_v.adjustments = adjustments::read(self.keeper, &mut self.processes, sets)?;
        let nested = namespaces::capture(self.keeper, &self.processes, root, &mut shared)?;
        let place = own.as_ref().map(Shm::device);
        let (mut processes, asked) = self.capture_processes(&mut shared, now_ns, place, &nested)?;
        let pidfds = self.pidfds()?;
        let sources: Vec<LiveSource<'_>> = pidfds
            .iter()
            .map(|(pid, host, pidfd)| LiveSource {
                pid: *pid,
                host: *host,
                pidfd: pidfd.as_fd(),
            })
            .collect();
        // timerfds do not stop with their tree: the clocks go with the moment at
        // which these are read.
        let capsule = self.capsule()?;
        let read = Instant::now();
        let mut tables = descriptors(&sources, &mut shared)
            .map_err(|error| CaptureError::Files(error.into()))?;
        self.settle_close_on_exec(&mut tables)?;
        let live = processes
            .iter_mut()
            .filter_map(|process| match &mut process.kind {
                ProcessKind::Live(live) => Some(live),
                ProcessKind::Zombie { .. } => None,
            });
        for ((live, asked), table) in live.zip(asked).zip(tables.descriptors) {
            live.descriptors = table;
            process::grow_older(live, read - asked, read - began);
        }
        let image = JobImage {
            capsule,
            processes,
            files: tables.files,
            pipes: tables.pipes,
            ttys: tables.ttys,
            shared: shared.objects().cloned().collect(),
            locks: tables.locks,
            shm,
            system_v,
            namespaces: nested.spaces,
            systems: nested.systems,
        };
        Ok(Captured { image, shared })
    }

    fn capture_processes(
        &mut self,
        shared: &mut SharedRegistry,
        now_ns: u64,
        shm: Option<u64>,
        nested: &Nested,
    ) -> Result<(Vec<Process>, Vec<Instant>), CaptureError> {
        let tids = self
            .processes
            .iter()
            .flat_map(|process| &process.threads)
            .map(|thread| (thread.stopped.thread(), thread.tid))
            .collect();
        let mut context = Context {
            shared,
            atlas: &nested.atlas,
            shm,
            node_cpus: thread::node_cpus(),
            now_ns,
            asked: Vec::new(),
            followed: self.followed.clone(),
            tids,
            nested,
        };
        let processes = self
            .processes
            .iter_mut()
            .map(|process| process::capture(process, &mut context))
            .collect::<Result<_, _>>()?;
        Ok((processes, context.asked))
    }

    /// /proc shows the flags of a description and of a descriptor as one. A terminal
    /// that TIOCGPTPEER opened with O_CLOEXEC has that for ever, so that only the
    /// process can tell which of its descriptors will be closed.
    fn settle_close_on_exec(&mut self, tables: &mut Tables) -> Result<(), CaptureError> {
        let files = &tables.files;
        let marked = |one: &Descriptor| {
            let file = usize::try_from(one.file).ok().and_then(|at| files.get(at));
            one.close_on_exec && file.is_some_and(|file| file.flags & libc::O_CLOEXEC != 0)
        };
        let leaders = self
            .processes
            .iter_mut()
            .filter_map(|process| process.threads.first_mut());
        for (leader, table) in leaders.zip(&mut tables.descriptors) {
            let doubtful: Vec<&mut Descriptor> =
                table.iter_mut().filter(|one| marked(one)).collect();
            if doubtful.is_empty() {
                continue;
            }
            let numbers: Vec<i32> = doubtful.iter().map(|one| one.number).collect();
            let answers = query::close_on_exec(&mut leader.stopped, &numbers)?;
            for (one, answer) in doubtful.into_iter().zip(answers) {
                one.close_on_exec = answer;
            }
        }
        for file in &mut tables.files {
            file.flags &= !libc::O_CLOEXEC;
        }
        Ok(())
    }

    /// A capsule's init is as old as the job's stay here.
    fn own_files(&self) -> OwnFiles {
        let adopted = self.keeper == HostPid::own();
        let eldest = self.processes.first().filter(|_| adopted);
        let eldest = eldest.map_or(self.keeper, |first| first.host);
        OwnFiles::of(eldest, self.processes.iter().map(|one| one.host))
    }

    pub(super) fn pidfds(&self) -> Result<Vec<(Pid, HostPid, OwnedFd)>, CaptureError> {
        self.processes
            .iter()
            .filter(|process| !process.threads.is_empty())
            .map(|process| {
                let host = process.host;
                let pid = RustixPid::from_raw(host.raw()).expect("a process has a positive ID");
                let pidfd = pidfd_open(pid, PidfdFlags::empty())
                    .map_err(|errno| CaptureError::proc(host, "pidfd")(errno.into()))?;
                Ok((process.pid, host, pidfd))
            })
            .collect()
    }

    /// Names and clocks, as the job's processes see them.
    fn capsule(&self) -> Result<CapsuleImage, CaptureError> {
        let witness = self
            .processes
            .iter()
            .find(|process| !process.threads.is_empty())
            .map_or(self.keeper, |process| process.host);
        let names = super::names::of(self.keeper);
        let (hostname, domainname) =
            names.map_err(CaptureError::proc(self.keeper, "the uts namespace"))?;
        Ok(CapsuleImage {
            hostname,
            domainname,
            clocks: JobClock::of(witness)
                .map_err(CaptureError::proc(witness, "timens_offsets"))?
                .clocks(),
        })
    }
}
