//! The processes of the job as far as pid 1 is concerned with them: which one
//! is the main program, and how it and others ended.

use std::{collections::VecDeque, io::Read, os::fd::OwnedFd};

use libmig::{api::terminal::FromJob, sys::HostPid};
use nix::{
    sys::signal::{Signal, kill},
    unistd::getpgid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid},
};

use super::{Init, Place};
use crate::capsule::{ctl::Event, relay::Control};

/// So many ends of other processes are remembered: after a move the main
/// program may have ended before the daemon says which it is.
const MEMORY: usize = 256;

/// Who is who.
#[derive(Debug, Default)]
pub(super) struct Children {
    main: Option<(i32, OwnedFd)>,
    status: Option<i32>,
    stopped: Option<i32>,
    ended: VecDeque<(i32, i32)>,
}

impl Children {
    /// This child is the main program.
    pub(super) fn set_main(&mut self, pid: i32, pidfd: OwnedFd) {
        self.main = Some((pid, pidfd));
    }

    /// The main program's pid, while it lives here.
    pub(super) fn main(&self) -> Option<i32> {
        self.main.as_ref().map(|(pid, _)| *pid)
    }

    /// Its pidfd.
    pub(super) fn main_pidfd(&self) -> Option<&OwnedFd> {
        self.main.as_ref().map(|(_, fd)| fd)
    }

    /// It does not live here any more.
    pub(super) fn forget_main(&mut self) {
        self.main = None;
    }

    /// Wait status word of the main program, once it has ended.
    pub(super) fn status(&self) -> Option<i32> {
        self.status
    }

    /// The job has ended.
    pub(super) fn set_status(&mut self, status: i32) {
        self.status = Some(status);
    }

    /// The signal that stopped the main program, if it is stopped.
    pub(super) fn stopped(&self) -> Option<i32> {
        self.stopped
    }

    /// The main program has been stopped or continued.
    pub(super) fn set_stopped(&mut self, signal: Option<i32>) {
        self.stopped = signal;
    }

    /// How a child ended that is not the main program (yet).
    pub(super) fn end_of(&self, pid: i32) -> Option<i32> {
        let end = self.ended.iter().rev().find(|(ended, _)| *ended == pid);
        end.map(|(_, status)| *status)
    }

    /// The job comes here, perhaps not for the first time: its process IDs
    /// have been those of the copy that was killed when it left.
    pub(super) fn forget_ends(&mut self) {
        self.ended.clear();
    }

    /// Whether any process is left. Orphans come to pid 1, so without a child there is none.
    pub(super) fn any(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
    }

    /// Sends a signal to the main program alone.
    pub(super) fn signal(&self, number: i32) {
        let Some((pid, _)) = &self.main else { return };
        // Real-time signals too; the program may have ended meanwhile.
        libmig::sys::signal::send(HostPid::new(*pid), number).ok();
    }

    /// Sends a signal to the main program's process group.
    pub(super) fn signal_group(&self, signal: Signal) {
        let Some((pid, _)) = self.main else { return };
        let group = getpgid(Some(nix::unistd::Pid::from_raw(pid)));
        match group.map(nix::unistd::Pid::as_raw) {
            Ok(group) if group > 1 => tell(-group, signal),
            // Our own group, or none: it alone is meant.
            _ => tell(pid, signal),
        }
    }
}

impl Init {
    /// Takes in all that happened to children.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        while let Ok(Some((pid, status))) = wait(options) {
            self.child_changed(pid.as_raw_nonzero().get(), status);
        }
    }

    fn child_changed(&mut self, pid: i32, status: WaitStatus) {
        let is_main = self.children.main() == Some(pid);
        if status.exited() || status.signaled() {
            if is_main {
                self.children.forget_main();
                self.main_ended(status.as_raw());
            } else {
                if self.children.ended.len() == MEMORY {
                    self.children.ended.pop_front();
                }
                self.children.ended.push_back((pid, status.as_raw()));
            }
        } else if is_main && let Some(signal) = status.stopping_signal() {
            self.main_stopped(signal);
        } else if is_main && status.continued() {
            self.main_continued();
        }
    }

    /// The main program ended here: what it wrote goes before the news.
    pub(super) fn main_ended(&mut self, status: i32) {
        if self.pending.is_some() {
            self.ending = Some(status);
            return;
        }
        self.program_started();
        self.drain_output();
        if self.place == Place::Guest {
            self.link.say(Control::Exited(status));
        }
        self.job_ended(status);
    }

    /// The job has ended, here or elsewhere.
    pub(super) fn job_ended(&mut self, status: i32) {
        self.children.set_status(status);
        self.children.set_stopped(None);
        self.write_status(status);
        self.announce(Event::Exited(status));
        if let Some(face) = &mut self.face {
            face.say(&FromJob::Exited(status));
            face.closing = true;
        }
    }

    pub(super) fn main_stopped(&mut self, signal: i32) {
        self.children.set_stopped(Some(signal));
        self.drain_output();
        if self.place == Place::Guest {
            self.link.say(Control::Stopped(signal));
        }
        self.announce(Event::Stopped(signal));
        if let Some(face) = &mut self.face {
            face.say(&FromJob::Stopped(signal));
        }
    }

    pub(super) fn main_continued(&mut self) {
        self.children.set_stopped(None);
        if self.place == Place::Guest {
            self.link.say(Control::Continued);
        }
        self.announce(Event::Continued);
        if let Some(face) = &mut self.face {
            face.say(&FromJob::Continued);
        }
    }

    /// The exec pipe has been closed: by a successful exec, or with a reason.
    pub(super) fn program_started(&mut self) {
        let Some(mut pipe) = self.starting.take() else {
            return;
        };
        // The writer is the child alone, and it has closed or ended: this does not block for long.
        let mut report = Vec::new();
        if !is_ready(&pipe) || pipe.read_to_end(&mut report).is_err() {
            return;
        }
        if let Some((&code, message)) = report.split_first() {
            self.failure = Some(FromJob::Failed {
                code: code.into(),
                message: String::from_utf8_lossy(message).into_owned(),
            });
            if let (Some(face), Some(failure)) = (&mut self.face, &self.failure) {
                face.say(failure);
            }
        }
    }

    /// The file from which a daemon that was away learns how the job ended.
    fn write_status(&self, status: i32) {
        let path = self.folder.join("status");
        let fresh = self.folder.join("status.new");
        let written = std::fs::write(&fresh, status.to_string())
            .and_then(|()| std::fs::rename(&fresh, &path));
        if let Err(e) = written {
            eprintln!("capsule: {}: {e}", path.display());
        }
    }

    /// The terminal of the job is gone: what a shell's children see then.
    pub(super) fn hang_up(&mut self) {
        if self.place == Place::Away {
            self.link.say(Control::Hangup);
            return;
        }
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            self.children.signal_group(signal);
            let main = self.children.main();
            let front = self.console.as_ref().and_then(super::Console::foreground);
            if let Some(group) = front.map(|g: Pid| g.as_raw_nonzero().get())
                && group > 1
                && Some(group) != main
            {
                tell(-group, signal);
            }
        }
    }
}

/// Signals a process or, negative, a group. They may have ended: then there is no one to tell. The
/// number is still theirs, for no one but this init waits for them.
fn tell(whom: i32, signal: Signal) {
    kill(nix::unistd::Pid::from_raw(whom), signal).ok();
}

fn is_ready(fd: &impl std::os::fd::AsFd) -> bool {
    let mut set = [PollFd::new(fd, PollFlags::IN)];
    poll(
        &mut set,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    ) == Ok(1)
}
