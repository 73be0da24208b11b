//! Who takes the connections of a tree, and who makes them.
//!
//! What has been sent through a connection that nobody has accepted is shown to nobody. It
//! is accepted soon, by those who listen: when those who call stand still, until all has been.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{fd, files::FileSource};
use crate::sys::{HostPid, socket};

/// The sockets of a tree at which connections wait.
#[derive(Debug, Default)]
pub struct Backlogs {
    listening: Vec<OwnedFd>,
    /// Processes without such a socket.
    pub callers: Vec<HostPid>,
}

impl Backlogs {
    /// Looks at a tree that runs.
    #[must_use]
    pub fn of(processes: &[FileSource<'_>]) -> Self {
        let mut found = Self::default();
        for source in processes {
            let before = found.listening.len();
            found.listening.extend(listening(source));
            if found.listening.len() == before {
                found.callers.push(source.host);
            }
        }
        found
    }

    /// Whether nobody waits to be accepted.
    #[must_use]
    pub fn are_empty(&self) -> bool {
        !self.listening.iter().any(|socket| {
            let mut poll = [PollFd::new(socket, PollFlags::IN)];
            let polled = rustix::event::poll(&mut poll, Some(&Timespec::default()));
            polled.is_ok() && poll[0].revents().contains(PollFlags::IN)
        })
    }
}

fn listening(source: &FileSource<'_>) -> Vec<OwnedFd> {
    let is_socket = |number: &i32| {
        let link = std::fs::read_link(format!("/proc/{}/fd/{number}", source.host));
        link.is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    };
    let numbers = fd::numbers(source.host).unwrap_or_default().into_iter();
    numbers
        .filter(is_socket)
        .filter_map(|number| source.duplicate(number).ok())
        .filter(|copy| socket::option(copy, libc::SO_ACCEPTCONN).is_ok_and(|on| on != 0))
        .collect()
}
