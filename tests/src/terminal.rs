//! A user at a terminal: types, reads the screen, and changes the size of the window.
//!
//! The program gets a session of its own with a pty for its terminal. All that it writes
//! is kept; [`Terminal::expect`] goes through it from front to back.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::{OpenptyResult, openpty};
use rustix::termios::{Winsize, tcsetwinsize};

/// How long a program may take to write what it is waited for. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Screen {
    written: Vec<u8>,
    ended: bool,
}

type Shared = Arc<(Mutex<Screen>, Condvar)>;

/// A terminal with a program in it. The program is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Shared,
    /// How much of what was written has been expected.
    read: usize,
}

impl Terminal {
    /// Starts a program with this command line in a new session with a terminal of 24 lines and 80 columns.
    ///
    /// # Errors
    /// There is no pty, or the program cannot be started.
    pub fn start(command: &Command) -> Result<Self> {
        let OpenptyResult { master, slave } = openpty(None, None)?;
        let stdio = || slave.try_clone().map(Stdio::from);
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]);
        // No escape sequences of readline between the words.
        session.env("TERM", "dumb");
        session.arg(command.get_program()).args(command.get_args());
        let child = session.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
        let child = child.spawn().context("starting setsid")?;
        drop((session, slave));
        let keyboard = File::from(master);
        let screen = Shared::default();
        let (output, shared) = (keyboard.try_clone()?, Arc::clone(&screen));
        std::thread::spawn(move || read_all(output, &shared));
        let terminal = Self {
            child,
            keyboard,
            screen,
            read: 0,
        };
        terminal.resize(24, 80)?;
        Ok(terminal)
    }

    /// Types; `\r` is the return key.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("typing")
    }

    /// Gives the window another size, as a window manager does.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resize(&self, lines: u16, columns: u16) -> Result<()> {
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.keyboard, size).context("resizing")
    }

    /// Waits until `text` has been written after all that was expected before, and returns what came before it.
    ///
    /// # Errors
    /// It does not come; the message says what came.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let (mutex, changed) = &*self.screen;
        let mut screen = lock(mutex);
        loop {
            let new = &screen.written[self.read..];
            if let Some(at) = find(new, text.as_bytes()) {
                let before = String::from_utf8_lossy(&new[..at]).into_owned();
                self.read += at + text.len();
                return Ok(before);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if screen.ended || left.is_zero() {
                let how = if screen.ended { "its end" } else { "30 s" };
                let seen = String::from_utf8_lossy(&screen.written).into_owned();
                bail!(
                    "no {text:?} until {how}; after byte {} of {seen:?}",
                    self.read
                );
            }
            screen = changed
                .wait_timeout(screen, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the program's end; returns how it ended, and all that it wrote.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait(mut self) -> Result<(ExitStatus, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            let late = Instant::now() >= deadline;
            ensure!(!late, "it does not end; it wrote {:?}", self.written());
            std::thread::sleep(Duration::from_millis(2));
        };
        let (mutex, changed) = &*self.screen;
        let screen = lock(mutex);
        let (mut screen, _) = changed
            .wait_timeout_while(screen, PATIENCE, |screen| !screen.ended)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok((status, std::mem::take(&mut screen.written)))
    }

    /// Whether the program has ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// All that has been written so far.
    #[must_use]
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&lock(&self.screen.0).written).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // What is in the terminal hears of its end by SIGHUP.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_all(mut output: File, shared: &Shared) {
    let mut bytes = [0; 4096];
    // EIO is how a terminal tells that nobody has it open any more.
    while let Ok(length @ 1..) = output.read(&mut bytes) {
        lock(&shared.0).written.extend_from_slice(&bytes[..length]);
        shared.1.notify_all();
    }
    lock(&shared.0).ended = true;
    shared.1.notify_all();
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

fn lock(screen: &Mutex<Screen>) -> MutexGuard<'_, Screen> {
    screen
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
