//! pid 1 of a capsule: one thread, one poll loop, nothing that blocks.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the state, and the loop |
//! | `children` | the main program and its orphans: started, stopped, ended |
//! | `face`, `talk` | `mig exec` and `mig attach`, and what they ask |
//! | `orders` | what the daemon asks |
//! | `flow` | bytes between terminal, pipes, user and the other init |
//! | `away` | departure and arrival |
//!
//! Invariant: it outlives the daemon and waits for no one. It ends when the job has
//! ended, the daemon has collected its status, `mig exec` has been told and no process is left.

mod away;
mod children;
mod face;
mod flow;
mod orders;
mod talk;

use std::{
    collections::VecDeque,
    fs::File,
    io::PipeReader,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
};

use anyhow::{Context, Result};
use libmig::api::{JobId, terminal::FromJob};
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    birth::{Order, Parts},
    console::Console,
    ctl::{PipeId, Place},
    pipes,
    program::{self, Program},
    relay::Link,
    ring::Ring,
};
use away::{Pending, Returning};
use children::Children;
use face::Face;
use flow::Pipes;
use orders::Ctl;

/// Connections that have not said hello; more are turned away.
const MAX_NEWCOMERS: usize = 16;
/// How long a capsule's birth waits for its program's exec.
const START_PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Connections of the daemon; more are turned away.
const MAX_CTLS: usize = 32;

/// The whole state.
#[derive(Debug)]
pub(crate) struct Init {
    job: JobId,
    folder: PathBuf,
    owner: u32,
    signals: SignalFd,
    ctl_listener: UnixListener,
    attach_listener: UnixListener,
    job_cgroup: File,
    ctls: Vec<Ctl>,
    newcomers: Vec<Face>,
    face: Option<Face>,
    /// pidfd of `mig exec` until it connects: if it ends before, it hangs up.
    caller: Option<OwnedFd>,
    children: Children,
    /// The main program on its way through execve.
    starting: Option<PipeReader>,
    /// What `mig exec` is told if execve failed.
    failure: Option<FromJob>,
    console: Option<Console>,
    /// The job has a terminal, here or elsewhere.
    has_terminal: bool,
    ring: Ring,
    /// Typed bytes that the terminal has not taken.
    typed: VecDeque<u8>,
    /// Descriptors 0, 1, 2 of `mig exec` that are pipes.
    pipe_ids: [Option<PipeId>; 3],
    place: Place,
    pipes: Pipes,
    returning: Returning,
    link: Link,
    carrier: Option<UnixStream>,
    /// A departure or arrival that is not yet decided: everything is held still.
    pending: Option<Pending>,
    /// Wait status of a job that ended elsewhere until its last bytes are out, or
    /// of one that ended while a move was undecided.
    ending: Option<i32>,
    collected: bool,
    /// The job has left this node for good.
    departed: bool,
    /// The job comes from a checkpoint: what the two inits had said to each other then is history.
    anew: bool,
    /// Whoever restores it may die before it connects: the job, which is nowhere else, lives on.
    patient: bool,
}

/// What a descriptor in the poll set is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    CtlListener,
    AttachListener,
    Ctl(usize),
    Newcomer(usize),
    Face,
    Caller,
    Starting,
    Carrier,
    /// Console and pipes: looked after in every round.
    Flow,
}

impl Init {
    /// Takes over the parts, and starts the program if there is one.
    pub(crate) fn new(order: Order, parts: Parts) -> Result<Init> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        parts.ctl.set_nonblocking(true)?;
        parts.attach.set_nonblocking(true)?;
        let guest = order.program.is_none();
        let mut init = Init {
            job: order.job,
            folder: order.folder,
            owner: order.owner,
            signals: SignalFd::with_flags(&mask, flags)?,
            ctl_listener: parts.ctl,
            attach_listener: parts.attach,
            job_cgroup: parts.job_cgroup,
            ctls: vec![],
            newcomers: vec![],
            face: None,
            caller: None,
            children: Children::default(),
            starting: None,
            failure: None,
            console: None,
            has_terminal: false,
            ring: Ring::default(),
            typed: VecDeque::new(),
            pipe_ids: [None; 3],
            place: if guest { Place::Guest } else { Place::Home },
            pipes: Pipes::default(),
            returning: Returning::default(),
            link: Link::default(),
            carrier: None,
            pending: None,
            ending: None,
            collected: false,
            departed: false,
            anew: false,
            patient: false,
        };
        if let (Some(program), Some(start)) = (order.program, parts.start) {
            init.pipe_ids = [0, 1, 2].map(|i| pipes::pipe_id(&start.stdio[i]));
            init.caller = (!order.detached).then_some(start.caller);
            init.start(&program, &start.stdio)?;
        }
        Ok(init)
    }

    fn start(&mut self, program: &Program, stdio: &[OwnedFd; 3]) -> Result<()> {
        if let Some(request) = &program.terminal {
            let console = Console::open(self.owner)?;
            console.set_modes(&request.termios)?;
            console.set_window(request.window)?;
            console
                .control()
                .context("the terminal cannot be made ours")?;
            self.console = Some(console);
            self.has_terminal = true;
        }
        let started = program::start(program, stdio, self.console.as_ref(), &self.job_cgroup)?;
        self.children.set_main(started.pid, started.pidfd);
        // As a rule it runs within a millisecond, and can be moved at once. An exec
        // that hangs (a dead file server) is waited for in the loop.
        let mut set = [PollFd::new(&started.failure, PollFlags::IN)];
        if poll(&mut set, Some(&START_PATIENCE)) == Ok(1) {
            self.starting = Some(started.failure);
            self.program_started();
        } else {
            self.starting = Some(started.failure);
        }
        Ok(())
    }

    /// Serves until the job is over.
    pub(crate) fn serve(&mut self) -> Result<()> {
        while !self.is_over() {
            for source in self.wait()? {
                self.handle(source);
            }
            self.flow();
            self.flush();
        }
        Ok(())
    }

    /// Waits until something can be done; what is ready, highest index first, so
    /// that removing one does not rename the next.
    fn wait(&self) -> Result<Vec<Source>> {
        let Watched { sources, mut fds } = self.watched();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(e) => return Err(e.into()),
        }
        let ready = sources.into_iter().zip(&fds).rev();
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(source, _)| source)
            .collect())
    }

    fn watched(&self) -> Watched<'_> {
        let mut set = Watched::default();
        let mut add = |source, fd, write| set.add(source, fd, write);
        add(Source::Signals, self.signals.as_fd(), false);
        add(Source::CtlListener, self.ctl_listener.as_fd(), false);
        add(Source::AttachListener, self.attach_listener.as_fd(), false);
        for (i, ctl) in self.ctls.iter().enumerate() {
            add(Source::Ctl(i), ctl.as_fd(), ctl.wants_write());
        }
        for (i, face) in self.newcomers.iter().enumerate() {
            add(Source::Newcomer(i), face.as_fd(), face.wants_write());
        }
        if let Some(face) = &self.face {
            add(Source::Face, face.as_fd(), face.wants_write());
        }
        if let Some(caller) = &self.caller {
            add(Source::Caller, caller.as_fd(), false);
        }
        if let Some(starting) = &self.starting {
            add(Source::Starting, starting.as_fd(), false);
        }
        if let Some(carrier) = self.carrier.as_ref().filter(|_| self.pending.is_none()) {
            add(Source::Carrier, carrier.as_fd(), self.link.has_output());
        }
        for (fd, flags) in self.flow_interests() {
            set.sources.push(Source::Flow);
            set.fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        set
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signals => self.reap(),
            Source::CtlListener => self.accept_ctl(),
            Source::AttachListener => self.accept_face(),
            Source::Ctl(i) => self.serve_ctl(i),
            Source::Newcomer(i) => self.meet(i),
            Source::Face => self.serve_face(),
            Source::Caller => self.caller_died(),
            Source::Starting => self.program_started(),
            Source::Carrier => self.read_carrier(),
            Source::Flow => (),
        }
    }

    /// Writes what can be written everywhere; connections that fail are gone.
    fn flush(&mut self) {
        self.ctls.retain_mut(|ctl| ctl.flush().is_ok());
        self.newcomers
            .retain_mut(|face| face.flush().is_ok() && (!face.closing || face.wants_write()));
        if self.face.as_mut().is_some_and(|face| face.flush().is_err()) {
            self.lose_face();
        }
        if self
            .face
            .as_ref()
            .is_some_and(|face| face.closing && !face.wants_write())
        {
            self.face = None;
        }
        self.write_carrier();
    }

    /// Whether nothing needs this init any more.
    fn is_over(&self) -> bool {
        let told = self.face.is_none() && self.caller.is_none();
        match self.place {
            Place::Guest => {
                let ended = self.children.status().is_some() && self.collected;
                (self.departed || (ended && self.link.is_settled())) && !self.children.any()
            }
            Place::Away => self.children.status().is_some() && self.collected && told,
            Place::Home => {
                self.children.status().is_some() && self.collected && told && !self.children.any()
            }
        }
    }
}

/// The poll set, and what each entry is.
#[derive(Default)]
struct Watched<'a> {
    sources: Vec<Source>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> Watched<'a> {
    fn add(&mut self, source: Source, fd: BorrowedFd<'a>, write: bool) {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, write);
        self.sources.push(source);
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
    }
}
