//! The user's end of a job: the terminal, signals, stop and continue, and the end.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the conversation with the job: one thread, one poll loop |
//! | `tty` | the user's terminal, raw and back again |
//! | `keys` | the keys that detach |
//! | `sockets` | standard streams that are sockets |
//! | `end` | how `mig exec` ends as its program did |
//!
//! Invariant: signals are blocked while a job is attached, and read from a
//! signalfd: so no signal that can be caught ends `mig` with the terminal raw.

pub(crate) mod end;
mod keys;
pub(crate) mod sockets;
pub(crate) mod tty;

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::Path,
};

use anyhow::{Context, Result, bail};
use libmig::api::terminal::{self, Decoder, FromJob, INPUT_CREDIT, MAX_DATA, Role, ToJob, VERSION};
use nix::sys::{
    signal::{SigSet, Signal, kill},
    signalfd::{SfdFlags, SignalFd},
};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use keys::DetachKeys;
use tty::Tty;

/// Passed on to the program. Not those that `mig` itself causes or that concern
/// its own memory.
const FORWARDED: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGXCPU,
    Signal::SIGTSTP,
];

/// How the conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The program has ended: wait status word.
    Exited(i32),
    /// It could not be started.
    Failed { code: i32, message: String },
    /// The user has left it.
    Detached,
}

/// A conversation with a job.
#[derive(Debug)]
pub(crate) struct Session {
    socket: UnixStream,
    decoder: Decoder,
    output: VecDeque<u8>,
    signals: SignalFd,
    tty: Option<Tty>,
    /// The program wants the keyboard whenever we own it.
    wants_keyboard: bool,
    keys: DetachKeys,
    credit: usize,
    failure: Option<(i32, String)>,
    /// It has been said that the program is to go on, which was stopped until then.
    continued: bool,
}

/// Blocks the signals that a session handles. Before that, they do what they do to any
/// program; the job is started with the mask of before.
pub(crate) fn block_signals() -> Result<SignalFd> {
    let mask = handled();
    mask.thread_block()?;
    read_from(&mask)
}

/// The same, and lets all others through.
pub(crate) fn block_only_signals() -> Result<SignalFd> {
    let mask = handled();
    mask.thread_set_mask()?;
    read_from(&mask)
}

fn read_from(mask: &SigSet) -> Result<SignalFd> {
    Ok(SignalFd::with_flags(
        mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// The signals that a session handles.
fn handled() -> SigSet {
    const OWN: [Signal; 4] = [
        Signal::SIGCONT,
        Signal::SIGWINCH,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ];
    // Real-time signals, which have no names, are all forwarded.
    let mut mask = SigSet::all();
    for signal in Signal::iterator() {
        if !FORWARDED.contains(&signal) && !OWN.contains(&signal) {
            mask.remove(signal);
        }
    }
    mask
}

impl Session {
    /// Connects to a job. `tty`, if there is one, is the user's terminal;
    /// `wants_keyboard` says whether it is for the program from the start.
    pub(crate) fn connect(
        path: &Path,
        role: Role,
        signals: SignalFd,
        tty: Option<Tty>,
        wants_keyboard: bool,
        keys: DetachKeys,
    ) -> Result<Session> {
        let socket = UnixStream::connect(path)
            .with_context(|| format!("the job does not answer at {}", path.display()))?;
        socket.set_nonblocking(true)?;
        let mut session = Session {
            socket,
            decoder: Decoder::default(),
            output: VecDeque::new(),
            signals,
            tty,
            wants_keyboard,
            keys,
            credit: INPUT_CREDIT,
            failure: None,
            continued: false,
        };
        let window = session.tty.as_ref().and_then(Tty::window);
        session.say(&ToJob::Hello {
            version: VERSION,
            role,
            window,
        });
        if session.owns_keyboard() {
            session.tty_mut(Tty::make_raw)?;
        }
        Ok(session)
    }

    /// Lets a program go on that was stopped before the session began.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        self.continued = true;
        self.resume()
    }

    /// Talks until the program ends or the user leaves. The terminal is as before then.
    pub(crate) fn run(mut self) -> Result<Ending> {
        let ending = self.talk();
        if let Some(tty) = &mut self.tty {
            tty.restore();
        }
        ending
    }

    fn talk(&mut self) -> Result<Ending> {
        loop {
            self.flush()?;
            let [from_job, from_user, from_signals, timeout] = self.wait()?;
            if timeout {
                let held = self.keys.release();
                self.type_in(&held);
            }
            if from_signals {
                self.take_signals()?;
            }
            if from_user && self.read_keyboard() {
                self.say(&ToJob::Detach);
                self.flush()?;
                return Ok(Ending::Detached);
            }
            if from_job && let Some(ending) = self.listen()? {
                return Ok(ending);
            }
        }
    }

    /// What is ready: job, keyboard, signals, or that a key has been held long enough.
    fn wait(&self) -> Result<[bool; 4]> {
        let mut job = PollFlags::IN;
        job.set(PollFlags::OUT, !self.output.is_empty());
        let keyboard = self.keyboard();
        let mut set = vec![
            PollFd::new(&self.socket, job),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        if let Some(fd) = keyboard {
            set.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let patience = self.keys.is_holding().then_some(keys::PATIENCE);
        let count = match poll(&mut set, patience.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok([false; 4]),
            Err(e) => return Err(e.into()),
        };
        let ready = |i: usize| set.get(i).is_some_and(|fd| !fd.revents().is_empty());
        Ok([ready(0), ready(2), ready(1), count == 0])
    }

    /// The keyboard, when it is ours to read and the job can take more.
    fn keyboard(&self) -> Option<BorrowedFd<'_>> {
        let tty = self.tty.as_ref()?;
        (tty.is_raw() && self.credit > 0).then(|| tty.input())?
    }

    fn owns_keyboard(&self) -> bool {
        self.wants_keyboard && self.tty.as_ref().is_some_and(Tty::in_foreground)
    }

    fn tty_mut(&mut self, action: fn(&mut Tty) -> io::Result<()>) -> io::Result<()> {
        self.tty.as_mut().map_or(Ok(()), action)
    }

    fn say(&mut self, message: &ToJob) {
        let mut bytes = Vec::new();
        terminal::encode(message, &mut bytes);
        self.output.extend(bytes);
    }

    fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(self.output.as_slices().0) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                // It has hung up: what it said last is still to be read.
                Err(_) => self.output.clear(),
            }
        }
        Ok(())
    }

    /// Reads typed bytes; `true` when they say detach.
    fn read_keyboard(&mut self) -> bool {
        let mut buffer = vec![0; MAX_DATA.min(self.credit)];
        let length = match self.keyboard().map(|fd| rustix::io::read(fd, &mut buffer)) {
            Some(Ok(length)) => length,
            Some(Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN)) | None => return false,
            Some(Err(_)) => 0,
        };
        if length == 0 {
            // The terminal is gone; SIGHUP says so, or someone else does.
            self.tty = None;
            return false;
        }
        let (typed, detach) = self.keys.feed(&buffer[..length]);
        self.type_in(&typed);
        detach
    }

    fn type_in(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.credit = self.credit.saturating_sub(bytes.len());
            self.say(&ToJob::Input(bytes.to_vec()));
        }
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).context("a signal's number is small")?;
            match Signal::try_from(number) {
                Ok(Signal::SIGWINCH) => self.tell_window(),
                Ok(Signal::SIGCONT) => self.resume()?,
                Ok(Signal::SIGTTIN | Signal::SIGTTOU) => (),
                _ => self.say(&ToJob::Signal(number)),
            }
        }
        Ok(())
    }

    pub(crate) fn tell_window(&mut self) {
        if let Some(window) = self.tty.as_ref().and_then(Tty::window) {
            self.say(&ToJob::Window(window));
        }
    }

    /// Reads what the job says.
    fn listen(&mut self) -> Result<Option<Ending>> {
        let mut buffer = vec![0; 64 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => bail!("the job's init is gone: nobody knows how the program ended"),
            Ok(length) => self.decoder.push(&buffer[..length]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(e).context("the connection to the job broke"),
        }
        while let Some(message) = self.decoder.take()? {
            if let Some(ending) = self.hear(message)? {
                return Ok(Some(ending));
            }
        }
        Ok(None)
    }

    fn hear(&mut self, message: FromJob) -> Result<Option<Ending>> {
        match message {
            FromJob::Output(bytes) => {
                if let Some(tty) = &self.tty {
                    tty.write(&bytes);
                }
            }
            FromJob::Credit(bytes) => self.credit += usize::try_from(bytes)?,
            // It was said before the program heard of it.
            FromJob::Stopped(_) if std::mem::take(&mut self.continued) => (),
            FromJob::Stopped(signal) => self.program_stopped(signal)?,
            FromJob::Continued => self.continued = false,
            FromJob::Failed { code, message } => self.failure = Some((code, message)),
            FromJob::Exited(status) => {
                return Ok(Some(match self.failure.take() {
                    Some((code, message)) => Ending::Failed { code, message },
                    None => Ending::Exited(status),
                }));
            }
            FromJob::Refused(why) => bail!(why),
        }
        Ok(None)
    }

    /// The program has stopped: so do we, as the shell's child that it takes us for. But a
    /// program that was stopped because it wants the keyboard gets it if we own it.
    fn program_stopped(&mut self, number: i32) -> Result<()> {
        let signal = Signal::try_from(number).unwrap_or(Signal::SIGSTOP);
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal {
            self.wants_keyboard = self.tty.is_some();
            if self.owns_keyboard() {
                return self.resume();
            }
        }
        if let Some(tty) = &mut self.tty {
            tty.restore();
        }
        stop_ourselves(signal)?;
        self.resume()
    }

    /// We run again, perhaps in the foreground now.
    fn resume(&mut self) -> Result<()> {
        let foreground = self.owns_keyboard();
        if foreground {
            self.tty_mut(Tty::make_raw)?;
            self.tell_window();
        } else if let Some(tty) = &mut self.tty {
            tty.forget_raw();
        }
        self.say(&ToJob::Continue { foreground });
        Ok(())
    }
}

/// Stops this process as the program was stopped. A stop that came from the
/// keyboard is for the whole pipeline, as the kernel would have it; in an
/// orphaned process group it does nothing, as for any program.
fn stop_ourselves(signal: Signal) -> Result<()> {
    if signal == Signal::SIGSTOP {
        kill(Pid::this(), Signal::SIGSTOP)?;
        return Ok(());
    }
    let mut mask = SigSet::empty();
    mask.add(signal);
    kill(Pid::from_raw(0), signal)?;
    mask.thread_unblock()?;
    mask.thread_block()?;
    Ok(())
}

/// A moment, for [`keys`].
const fn milliseconds(count: i64) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: count * 1_000_000,
    }
}
