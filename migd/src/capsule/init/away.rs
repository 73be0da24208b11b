//! Departure and arrival of the job, as its init on one node takes part in them.
//!
//! Between prepare and commit or abort the init holds still: it moves no byte and says
//! nothing to the other init, so that what it has written down stays true.
//! Prepare may fail and abort restores; commit cannot fail.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail, ensure};
use libmig::{
    api::{CHECKPOINTED, terminal::Window},
    image::Stdio,
};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{Init, Place};
use crate::capsule::{
    console::Console,
    ctl::PipeId,
    pipes::{self, Local, Pump, STDIO, stream_of},
    relay::{Control, Link, Stream, settle},
};

/// Requests of the user that wait for the decision; more are dropped.
const MAX_DEFERRED: usize = 256;

/// What the next init must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Blob {
    link: Link,
    stopped: Option<i32>,
    has_terminal: bool,
}

/// A move that is not decided.
#[derive(Debug)]
pub(super) struct Pending {
    deferred: Vec<Control>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The job may leave. `link` is what home goes on with.
    Depart { link: Box<Link> },
    /// It may come. `mine` and `guest` are both sides of the exchange, settled: `mine`
    /// is unused where the job is a guest.
    Arrive {
        mine: Box<Link>,
        guest: Box<Link>,
        stopped: Option<i32>,
    },
}

impl Pending {
    /// Keeps a request until it is known who is to do it.
    pub(super) fn defer(&mut self, control: Control) {
        if self.deferred.len() < MAX_DEFERRED {
            self.deferred.push(control);
        }
    }
}

impl Init {
    /// Holds still and says what the next init must know.
    pub(super) fn depart_prepare(
        &mut self,
        originals: [bool; 3],
        fds: Vec<OwnedFd>,
    ) -> Result<Vec<u8>> {
        ensure!(
            self.pending.is_none(),
            "a move of the job is under way already"
        );
        ensure!(self.children.status().is_none(), "the job has ended");
        ensure!(self.starting.is_none(), "the job is being started");
        let (mine, theirs) = match self.place {
            Place::Away => bail!("the job is not here"),
            Place::Home => self.prepare_home(originals, fds)?,
            Place::Guest => self.prepare_guest(),
        };
        let blob = Blob {
            link: theirs,
            stopped: self.children.stopped(),
            has_terminal: self.has_terminal,
        };
        self.pending = Some(Pending {
            deferred: vec![],
            kind: Kind::Depart {
                link: Box::new(mine),
            },
        });
        Ok(postcard::to_stdvec(&blob)?)
    }

    /// From home: the originals are lent to us, and what a local pump holds goes into the
    /// link of its side.
    fn prepare_home(&mut self, originals: [bool; 3], fds: Vec<OwnedFd>) -> Result<(Link, Link)> {
        self.drain_output();
        let mut fds = fds.into_iter();
        for (which, there) in originals.into_iter().enumerate() {
            if there {
                let fd = fds.next().context("an original descriptor is missing")?;
                ensure!(
                    pipes::pipe_id(&fd) == self.pipe_ids[which],
                    "descriptor {which} is not the pipe that mig exec was given"
                );
                // A program that came home mid-stream has our pipe; the original is here already.
                if !matches!(self.pipes[which].pump, Pump::Local(_)) {
                    self.pipes[which].original = Some(fd);
                }
            }
        }
        let (mut mine, mut theirs) = (Link::new(0), Link::new(0));
        for (pipe, which) in self.pipes.iter_mut().zip(STDIO) {
            let Pump::Local(local) = &mut pipe.pump else {
                continue;
            };
            let buffer: Vec<u8> = local.buffer.iter().copied().collect();
            match which {
                Stdio::In => {
                    let (held, _) = pipes::read_all(pipes::reopen(&local.to, OFlags::RDONLY)?);
                    theirs.put_back(Stream::In, &[held.as_slice(), &buffer].concat());
                    // Stays ours until the decision: an abort pumps it again.
                    local.buffer = [held, buffer].concat().into();
                }
                Stdio::Out | Stdio::Err => {
                    let (held, ended) = pipes::read_all(&local.from);
                    local.buffer.extend(&held);
                    local.from_ended |= ended;
                    let all: Vec<u8> = local.buffer.iter().copied().collect();
                    mine.put_back(stream_of(which), &all);
                }
            }
        }
        Ok((mine, theirs))
    }

    /// From a guest's place: what the job wrote goes into the log, what it has not read goes
    /// back into what has arrived. All of that also holds if it stays.
    fn prepare_guest(&mut self) -> (Link, Link) {
        self.drain_output();
        if let Pump::Sink(fd) = &self.pipes[0].pump
            && let Ok(reader) = pipes::reopen(fd, OFlags::RDONLY)
        {
            let (held, _) = pipes::read_all(reader);
            self.link.put_back(Stream::In, &held);
        }
        (Link::default(), self.link.clone())
    }

    pub(super) fn depart_abort(&mut self) -> Result<()> {
        let pending = self.take_pending(|kind| matches!(kind, Kind::Depart { .. }))?;
        if self.place == Place::Home {
            for pipe in &mut self.pipes {
                if !matches!(pipe.pump, Pump::Local(_)) {
                    pipe.close();
                }
            }
        }
        self.resume(pending.deferred);
        Ok(())
    }

    /// It departs into a file: that is told as its end, before its copy is killed. Repeatable.
    pub(super) fn checkpointed(&mut self) {
        if self.children.status().is_some() {
            return;
        }
        // Whatever it was to be told has been for a program that never runs again here.
        self.pending = None;
        self.children.forget_main();
        self.ending = None;
        self.main_ended(CHECKPOINTED);
    }

    pub(super) fn depart_commit(&mut self, epoch: u64) -> Result<()> {
        let pending = self.take_pending(|kind| matches!(kind, Kind::Depart { .. }))?;
        // The frozen copy is about to be killed: its end is not the job's.
        self.children.forget_main();
        self.ending = None;
        self.console = None;
        let Kind::Depart { link } = pending.kind else {
            return Ok(());
        };
        if self.place == Place::Guest {
            self.departed = true;
            self.carrier = None;
            self.link.disconnect();
            return Ok(());
        }
        self.place = Place::Away;
        self.carrier = None;
        self.link = *link;
        self.link.set_epoch(epoch, false);
        for which in STDIO {
            self.pump_original(which);
        }
        self.resume(pending.deferred);
        Ok(())
    }

    /// As deputy: reads or writes the original pipe of a stream.
    fn pump_original(&mut self, which: Stdio) {
        let pipe = &mut self.pipes[which as usize];
        pipe.pump = Pump::Nothing;
        let Some(original) = &pipe.original else {
            return;
        };
        let (flags, wrap): (_, fn(OwnedFd) -> Pump) = match which {
            Stdio::In => (OFlags::RDONLY, Pump::Source),
            Stdio::Out | Stdio::Err => (OFlags::WRONLY, Pump::Sink),
        };
        match pipes::reopen(original, flags) {
            Ok(fd) => pipe.pump = wrap(fd),
            Err(_) => {
                // No one reads it any more: that is for the program to learn.
                self.link.say(Control::Broken(stream_of(which)));
                pipe.close();
            }
        }
    }

    /// Takes over from another init, provisionally.
    pub(super) fn arrive(&mut self, blob: &[u8]) -> Result<()> {
        ensure!(
            self.pending.is_none(),
            "a move of the job is under way already"
        );
        ensure!(self.place != Place::Home, "the job is here");
        ensure!(self.children.status().is_none(), "the job has ended");
        self.children.forget_ends();
        let blob: Blob = postcard::from_bytes(blob).context("the blob cannot be decoded")?;
        let (mut mine, mut guest) = (self.link.clone(), blob.link);
        if self.anew {
            guest = guest.unread();
        } else if self.place == Place::Away {
            settle(&mut mine, &mut guest)?;
        } else {
            self.has_terminal = blob.has_terminal;
        }
        let kind = Kind::Arrive {
            mine: Box::new(mine),
            guest: Box::new(guest),
            stopped: blob.stopped,
        };
        self.pending = Some(Pending {
            deferred: vec![],
            kind,
        });
        Ok(())
    }

    /// The program's end of a stream.
    pub(super) fn stdio(&mut self, which: Stdio) -> Result<OwnedFd> {
        let Some(Kind::Arrive { mine, guest, .. }) = self.pending.as_ref().map(|p| &p.kind) else {
            bail!("no job is arriving");
        };
        let stream = stream_of(which);
        let left = if which == Stdio::In {
            guest.waiting(stream)
        } else {
            mine.waiting(stream)
        };
        let pipe = &mut self.pipes[which as usize];
        if self.place == Place::Guest {
            let (theirs, ours) = pipes::make(which)?;
            self.pipe_ids[which as usize] = pipes::pipe_id(&ours);
            pipe.pump = if which == Stdio::In {
                Pump::Sink(ours)
            } else {
                Pump::Source(ours)
            };
            return Ok(theirs);
        }
        if left == 0
            && let Some(original) = &pipe.original
        {
            return Ok(original.try_clone()?);
        }
        let (theirs, ours) = pipes::make(which)?;
        self.returning[which as usize] = Some((ours, pipes::pipe_id(&theirs)));
        Ok(theirs)
    }

    /// A terminal for the job, as it had it: slave and master. It is made
    /// before the zygote is: members of our session get their controlling terminal
    /// from their parent and in no other way. Asked for again, with the modes
    /// that are known by then, it is the same terminal.
    pub(super) fn make_console(
        &mut self,
        index: u32,
        window: Window,
        modes: &[u8],
    ) -> Result<Vec<OwnedFd>> {
        ensure!(self.vacant(), "the job is here");
        let made = self.console.take().filter(|made| made.index() == index);
        let console = match made {
            Some(console) => console,
            None => Console::open_at(index, self.owner)?,
        };
        console.set_modes(modes)?;
        console.set_window(window)?;
        console
            .control()
            .context("the terminal cannot be made ours")?;
        let fds = vec![console.slave()?, console.master()?];
        self.console = Some(console);
        Ok(fds)
    }

    /// Whether the job is elsewhere, or on its way here.
    fn vacant(&self) -> bool {
        match &self.pending {
            Some(pending) => matches!(pending.kind, Kind::Arrive { .. }),
            None => {
                self.place == Place::Away
                    || self.place == Place::Guest && self.children.main().is_none()
            }
        }
    }

    pub(super) fn arrive_abort(&mut self) -> Result<()> {
        if self.pending.is_none() && self.vacant() {
            // It never came to `arrive`.
            self.console = None;
            self.departed |= self.place == Place::Guest;
            return Ok(());
        }
        let pending = self.take_pending(|kind| matches!(kind, Kind::Arrive { .. }))?;
        self.children.forget_main();
        self.ending = None;
        self.console = None;
        self.returning = Default::default();
        if self.place == Place::Guest {
            self.departed = true;
        } else {
            self.resume(pending.deferred);
        }
        Ok(())
    }

    pub(super) fn arrive_commit(&mut self, epoch: u64) -> Result<()> {
        let pending = self.take_pending(|kind| matches!(kind, Kind::Arrive { .. }))?;
        let Kind::Arrive {
            mine,
            guest,
            stopped,
        } = pending.kind
        else {
            return Ok(());
        };
        self.children.set_stopped(stopped);
        if self.place == Place::Guest {
            self.link = *guest;
            self.link.set_epoch(epoch, true);
            for which in STDIO {
                self.disown_unused(which);
            }
        } else {
            self.come_home(*mine, *guest);
        }
        self.resume(pending.deferred);
        Ok(())
    }

    /// A stream that no descriptor of the job is open on any more: home is told.
    fn disown_unused(&mut self, which: Stdio) {
        if matches!(self.pipes[which as usize].pump, Pump::Nothing) {
            match which {
                Stdio::In => self.link.say(Control::Broken(Stream::In)),
                Stdio::Out | Stdio::Err => self.link.end(stream_of(which)),
            }
        }
    }

    /// Both sides of the exchange are here now: what is left of it goes where it belongs.
    fn come_home(&mut self, mut mine: Link, mut guest: Link) {
        self.place = Place::Home;
        self.anew = false;
        self.carrier = None;
        self.link = Link::default();
        let output = mine.arrived(Stream::Terminal).to_vec();
        self.show(&output);
        guest
            .arrived(Stream::Terminal)
            .iter()
            .rev()
            .for_each(|&b| self.typed.push_front(b));
        for which in STDIO {
            let link = if which == Stdio::In {
                &mut guest
            } else {
                &mut mine
            };
            self.bring_back(which, link);
        }
        while let Some(control) = mine.event() {
            match control {
                Control::Stopped(signal) => self.main_stopped(signal),
                Control::Continued => self.main_continued(),
                _ => (),
            }
        }
        while let Some(control) = guest.event() {
            self.obey(control);
        }
    }

    /// The program holds the original again, or a pipe that we pump.
    fn bring_back(&mut self, which: Stdio, link: &mut Link) {
        let stream = stream_of(which);
        let pipe = &mut self.pipes[which as usize];
        let original = pipe.original.take();
        pipe.close();
        let Some((ours, id)) = self.returning[which as usize].take() else {
            self.pipe_ids[which as usize] = original.and_then(pipes::pipe_id);
            return;
        };
        self.pipe_ids[which as usize] = id;
        let buffer = link.arrived(stream).to_vec().into();
        let from_ended = which == Stdio::In && original.is_none();
        let flags = if which == Stdio::In {
            OFlags::RDONLY
        } else {
            OFlags::WRONLY
        };
        let other = match &original {
            Some(fd) => pipes::reopen(fd, flags),
            None if which == Stdio::In => ours.try_clone(),
            // Nobody reads at home: the program is to get EPIPE.
            None => return,
        };
        let Ok(other) = other else { return };
        let (from, to) = if which == Stdio::In {
            (other, ours)
        } else {
            (ours, other)
        };
        let pipe = &mut self.pipes[which as usize];
        pipe.original = original;
        pipe.pump = Pump::Local(Local {
            from,
            to,
            buffer,
            from_ended,
        });
    }

    fn take_pending(&mut self, wanted: fn(&Kind) -> bool) -> Result<Pending> {
        match self.pending.take() {
            Some(pending) if wanted(&pending.kind) => Ok(pending),
            other => {
                self.pending = other;
                bail!("no such move of the job is under way")
            }
        }
    }

    /// The decision is made: what waited for it is done now.
    fn resume(&mut self, deferred: Vec<Control>) {
        deferred
            .into_iter()
            .for_each(|control| self.command(control));
        if self.place != Place::Away
            && let Some(status) = self.ending.take()
        {
            self.main_ended(status);
        }
    }
}

/// Program's pipes on the way home: our end, and which pipe it is.
pub(super) type Returning = [Option<(OwnedFd, Option<PipeId>)>; 3];
