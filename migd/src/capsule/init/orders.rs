//! What the daemon asks on the ctl socket.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use anyhow::{Context, Result, bail, ensure};
use libmig::{
    restore::husk,
    sys::clone::{self, CloneOptions, Forked},
};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::{Init, MAX_CTLS, Place};
use crate::capsule::{
    ctl::{Adopt, Event, Info, Reply, Request},
    fdstream::FdStream,
    relay::Control,
};

/// A connection of the daemon.
#[derive(Debug)]
pub(super) struct Ctl {
    stream: FdStream,
    subscribed: bool,
}

impl Ctl {
    pub(super) fn wants_write(&self) -> bool {
        self.stream.wants_write()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl AsFd for Ctl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Init {
    pub(super) fn accept_ctl(&mut self) {
        while let Ok((socket, _)) = self.ctl_listener.accept() {
            if self.ctls.len() < MAX_CTLS
                && is_root(&socket)
                && socket.set_nonblocking(true).is_ok()
            {
                self.ctls.push(Ctl {
                    stream: FdStream::new(socket),
                    subscribed: false,
                });
            }
        }
    }

    pub(super) fn serve_ctl(&mut self, index: usize) {
        if let Err(e) = self.try_serve_ctl(index) {
            if e.kind() != io::ErrorKind::UnexpectedEof {
                eprintln!("capsule: ctl: {e}");
            }
            self.ctls.remove(index);
        }
    }

    fn try_serve_ctl(&mut self, index: usize) -> io::Result<()> {
        match self.ctls[index].stream.fill() {
            Ok(true) => (),
            Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
        while let Some((request, fds)) = self.ctls[index].stream.take::<Request>()? {
            let subscribes = request == Request::Subscribe;
            let (reply, fds) = match self.execute(request, fds) {
                Ok(answer) => answer,
                Err(e) => (Reply::Failed(format!("{e:#}")), vec![]),
            };
            self.ctls[index].stream.queue(&reply, fds);
            if subscribes {
                self.subscribe(index);
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        request: Request,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let done = (Reply::Done, vec![]);
        Ok(match request {
            Request::Info => self.info()?,
            Request::Signal(number) => {
                ensure!((1..=64).contains(&number), "{number} is no signal");
                self.command(Control::Signal(number));
                done
            }
            Request::Subscribe => done,
            Request::Zygote { pid } => {
                let daemon = fds.pop().context("the daemon's pidfd is missing")?;
                self.zygote(pid, &daemon)?
            }
            Request::Stdio(which) => (Reply::Done, vec![self.stdio(which)?]),
            Request::Console {
                index,
                window,
                termios,
            } => (Reply::Done, self.make_console(index, window, &termios)?),
            Request::ConsoleMaster => {
                let console = self
                    .console
                    .as_ref()
                    .context("the job has no terminal here")?;
                (Reply::Done, vec![console.master()?])
            }
            Request::Main { pid } => {
                self.appoint(pid)?;
                done
            }
            Request::DepartPrepare { originals } => {
                (Reply::Blob(self.depart_prepare(originals, fds)?), vec![])
            }
            Request::DepartAbort => self.depart_abort().map(|()| done)?,
            Request::DepartCommit { epoch } => self.depart_commit(epoch).map(|()| done)?,
            Request::Arrive { blob } => self.arrive(&blob).map(|()| done)?,
            Request::ArriveAbort => self.arrive_abort().map(|()| done)?,
            Request::ArriveCommit { epoch } => self.arrive_commit(epoch).map(|()| done)?,
            Request::Carrier => {
                let socket = fds.pop().context("the carrier is missing")?;
                self.take_carrier(UnixStream::from(socket))?;
                done
            }
            Request::Collect => {
                ensure!(
                    self.children.status().is_some() || self.departed,
                    "the job has not ended"
                );
                self.collected = true;
                done
            }
            Request::Adopt(adopt) => {
                let place = fds.pop().context("the pidfd of its place is missing")?;
                self.adopt(&adopt, place).map(|()| done)?
            }
            Request::Orphan => {
                self.caller = None;
                done
            }
            Request::Checkpointed => {
                self.checkpointed();
                done
            }
            Request::Stand { has_terminal } => self.stand(has_terminal, fds).map(|()| done)?,
        })
    }

    /// What has happened already is told again: a daemon that subscribes misses nothing.
    fn subscribe(&mut self, index: usize) {
        let ended = self.children.status().map(Event::Exited);
        let stopped = self.children.stopped().map(Event::Stopped);
        let ctl = &mut self.ctls[index];
        ctl.subscribed = true;
        for event in ended.into_iter().chain(stopped) {
            ctl.stream.queue(&Reply::Event(event), vec![]);
        }
    }

    fn info(&self) -> Result<(Reply, Vec<OwnedFd>)> {
        let info = Info {
            job: self.job.clone(),
            place: self.place,
            main: self.children.main(),
            status: self.children.status(),
            stopped: self.children.stopped(),
            held: self.pending.is_some(),
            attached: self.face.is_some(),
            console: self.console.as_ref().map(super::Console::index),
            pipes: self.pipe_ids,
            owner: self.owner,
        };
        let mut fds = vec![pidfd_open(getpid(), PidfdFlags::empty())?];
        if let Some(main) = self.children.main_pidfd() {
            fds.push(main.try_clone()?);
        }
        Ok((Reply::Info(info), fds))
    }

    /// Makes an empty process that a restore fills.
    fn zygote(&mut self, pid: i32, daemon: &OwnedFd) -> Result<(Reply, Vec<OwnedFd>)> {
        // Not cloned into the job's cgroup: once cgroup.kill has been used there, as
        // it is when the job leaves, Linux 6.14 and later kill what CLONE_INTO_CGROUP
        // brings from another cgroup (its kill_seq differs). The restore moves it in.
        let options = CloneOptions {
            pid: Some(pid),
            ..CloneOptions::default()
        };
        match clone::fork(&options).with_context(|| format!("pid {pid} cannot be made"))? {
            Forked::Parent { pid, pidfd } => Ok((Reply::Pid(pid), vec![pidfd])),
            Forked::Child => {
                let error = match clone::reset_signals(0, 0) {
                    Ok(()) => husk::exec(daemon.as_fd()),
                    Err(e) => e,
                };
                eprintln!("capsule: husk: {error}");
                std::process::exit(127)
            }
        }
    }

    /// Becomes the init of a job that is here without a capsule, until it leaves.
    fn adopt(&mut self, adopt: &Adopt, place: OwnedFd) -> Result<()> {
        ensure!(self.is_fresh(), "the job has a capsule");
        self.place = Place::Home;
        self.pipe_ids = adopt.pipes;
        self.has_terminal = adopt.has_terminal;
        self.children.set_stopped(adopt.stopped);
        self.caller = Some(place);
        Ok(())
    }

    /// Becomes the deputy of a job that comes from a checkpoint.
    fn stand(&mut self, has_terminal: bool, fds: Vec<OwnedFd>) -> Result<()> {
        ensure!(self.is_fresh(), "the job has a capsule");
        let mut fds = fds.into_iter();
        for pipe in &mut self.pipes {
            pipe.original = Some(fds.next().context("a standard stream is missing")?);
        }
        self.caller = fds.next();
        self.place = Place::Away;
        self.has_terminal = has_terminal;
        self.anew = true;
        self.patient = true;
        Ok(())
    }

    /// Whether there has been no job here yet.
    fn is_fresh(&self) -> bool {
        self.place != Place::Away && self.children.main().is_none() && self.pending.is_none()
    }

    /// The daemon says which process the main program is.
    fn appoint(&mut self, pid: i32) -> Result<()> {
        if let Some(status) = self.children.end_of(pid) {
            self.main_ended(status);
            return Ok(());
        }
        let Some(id) = Pid::from_raw(pid).filter(|_| pid > 1) else {
            bail!("{pid} is no process of the job");
        };
        let pidfd = pidfd_open(id, PidfdFlags::empty())
            .with_context(|| format!("pid {pid} is no process of the job"))?;
        self.children.set_main(pid, pidfd);
        Ok(())
    }

    /// Tells the daemon, if it listens.
    pub(super) fn announce(&mut self, event: Event) {
        for ctl in self.ctls.iter_mut().filter(|ctl| ctl.subscribed) {
            ctl.stream.queue(&Reply::Event(event), vec![]);
        }
    }
}

/// The folder and the socket's mode keep others out; this says so once more.
/// The daemon is outside of our pid namespace, so its pid reads as 0 here, which
/// the type of rustix's answer cannot hold: it would be an error.
fn is_root(socket: &UnixStream) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}
