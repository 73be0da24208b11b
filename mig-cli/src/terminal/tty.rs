//! The user's terminal: which descriptor it is, its modes, and the way back.
//!
//! Invariant: modes that were changed are put back when the value is dropped, also by a panic.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use libmig::api::{
    exec::{StdioKind, TerminalRequest},
    terminal::Window,
    termios,
};
use rustix::{
    process::getpgrp,
    termios::{
        OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
    },
};

/// The user's terminal.
#[derive(Debug)]
pub(crate) struct Tty {
    output: OwnedFd,
    input: Option<OwnedFd>,
    /// Modes of before, while it is raw.
    before: Option<Termios>,
}

/// Which of 0, 1 and 2 are terminals.
pub(crate) fn standard_streams() -> [StdioKind; 3] {
    let kind = |is_terminal: bool| match is_terminal {
        true => StdioKind::Terminal,
        false => StdioKind::Descriptor,
    };
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
    .map(kind)
}

impl Tty {
    /// The terminal among 0, 1 and 2, if there is one. Keys come from 0, or, where that is
    /// no terminal, from `/dev/tty`.
    pub(crate) fn find() -> Option<Tty> {
        let [stdin, stdout, stderr] = standard_streams().map(|kind| kind == StdioKind::Terminal);
        let output = match (stdout, stderr, stdin) {
            (true, _, _) => duplicate(io::stdout().as_fd()),
            (_, true, _) => duplicate(io::stderr().as_fd()),
            (_, _, true) => duplicate(io::stdin().as_fd()),
            _ => None,
        }?;
        let input = if stdin {
            duplicate(io::stdin().as_fd())
        } else {
            OpenOptions::new()
                .read(true)
                .open("/dev/tty")
                .ok()
                .map(File::into)
        };
        Some(Tty {
            output,
            input,
            before: None,
        })
    }

    /// What the job's terminal is to be like. `foreground`: the program owns it at once.
    /// Else the modes of now are those of the shell's line editor, which the program would
    /// not see when its turn comes.
    pub(crate) fn request(&self, foreground: bool) -> TerminalRequest {
        let modes = tcgetattr(&self.output).map(|modes| match foreground {
            true => modes,
            false => termios::cooked(modes),
        });
        TerminalRequest {
            window: self.window().unwrap_or_default(),
            termios: modes
                .map(|modes| termios::to_bytes(&modes))
                .unwrap_or_default(),
            foreground,
        }
    }

    pub(crate) fn window(&self) -> Option<Window> {
        let size = tcgetwinsize(&self.output).ok()?;
        Some(Window {
            rows: size.ws_row,
            columns: size.ws_col,
            x_pixels: size.ws_xpixel,
            y_pixels: size.ws_ypixel,
        })
    }

    /// Whether our process group is the one that the terminal belongs to.
    pub(crate) fn in_foreground(&self) -> bool {
        tcgetpgrp(&self.output).is_ok_and(|group| group == getpgrp())
    }

    pub(crate) fn is_raw(&self) -> bool {
        self.before.is_some()
    }

    /// Passes every key on. Only for a terminal that is in our foreground.
    pub(crate) fn make_raw(&mut self) -> io::Result<()> {
        if self.is_raw() {
            return Ok(());
        }
        let before = tcgetattr(&self.output)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&self.output, OptionalActions::Drain, &raw)?;
        self.before = Some(before);
        Ok(())
    }

    /// Puts the modes back.
    pub(crate) fn restore(&mut self) {
        if let Some(before) = self.before.take()
            && self.in_foreground()
        {
            // The terminal may be gone; then there is nothing to restore.
            tcsetattr(&self.output, OptionalActions::Drain, &before).ok();
        }
    }

    /// The shell has taken the terminal, and set its own modes.
    pub(crate) fn forget_raw(&mut self) {
        self.before = None;
    }

    pub(crate) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    /// Shows bytes. A terminal that is gone shows nothing.
    pub(crate) fn write(&self, bytes: &[u8]) {
        if self.adds_returns() {
            self.write_all(&without_returns(bytes));
        } else {
            self.write_all(bytes);
        }
    }

    /// Whether the terminal writes a return before each newline, as the job's own has done already: it is not
    /// raw while the keyboard is someone else's.
    fn adds_returns(&self) -> bool {
        let both = OutputModes::OPOST | OutputModes::ONLCR;
        tcgetattr(&self.output).is_ok_and(|modes| modes.output_modes.contains(both))
    }

    fn write_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(&self.output, bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(rustix::io::Errno::INTR) => (),
                Err(rustix::io::Errno::AGAIN) => wait_writable(&self.output),
                Err(_) => return,
            }
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Takes the returns away that the job's terminal wrote before newlines.
fn without_returns(bytes: &[u8]) -> Vec<u8> {
    let next = bytes.iter().skip(1).map(Some).chain([None]);
    let pairs = bytes.iter().zip(next);
    let kept = pairs.filter(|pair| *pair != (&b'\r', Some(&b'\n')));
    kept.map(|(byte, _)| *byte).collect()
}

/// Someone else may have made the terminal non-blocking.
fn wait_writable(fd: &OwnedFd) {
    let flags = rustix::event::PollFlags::OUT;
    let mut set = [rustix::event::PollFd::new(fd, flags)];
    rustix::event::poll(&mut set, None).ok();
}

fn duplicate(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    fd.try_clone_to_owned().ok()
}

#[cfg(test)]
mod tests {
    use super::without_returns;

    #[test]
    fn one_return_before_each_newline_is_taken_away() {
        assert_eq!(without_returns(b"a\r\nb\rc\r\r\n\n\r"), b"a\nb\rc\r\n\n\r");
        assert_eq!(without_returns(b""), b"");
    }
}
