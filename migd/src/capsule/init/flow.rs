//! Bytes between the job's terminal and pipes, the user, and the other init.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use libmig::api::terminal::FromJob;
use rustix::event::PollFlags;

use super::{Init, Place};
use crate::capsule::{
    ctl::Event,
    pipes::{Pipe, Pump, STDIO, read_all, stream_of},
    relay::{Control, Stream},
};

/// Terminal bytes read in one go.
const CHUNK: usize = 16 << 10;
/// A terminal's queue is smaller than that: where all of it must go.
const ALL: usize = 1 << 20;

/// Standard streams by descriptor.
pub(super) type Pipes = [Pipe; 3];

impl Init {
    /// Moves what can be moved, wherever the job is.
    pub(super) fn flow(&mut self) {
        if self.pending.is_some() {
            return;
        }
        if self.carrier.is_some() && !self.link.is_connected() {
            self.link.connect();
        }
        match self.place {
            Place::Home => {
                self.console_to_user();
                self.user_to_console();
            }
            Place::Away => {
                self.hear_guest();
                self.link_to_user();
                self.user_to_link();
            }
            Place::Guest => {
                self.hear_home();
                self.link_to_console();
                self.console_to_link();
            }
        }
        for (pipe, which) in self.pipes.iter_mut().zip(STDIO) {
            pipe.flow(stream_of(which), &mut self.link);
        }
        self.end_if_drained();
    }

    /// What to wait for besides the connections.
    pub(super) fn flow_interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut interests = Vec::new();
        if self.pending.is_some() {
            return interests;
        }
        if let Some(console) = &self.console {
            let (reads, writes) = match self.place {
                Place::Home => (self.can_show(), !self.typed.is_empty()),
                _ => (
                    self.link.room(Stream::Terminal) > 0,
                    self.link.waiting(Stream::Terminal) > 0,
                ),
            };
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reads);
            flags.set(PollFlags::OUT, writes);
            if !flags.is_empty() {
                interests.push((console.as_fd(), flags));
            }
        }
        let streams = STDIO.map(stream_of);
        let pipes = self.pipes.iter().zip(streams);
        interests.extend(pipes.filter_map(|(pipe, stream)| pipe.interest(stream, &self.link)));
        interests
    }

    /// Whether terminal output may be read: someone shows it, or no one ever will
    /// and the ring is enough. Not before `mig exec` has come.
    fn can_show(&self) -> bool {
        match &self.face {
            Some(face) => !face.is_full(),
            None => self.caller.is_none(),
        }
    }

    pub(super) fn show(&mut self, bytes: &[u8]) {
        self.ring.push(bytes);
        if let Some(face) = &mut self.face {
            face.show(bytes);
        }
    }

    fn console_to_user(&mut self) {
        if !self.can_show() {
            return;
        }
        let bytes = self
            .console
            .as_ref()
            .and_then(|console| console.read(CHUNK).ok());
        if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
            self.show(&bytes);
        }
    }

    fn user_to_console(&mut self) {
        let Some(console) = &self.console else {
            self.typed.clear();
            return;
        };
        let mut taken = 0;
        while !self.typed.is_empty() {
            match console.write(self.typed.as_slices().0) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    self.typed.drain(..length);
                    taken += length;
                }
            }
        }
        self.give_credit(taken);
    }

    fn user_to_link(&mut self) {
        let length = self.link.room(Stream::Terminal).min(self.typed.len());
        let bytes: Vec<u8> = self.typed.drain(..length).collect();
        self.link.send(Stream::Terminal, &bytes);
        self.give_credit(length);
    }

    fn give_credit(&mut self, length: usize) {
        if length > 0
            && let Some(face) = &mut self.face
        {
            face.say(&FromJob::Credit(
                u32::try_from(length).expect("bounded by INPUT_CREDIT"),
            ));
        }
    }

    fn link_to_user(&mut self) {
        if self.can_show() {
            let bytes = self.link.arrived(Stream::Terminal).to_vec();
            self.link.consume(Stream::Terminal, bytes.len());
            self.show(&bytes);
        }
    }

    fn link_to_console(&mut self) {
        while self.link.waiting(Stream::Terminal) > 0 {
            let bytes = self.link.arrived(Stream::Terminal);
            match self.console.as_ref().map(|console| console.write(bytes)) {
                Some(Ok(0)) => break,
                Some(Ok(length)) => self.link.consume(Stream::Terminal, length),
                Some(Err(_)) | None => {
                    let all = self.link.waiting(Stream::Terminal);
                    self.link.consume(Stream::Terminal, all);
                }
            }
        }
    }

    fn console_to_link(&mut self) {
        let limit = self.link.room(Stream::Terminal).min(CHUNK);
        if limit > 0
            && let Some(console) = &self.console
            && let Ok(bytes) = console.read(limit)
        {
            self.link.send(Stream::Terminal, &bytes);
        }
    }

    /// All that the job has written so far leaves its terminal, and away from home its pipes.
    pub(super) fn drain_output(&mut self) {
        if self.place == Place::Away {
            let bytes = self.link.arrived(Stream::Terminal).to_vec();
            self.link.consume(Stream::Terminal, bytes.len());
            self.show(&bytes);
        }
        while let Some(console) = &self.console
            && let Ok(bytes) = console.read(ALL)
            && !bytes.is_empty()
        {
            match self.place {
                Place::Guest => self.link.send(Stream::Terminal, &bytes),
                _ => self.show(&bytes),
            }
        }
        if self.place == Place::Guest {
            for which in [1, 2] {
                let stream = stream_of(STDIO[which]);
                if let Pump::Source(fd) = &self.pipes[which].pump {
                    let (bytes, ended) = read_all(fd);
                    self.link.send(stream, &bytes);
                    if ended {
                        self.link.end(stream);
                        self.pipes[which].close();
                    }
                }
            }
        }
    }

    /// As deputy: what the init with the job says.
    fn hear_guest(&mut self) {
        while let Some(control) = self.link.event() {
            match control {
                Control::Broken(stream) => self.close_pipe(stream),
                Control::Stopped(signal) => self.main_stopped(signal),
                Control::Continued => self.main_continued(),
                Control::Exited(status) => self.ending = Some(status),
                Control::Window(_)
                | Control::Signal(_)
                | Control::Continue { .. }
                | Control::Hangup => (),
            }
        }
    }

    /// With the job: what the deputy says.
    fn hear_home(&mut self) {
        while let Some(control) = self.link.event() {
            match control {
                Control::Broken(stream) => self.close_pipe(stream),
                control => self.obey(control),
            }
        }
    }

    fn close_pipe(&mut self, stream: Stream) {
        if let Some(which) = STDIO.iter().position(|&which| stream_of(which) == stream) {
            self.pipes[which].close();
        }
    }

    /// The job has ended elsewhere: that is told once its last bytes are out.
    fn end_if_drained(&mut self) {
        let streams = [Stream::Terminal, Stream::Out, Stream::Err];
        if self.place == Place::Away
            && streams.iter().all(|&s| self.link.waiting(s) == 0)
            && let Some(status) = self.ending.take()
        {
            self.job_ended(status);
        }
    }

    pub(super) fn read_carrier(&mut self) {
        let Some(carrier) = &mut self.carrier else {
            return;
        };
        let mut buffer = vec![0; 64 << 10];
        match carrier.read(&mut buffer) {
            Ok(0) => self.lose_carrier("closed"),
            Ok(length) => {
                if let Err(e) = self.link.feed(&buffer[..length]) {
                    self.lose_carrier(&e.to_string());
                }
            }
            Err(e) if is_momentary(&e) => (),
            Err(e) => self.lose_carrier(&e.to_string()),
        }
    }

    pub(super) fn write_carrier(&mut self) {
        if self.pending.is_some() {
            return;
        }
        while let Some(carrier) = &mut self.carrier
            && self.link.has_output()
        {
            match carrier.write(self.link.output()) {
                Ok(length) => self.link.sent(length),
                Err(e) if is_momentary(&e) => return,
                Err(e) => self.lose_carrier(&e.to_string()),
            }
        }
    }

    fn lose_carrier(&mut self, why: &str) {
        eprintln!("capsule: carrier: {why}");
        self.carrier = None;
        self.link.disconnect();
        self.announce(Event::CarrierLost);
    }

    /// A new carrier; the link goes on where it was.
    pub(super) fn take_carrier(&mut self, socket: UnixStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.carrier = Some(socket);
        self.link.disconnect();
        Ok(())
    }
}

fn is_momentary(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
