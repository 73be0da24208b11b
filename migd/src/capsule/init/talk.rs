//! What `mig exec` and `mig attach` ask, and what becomes of the job when they go.

use libmig::api::terminal::{FromJob, INPUT_CREDIT, Role, ToJob, VERSION, Window};
use nix::sys::signal::Signal;
use rustix::process::{Pid, getpid};

use super::{Face, Init, MAX_NEWCOMERS, Place};
use crate::capsule::relay::Control;

impl Init {
    pub(super) fn accept_face(&mut self) {
        while let Ok((socket, _)) = self.attach_listener.accept() {
            match Face::new(socket) {
                Ok(face) if self.newcomers.len() < MAX_NEWCOMERS => self.newcomers.push(face),
                _ => (),
            }
        }
    }

    /// A connection that has not said hello speaks.
    pub(super) fn meet(&mut self, index: usize) {
        let mut face = self.newcomers.remove(index);
        let Ok((messages, open)) = face.listen() else {
            return;
        };
        if face.closing || (messages.is_empty() && open) {
            if open {
                self.newcomers.push(face);
            }
            return;
        }
        let mut messages = messages.into_iter();
        let Some(ToJob::Hello {
            version,
            role,
            window,
        }) = messages.next()
        else {
            return;
        };
        match self.refusal(version, role) {
            Some(why) => {
                face.say(&FromJob::Refused(why));
                face.closing = true;
                self.newcomers.push(face);
            }
            None => {
                face.role = Some(role);
                self.welcome(face, role, window);
                messages.for_each(|message| self.heed(message));
                if !open {
                    self.lose_face();
                }
            }
        }
    }

    fn refusal(&self, version: u16, role: Role) -> Option<String> {
        if version != VERSION {
            return Some(format!(
                "this job speaks version {VERSION} of the attach protocol, not {version}"
            ));
        }
        if self.place == Place::Guest {
            return Some("the job's terminal is at its home node".into());
        }
        if self.face.is_some() {
            return Some("someone is attached to the job already".into());
        }
        match role {
            Role::Exec if self.caller.is_none() => {
                Some("the job was not started by this command".into())
            }
            Role::Attach if self.caller.is_some() => {
                Some("the job's mig exec is about to connect".into())
            }
            Role::Attach if !self.has_terminal => {
                Some("the job has no terminal: it writes where its mig exec was told to".into())
            }
            _ => None,
        }
    }

    fn welcome(&mut self, mut face: Face, role: Role, window: Option<Window>) {
        self.caller = None;
        self.patient = false;
        // What was written while no one looked; a short program has ended before
        // its `mig exec` could connect.
        face.show(self.ring.contents());
        self.face = Some(face);
        if role == Role::Attach
            && let Some(window) = window
        {
            self.heed(ToJob::Window(window));
            self.heed(ToJob::Continue { foreground: true });
        }
        let Some(face) = &mut self.face else { return };
        if let Some(failure) = &self.failure {
            face.say(failure);
        }
        if let Some(status) = self.children.status() {
            face.say(&FromJob::Exited(status));
            face.closing = true;
        } else if let Some(signal) = self.children.stopped() {
            face.say(&FromJob::Stopped(signal));
        }
    }

    pub(super) fn serve_face(&mut self) {
        let Some(face) = &mut self.face else { return };
        match face.listen() {
            Ok((messages, open)) => {
                messages.into_iter().for_each(|message| self.heed(message));
                if !open {
                    self.lose_face();
                }
            }
            Err(e) => {
                eprintln!("capsule: attach: {e:#}");
                self.lose_face();
            }
        }
    }

    /// One request of the user. While a move is undecided, only typed bytes
    /// are taken in; the rest waits until it is known who is to do it.
    fn heed(&mut self, message: ToJob) {
        match message {
            ToJob::Input(bytes) => {
                if self.typed.len() + bytes.len() > INPUT_CREDIT {
                    self.lose_face();
                } else {
                    self.typed.extend(bytes);
                }
            }
            ToJob::Detach => self.face = None,
            ToJob::Hello { .. } => self.lose_face(),
            ToJob::Window(w) => {
                self.command(Control::Window([w.rows, w.columns, w.x_pixels, w.y_pixels]));
            }
            ToJob::Signal(number) => self.command(Control::Signal(number)),
            ToJob::Continue { foreground } => self.command(Control::Continue { foreground }),
        }
    }

    /// Does it where the job is.
    pub(super) fn command(&mut self, control: Control) {
        if let Some(pending) = &mut self.pending {
            pending.defer(control);
        } else if self.place == Place::Away {
            self.link.say(control);
        } else {
            self.obey(control);
        }
    }

    /// Does it here.
    pub(super) fn obey(&mut self, control: Control) {
        match control {
            Control::Window([rows, columns, x_pixels, y_pixels]) => {
                let window = Window {
                    rows,
                    columns,
                    x_pixels,
                    y_pixels,
                };
                if let Some(console) = &self.console
                    && let Err(e) = console.set_window(window)
                {
                    eprintln!("capsule: window size: {e}");
                }
            }
            Control::Signal(number) => self.children.signal(number),
            Control::Continue { foreground } => self.continue_main(foreground),
            Control::Hangup => self.hang_up(),
            // Not commands: see `flow`.
            Control::Broken(_) | Control::Stopped(_) | Control::Continued | Control::Exited(_) => {}
        }
    }

    /// The shell has put `mig exec` into the foreground or background. In the
    /// background the job's terminal belongs to the init's own group, so that
    /// a program that reads is stopped (SIGTTIN) as it would be at the shell.
    fn continue_main(&mut self, foreground: bool) {
        if let Some(console) = &self.console {
            let front = console.foreground();
            let nobody = front.is_none() || front == Some(getpid());
            let group = match (foreground, self.children.main().and_then(Pid::from_raw)) {
                (true, Some(main)) if nobody => Some(main),
                (true, _) => None,
                (false, _) => Some(getpid()),
            };
            if let Some(group) = group
                && let Err(e) = console.set_foreground(group)
            {
                eprintln!("capsule: foreground: {e}");
            }
        }
        if self.children.stopped().is_some() {
            self.children.signal_group(Signal::SIGCONT);
        }
    }

    /// The connection has gone. Only `mig exec` stands for the user's
    /// terminal; with `mig attach` gone the job is as detached as before.
    pub(super) fn lose_face(&mut self) {
        let role = self.face.take().and_then(|face| face.role);
        if role == Some(Role::Exec) && self.children.status().is_none() {
            self.command(Control::Hangup);
        }
    }

    /// `mig exec` or `mig restore` was killed before it could connect.
    pub(super) fn caller_died(&mut self) {
        self.caller = None;
        if self.children.status().is_none() && !self.patient {
            self.command(Control::Hangup);
        }
    }
}
