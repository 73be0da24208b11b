//! Unix sockets: made when the processes exist, since each socket remembers
//! who made its peer (SO_PEERCRED), and filled before any process runs.
//!
//! | file | what it does |
//! |---|---|
//! | `make` | calls of the process that a peer is told of |
//! | `name` | addresses |
//! | `fill` | what waits |
//! | `settle` | options and shut directions, last |

mod fill;
mod make;
mod name;
mod settle;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{FilesError, Opened};
use crate::{
    image::{FileId, FileObject, JobImage, UnixPeer, UnixSocket},
    restore::{RestoreHost, error::RestoreError, grow::Husks},
    sys::remote::{Arg, Injector},
};
use make::Target;
use name::Names;

/// What a sender may have in a queue while it is filled.
const AMPLE: i32 = i32::MAX / 2;

/// A socket that stands alone, or for one until its peer is made.
pub(super) fn alone(state: &UnixSocket) -> Result<OwnedFd, FilesError> {
    let kind = kind(state)?;
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    rustix::net::socket_with(family, kind, flags, None).map_err(made())
}

fn kind(state: &UnixSocket) -> Result<SocketType, FilesError> {
    match state.kind {
        libc::SOCK_STREAM => Ok(SocketType::STREAM),
        libc::SOCK_DGRAM => Ok(SocketType::DGRAM),
        libc::SOCK_SEQPACKET => Ok(SocketType::SEQPACKET),
        _ => Err(FilesError::Malformed("such kind of socket")),
    }
}

fn made<E: Into<io::Error>>() -> impl FnOnce(E) -> FilesError {
    FilesError::make("a Unix socket")
}

/// One socket of the image.
type End<'a> = (FileId, &'a UnixSocket);

/// The process that made it, as a rule: an injector, and its descriptor for the daemon.
type Means = (Injector, i32);

impl Opened {
    /// Connects the Unix sockets, which stood alone until now, gives them their
    /// addresses and fills them. To be called when every process of the tree
    /// exists, and before any takes its directories and descriptors.
    ///
    /// # Errors
    /// What the kernel says; [`FilesError::Malformed`] for ends that do not fit;
    /// [`FilesError::Refused`] for an address that somebody has.
    pub(in crate::restore) fn connect(
        &mut self,
        image: &JobImage,
        root: BorrowedFd<'_>,
        host: &mut dyn RestoreHost,
        husks: &mut Husks,
        means: Means,
    ) -> Result<(), RestoreError> {
        let sockets: Vec<End<'_>> = (0..)
            .zip(&image.files)
            .filter_map(|(file, description)| match &description.object {
                FileObject::Unix(state) => Some((file, &**state)),
                _ => None,
            })
            .collect();
        let mut names = Names::stage(root, host, &sockets, &self.names)?;
        self.names.append(&mut names.staged);
        let mut closed = self.pair_all(&sockets, husks, means)?;
        for end in sockets.iter().filter(|end| !was_accepted(end)) {
            let own = self.files[end.0 as usize].as_fd();
            names.bind(end.0, end.1, own)?;
            if let Some(backlog) = end.1.backlog {
                let call = (libc::SYS_listen, Arg::from(backlog), Arg::Value(0));
                make::as_maker(own, end.1, husks, means, |_| call)?;
            }
        }
        for end in sockets.iter().filter(|end| was_accepted(end)) {
            let (own, peer) = self.accept(end, &names, husks, means, &sockets)?;
            self.files[end.0 as usize] = own;
            closed.extend(peer.map(|peer| (*end, peer)));
        }
        for end in &sockets {
            self.call(end, &names, husks, means, &sockets)?;
        }
        self.fill_all(&sockets, closed, &names, husks)?;
        for end in &sockets {
            self.connect_datagrams(end, &names, &sockets)?;
        }
        for (file, state) in &sockets {
            let description = &image.files[*file as usize];
            settle::settle(&self.files[*file as usize], state)?;
            super::object::finish(&self.files[*file as usize], description)?;
        }
        Ok(())
    }

    /// Makes the pairs; returns the other ends of those that only one end is left of.
    fn pair_all<'i>(
        &mut self,
        sockets: &[End<'i>],
        husks: &mut Husks,
        (injector, _): Means,
    ) -> Result<Vec<(End<'i>, OwnedFd)>, RestoreError> {
        let mut closed = Vec::new();
        for end in sockets.iter().filter(|end| !was_accepted(end)) {
            match end.1.peer {
                UnixPeer::None | UnixPeer::Waiting => {}
                UnixPeer::Closed => {
                    let (own, peer) = make::pair(end.1, husks, injector)?;
                    self.files[end.0 as usize] = own;
                    closed.push((*end, peer));
                }
                UnixPeer::Socket(peer) => {
                    let other = sockets.iter().find(|other| other.0 == peer);
                    let other = other.ok_or(FilesError::Malformed("such peer of a socket"))?;
                    if fit(end, other) && end.0 < other.0 && !was_accepted(other) && paired(end) {
                        let (one, two) = make::pair(end.1, husks, injector)?;
                        self.files[end.0 as usize] = one;
                        self.files[other.0 as usize] = two;
                    }
                }
            }
        }
        Ok(closed)
    }

    /// Connects to a socket that listens, and accepts: only so does an end have
    /// the address of another socket. The peer is returned if nobody has it open.
    fn accept(
        &self,
        end: &End<'_>,
        names: &Names,
        husks: &mut Husks,
        means: Means,
        sockets: &[End<'_>],
    ) -> Result<(OwnedFd, Option<OwnedFd>), RestoreError> {
        let name = end.1.name.as_deref();
        let name = name.ok_or(FilesError::Malformed("such address of a socket"))?;
        // Both ends are told of the other's process.
        let heir = match end.1.peer {
            UnixPeer::Socket(peer) => sockets.iter().find(|other| other.0 == peer),
            _ => None,
        };
        let own;
        let (listener, target) = match end.1.accepted_from {
            Some(from) => {
                let found = sockets.iter().find(|other| other.0 == from);
                found
                    .filter(|other| other.1.backlog.is_some() && other.1.name == end.1.name)
                    .ok_or(FilesError::Malformed("such listening socket"))?;
                (
                    self.files[from as usize].as_fd(),
                    names.target(Some(from), name)?,
                )
            }
            None => {
                own = alone(end.1)?;
                names.bind_aside(own.as_fd(), name)?;
                let call = (libc::SYS_listen, Arg::from(1), Arg::Value(0));
                let teller = heir.map_or(end.1, |heir| heir.1);
                make::as_maker(own.as_fd(), teller, husks, means, |_| call)?;
                (own.as_fd(), names.target(None, name)?)
            }
        };
        let closed = match end.1.peer {
            UnixPeer::Socket(_) => None,
            _ => Some(alone(end.1)?),
        };
        let client = match (&closed, end.1.peer) {
            (None, UnixPeer::Socket(peer)) => {
                heir.filter(|other| fit(end, other) && !was_accepted(other))
                    .ok_or(FilesError::Malformed("such peer of a socket"))?;
                self.files[peer as usize].as_fd()
            }
            (closed, _) => closed.as_ref().expect("made above").as_fd(),
        };
        make::connect(client, end.1, &target, husks, means)?;
        let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC).map_err(made())?;
        Ok((accepted, closed))
    }

    /// Connections that nobody has accepted: of those that have been, each was the only
    /// one in the queue.
    fn call(
        &self,
        (listener, state): &End<'_>,
        names: &Names,
        husks: &mut Husks,
        means: Means,
        sockets: &[End<'_>],
    ) -> Result<(), RestoreError> {
        let (Some(name), Some(backlog)) = (state.name.as_deref(), state.backlog) else {
            return Ok(());
        };
        let own = self.files[*listener as usize].as_fd();
        let listen = |many: u32| (libc::SYS_listen, Arg::from(many), Arg::Value(0));
        let many = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        if many > backlog {
            // It was told since to let fewer wait.
            make::as_maker(own, state, husks, means, |_| listen(many))?;
        }
        for call in &state.waiting {
            let caller = sockets.iter().find(|other| other.0 == call.from);
            let caller = caller
                .filter(|one| one.1.kind == state.kind && one.1.peer == UnixPeer::Waiting)
                .ok_or(FilesError::Malformed("such connection that waits"))?;
            let from = self.files[call.from as usize].as_fd();
            // Its own flags come last. There is room, or it would wait for ever.
            rustix::fs::fcntl_setfl(from, OFlags::NONBLOCK).map_err(made())?;
            let maker = UnixSocket {
                credentials: Some(call.by),
                ..caller.1.clone()
            };
            let target = names.target(Some(*listener), name)?;
            make::connect(from, &maker, &target, husks, means)?;
        }
        if many > backlog {
            make::as_maker(own, state, husks, means, |_| listen(backlog))?;
        }
        Ok(())
    }

    /// Connects a datagram socket to the address of another one. Only when that
    /// has been filled: what is connected takes messages of its peer alone.
    fn connect_datagrams(
        &self,
        end: &End<'_>,
        names: &Names,
        sockets: &[End<'_>],
    ) -> Result<(), FilesError> {
        let UnixPeer::Socket(peer) = end.1.peer else {
            return Ok(());
        };
        let other = sockets.iter().find(|other| other.0 == peer);
        let other = other.ok_or(FilesError::Malformed("such peer of a socket"))?;
        if end.1.kind != libc::SOCK_DGRAM || fit(end, other) && paired(end) {
            return Ok(());
        }
        let name = other.1.name.as_deref();
        let name = name.ok_or(FilesError::Malformed("such peer of a socket"))?;
        let address = address(&names.target(Some(peer), name)?).map_err(made())?;
        rustix::net::connect(&self.files[end.0 as usize], &address).map_err(made())
    }
}

/// The address of a socket for this process.
fn address(target: &Target<'_>) -> rustix::io::Result<SocketAddrUnix> {
    match target {
        Target::Abstract(name) => SocketAddrUnix::new_abstract_name(&name[1..]),
        Target::Staged(folder) => name::reach(*folder, name::FILE.as_bytes()),
    }
}

fn was_accepted(end: &End<'_>) -> bool {
    end.1.accepted_from.is_some() || end.1.orphan
}

/// Whether an end with a peer comes of socketpair(2): datagram sockets that
/// were connected by their addresses do not know each other's process.
fn paired(end: &End<'_>) -> bool {
    end.1.kind != libc::SOCK_DGRAM || end.1.credentials.is_some()
}

fn fit(one: &End<'_>, other: &End<'_>) -> bool {
    one.0 != other.0
        && one.1.kind == other.1.kind
        && one.1.peer == UnixPeer::Socket(other.0)
        && other.1.peer == UnixPeer::Socket(one.0)
}
