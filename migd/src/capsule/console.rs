//! The job's own terminal: a pty of the capsule whose master the init holds.
//!
//! The init keeps a slave open as well: so the master never reports a hang-up
//! between two programs, and the init can change the foreground group.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use libmig::api::{terminal::Window, termios};
use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    io::FdFlags,
    process::Pid,
    pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt},
    termios::{OptionalActions, Winsize},
};

/// Highest pty index that is tried for: far above what anyone uses.
const MAX_INDEX: u32 = 4096;

/// Both sides of a pty.
#[derive(Debug)]
pub(crate) struct Console {
    master: OwnedFd,
    slave: OwnedFd,
    index: u32,
}

impl Console {
    /// The pty with the lowest free index; its slave belongs to `owner`.
    pub(crate) fn open(owner: u32) -> Result<Console> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())
            .context("the capsule has no /dev/pts/ptmx")?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let index = name.to_str()?.trim_start_matches("/dev/pts/").parse()?;
        // Not with CLOEXEC: unlike open(2), TIOCGPTPEER leaves that bit in the flags of the open
        // file description, and every duplicate would seem to be close-on-exec in
        // /proc/PID/fdinfo for ever.
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::io::fcntl_setfd(&slave, FdFlags::CLOEXEC)?;
        rustix::fs::fchown(&slave, Some(Uid::from_raw(owner)), None::<Gid>)?;
        Ok(Console {
            master,
            slave,
            index,
        })
    }

    /// The pty with exactly this index.
    pub(crate) fn open_at(index: u32, owner: u32) -> Result<Console> {
        ensure!(index < MAX_INDEX, "pty index {index} is beyond {MAX_INDEX}");
        // devpts hands out the lowest free index: hold the ones below.
        let mut below = Vec::new();
        loop {
            let console = Console::open(owner)?;
            if console.index == index {
                return Ok(console);
            }
            ensure!(console.index < index, "pty index {index} is taken");
            below.push(console);
        }
    }

    /// Makes it the controlling terminal of the calling session leader.
    pub(crate) fn control(&self) -> io::Result<()> {
        Ok(rustix::process::ioctl_tiocsctty(&self.slave)?)
    }

    /// struct termios2 as bytes; anything else leaves the kernel's defaults.
    pub(crate) fn set_modes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut modes = rustix::termios::tcgetattr(&self.slave)?;
        if termios::apply(bytes, &mut modes).is_some() {
            rustix::termios::tcsetattr(&self.slave, OptionalActions::Now, &modes)?;
        }
        Ok(())
    }

    /// The kernel tells the foreground group (SIGWINCH).
    pub(crate) fn set_window(&self, window: Window) -> io::Result<()> {
        let size = Winsize {
            ws_row: window.rows,
            ws_col: window.columns,
            ws_xpixel: window.x_pixels,
            ws_ypixel: window.y_pixels,
        };
        Ok(rustix::termios::tcsetwinsize(&self.master, size)?)
    }

    /// The foreground process group, if it has one.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        rustix::termios::tcgetpgrp(&self.slave).ok()
    }

    /// Needs SIGTTOU blocked, as the init has it.
    pub(crate) fn set_foreground(&self, group: Pid) -> io::Result<()> {
        Ok(rustix::termios::tcsetpgrp(&self.slave, group)?)
    }

    /// Output that is there; empty when there is none.
    pub(crate) fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; limit];
        let length = match rustix::io::read(&self.master, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Hands typed bytes to the line discipline; returns how many it took.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.master, bytes) {
            Ok(length) => Ok(length),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Another descriptor of the slave.
    pub(crate) fn slave(&self) -> io::Result<OwnedFd> {
        self.slave.try_clone()
    }

    /// Another descriptor of the master.
    pub(crate) fn master(&self) -> io::Result<OwnedFd> {
        self.master.try_clone()
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}
