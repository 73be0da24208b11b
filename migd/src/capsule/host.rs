//! What a restore asks of the capsule: its init, and the job's folder.

use std::{io, os::fd::OwnedFd};

use libmig::{
    api::terminal::Window,
    image::{Stdio, Tty},
    restore::{RestoreHost, StagedName},
};

use super::{ctl::Request, handle::Handle};

/// The file in a job's folder that tells which names its sockets are to get
/// here: a list of [`StagedName`] in postcard.
pub const NAMES: &str = "names";

impl RestoreHost for Handle {
    fn stdio(&mut self, which: Stdio) -> io::Result<OwnedFd> {
        let (_, mut fds) = self
            .ask(&Request::Stdio(which), vec![])
            .map_err(io::Error::other)?;
        fds.pop().ok_or_else(missing)
    }

    fn console(&mut self, tty: &Tty) -> io::Result<OwnedFd> {
        let [rows, columns, x_pixels, y_pixels] = tty.window;
        let request = Request::Console {
            index: tty.index,
            window: Window {
                rows,
                columns,
                x_pixels,
                y_pixels,
            },
            termios: tty.termios.clone(),
        };
        let (_, fds) = self.ask(&request, vec![]).map_err(io::Error::other)?;
        fds.into_iter().next().ok_or_else(missing)
    }

    fn console_master(&mut self) -> io::Result<OwnedFd> {
        let (_, mut fds) = self
            .ask(&Request::ConsoleMaster, vec![])
            .map_err(io::Error::other)?;
        fds.pop().ok_or_else(missing)
    }

    fn names(&mut self, names: &[StagedName]) -> io::Result<()> {
        let bytes = postcard::to_stdvec(names).map_err(io::Error::other)?;
        self.write_down(NAMES, &bytes)
    }
}

fn missing() -> io::Error {
    io::Error::other("the descriptor is missing from the init's answer")
}
