//! Between the caller's terminal and a command in a node: bytes, window size, signals, exit status.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write, stdin, stdout},
    os::{
        fd::AsFd,
        unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// What a command in a node gets when the caller gets it.
const FORWARDED: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
];

/// No more input is read than this until the command has taken it.
const MAX_PENDING: usize = 64 << 10;

/// Blocks the signals that [`accompany`] deals with. A child inherits that and must undo it.
pub(crate) fn block_signals() -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in FORWARDED
        .into_iter()
        .chain([Signal::SIGCHLD, Signal::SIGWINCH])
    {
        mask.add(signal);
    }
    mask.thread_block().context("block signals")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("make a signalfd")
}

/// A terminal of the node.
pub(crate) struct Pty {
    master: File,
    slave: PathBuf,
}

impl Pty {
    /// Opens a new one in the `/dev/pts` below `root`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let master = open_terminal(&root.join("dev/ptmx")).context("open the node's /dev/ptmx")?;
        rustix::pty::unlockpt(&master).context("unlock the terminal")?;
        let name = rustix::pty::ptsname(&master, Vec::new()).context("name the terminal")?;
        let name = name.to_string_lossy();
        let slave = root.join(name.trim_start_matches('/'));
        Ok(Self { master, slave })
    }

    /// Makes it the command's stdin, stdout and stderr.
    pub(crate) fn attach(&self, command: &mut Command) -> Result<()> {
        let open = || open_terminal(&self.slave).context("open the node's terminal");
        command.stdin(open()?).stdout(open()?).stderr(open()?);
        self.copy_window_size();
        Ok(())
    }

    fn copy_window_size(&self) {
        // Only a nicety: a terminal without a size is one too.
        let _ = tcgetwinsize(stdin()).and_then(|size| tcsetwinsize(&self.master, size));
    }
}

fn open_terminal(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NOCTTY)
        .open(path)
}

/// Stays with the command until it ends.
pub(crate) fn accompany(
    mut child: Child,
    signals: &SignalFd,
    pty: Option<Pty>,
) -> Result<ExitCode> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid that is none")?);
    let mut relay = pty.map(Relay::start).transpose()?;
    loop {
        match &mut relay {
            Some(relay) => relay.turn(signals)?,
            None => wait_readable(signals)?,
        }
        while let Some(info) = signals.read_signal().context("read a signal")? {
            let signal = i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|n| Signal::try_from(n).ok());
            match (signal, &relay) {
                (Some(Signal::SIGWINCH), Some(relay)) => relay.pty.copy_window_size(),
                (Some(signal), _) if FORWARDED.contains(&signal) => {
                    // It may have ended; it has not been waited for, so its pid is still its own.
                    let _ = kill(pid, signal);
                }
                _ => {}
            }
        }
        if let Some(status) = child.try_wait().context("wait for the command")? {
            if let Some(relay) = &mut relay {
                relay.drain()?;
            }
            return Ok(exit_code(status));
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn wait_readable(signals: &SignalFd) -> Result<()> {
    match poll(
        &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    ) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error).context("wait for the command"),
    }
}

/// Carries bytes between two terminals.
struct Relay {
    pty: Pty,
    saved: Termios,
    pending: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Relay {
    /// Puts the caller's terminal into raw mode until dropped.
    fn start(pty: Pty) -> Result<Self> {
        rustix::io::ioctl_fionbio(&pty.master, true).context("prepare the terminal")?;
        let saved = tcgetattr(stdin()).context("read the terminal's modes")?;
        // The node's terminal begins with the caller's modes, as ssh does it.
        tcsetattr(&pty.master, OptionalActions::Now, &saved).context("set the terminal's modes")?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("set the terminal's modes")?;
        Ok(Self {
            pty,
            saved,
            pending: Vec::new(),
            input_open: true,
            output_open: true,
        })
    }

    /// Waits for something to do and does it.
    fn turn(&mut self, signals: &SignalFd) -> Result<()> {
        let none = PollFlags::empty();
        let stdin_events = match self.input_open && self.pending.len() < MAX_PENDING {
            true => PollFlags::POLLIN,
            false => none,
        };
        let input = stdin();
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(input.as_fd(), stdin_events),
        ];
        if self.output_open {
            let write = if self.pending.is_empty() {
                none
            } else {
                PollFlags::POLLOUT
            };
            fds.push(PollFd::new(
                self.pty.master.as_fd(),
                PollFlags::POLLIN | write,
            ));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("wait for the terminal"),
        }
        let input_ready = !stdin_events.is_empty() && fds[1].any().unwrap_or(false);
        let master_ready = fds.get(2).and_then(PollFd::any).unwrap_or(false);
        if input_ready {
            self.take_input();
        }
        if master_ready {
            self.give_input();
            self.take_output()?;
        }
        Ok(())
    }

    fn take_input(&mut self) {
        let mut bytes = [0; 4096];
        match stdin().lock().read(&mut bytes) {
            Ok(0) => self.input_open = false,
            Ok(count) => self.pending.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The caller's terminal is gone; the hangup comes as a signal.
            Err(_) => self.input_open = false,
        }
    }

    fn give_input(&mut self) {
        if let Ok(count) = (&self.pty.master).write(&self.pending) {
            self.pending.drain(..count);
        }
    }

    fn take_output(&mut self) -> Result<bool> {
        let mut bytes = [0; 16 << 10];
        match (&self.pty.master).read(&mut bytes) {
            Ok(count) if count > 0 => {
                let mut out = stdout().lock();
                out.write_all(&bytes[..count])
                    .and_then(|()| out.flush())
                    .context("write to the terminal")?;
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // EIO: nobody has the other side open any more.
            _ => self.output_open = false,
        }
        Ok(false)
    }

    /// Shows what the command left in the terminal when it ended.
    fn drain(&mut self) -> Result<()> {
        while self.take_output()? {}
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.saved);
    }
}
