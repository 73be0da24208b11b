//! Unix sockets: made when the processes exist, since each socket remembers
//! who made its peer (SO_PEERCRED), and filled before any process runs.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Gid, Uid},
    net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType},
    process::{PidfdFlags, PidfdGetfdFlags},
};

use super::{FilesError, Opened};
use crate::{
    api::Obstacle,
    image::{FileId, FileObject, JobImage, UnixCredentials, UnixMessage, UnixPeer, UnixSocket},
    inspect::unix_socket::{BOTH_SHUT, OPTIONS},
    restore::{
        error::{self, RestoreError},
        grow::Husks,
        task::Task,
    },
    sys::{
        remote::{Arg, Batch, Injector},
        socket,
    },
};

/// What a sender may have in a queue while it is filled.
const AMPLE: i32 = i32::MAX / 2;
/// Leaves an ID as it is, for setresuid(2).
const SAME: Arg = Arg::Value(u64::MAX);

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

impl Opened {
    /// Makes pairs of the Unix sockets, which stood alone until now, and fills
    /// them. To be called when every process of the tree exists, and before any
    /// takes its descriptors.
    ///
    /// # Errors
    /// What the kernel says; [`FilesError::Malformed`] for ends that do not fit.
    pub(in crate::restore) fn connect(
        &mut self,
        image: &JobImage,
        husks: &mut Husks,
        (injector, daemon): (Injector, i32),
    ) -> Result<(), RestoreError> {
        let sockets: Vec<End<'_>> = (0..)
            .zip(&image.files)
            .filter_map(|(file, description)| match &description.object {
                FileObject::Unix(state) => Some((file, &**state)),
                _ => None,
            })
            .collect();
        for (file, state) in &sockets {
            let own = self.files[*file as usize].as_fd();
            if let Some(name) = state
                .name
                .as_ref()
                .filter(|_| state.accepted_from.is_none())
            {
                bind(own, name)?;
            }
            if let Some(backlog) = state.backlog {
                let call = (libc::SYS_listen, Arg::from(backlog), Arg::Value(0));
                as_maker(own, state, husks, (injector, daemon), |_| call)?;
            }
        }
        let mut closed = Vec::new();
        for end in &sockets {
            if let Some(from) = end.1.accepted_from {
                let (own, peer) = self.accept(end, from, husks, (injector, daemon), &sockets)?;
                self.files[end.0 as usize] = own;
                closed.extend(peer.map(|peer| (end, peer)));
                continue;
            }
            match end.1.peer {
                UnixPeer::None => {}
                UnixPeer::Closed => {
                    let (own, peer) = pair(end.1, husks, injector)?;
                    self.files[end.0 as usize] = own;
                    closed.push((end, peer));
                }
                UnixPeer::Socket(peer) => {
                    let other = sockets.iter().find(|other| other.0 == peer);
                    let other = other.filter(|other| fit(end, other));
                    let other = other.ok_or(FilesError::Malformed("such peer of a socket"))?;
                    if end.0 < other.0 && other.1.accepted_from.is_none() {
                        let (one, two) = pair(end.1, husks, injector)?;
                        self.files[end.0 as usize] = one;
                        self.files[other.0 as usize] = two;
                    }
                }
            }
        }
        // Descriptors on their way may be sockets: all of them exist by now.
        for (file, state) in &sockets {
            let UnixPeer::Socket(peer) = state.peer else {
                continue;
            };
            let sender = self.files[peer as usize].as_fd();
            self.fill((*file, state), sender, husks)?;
        }
        for ((file, state), peer) in closed {
            self.fill((*file, state), peer.as_fd(), husks)?;
            if state.reset {
                let own = &self.files[*file as usize];
                socket::send(own, &[0], &[], None).map_err(made())?;
            }
        }
        for (file, state) in &sockets {
            let description = &image.files[*file as usize];
            settle(&self.files[*file as usize], state)?;
            super::object::finish(&self.files[*file as usize], description)?;
        }
        Ok(())
    }

    /// Connects to a socket that listens, and accepts: only so does an end have
    /// the address of another socket. The peer is returned if nobody has it open.
    fn accept(
        &self,
        end: &End<'_>,
        from: FileId,
        husks: &mut Husks,
        means: (Injector, i32),
        sockets: &[End<'_>],
    ) -> Result<(OwnedFd, Option<OwnedFd>), RestoreError> {
        let listener = sockets.iter().find(|other| other.0 == from);
        let listener = listener.filter(|other| other.1.backlog.is_some());
        let name = listener.and_then(|other| other.1.name.as_deref());
        let name = name.ok_or(FilesError::Malformed("such listening socket"))?;
        let (client, closed) = match end.1.peer {
            UnixPeer::Socket(peer) => {
                let other = sockets.iter().find(|other| other.0 == peer);
                other
                    .filter(|other| fit(end, other) && other.1.accepted_from.is_none())
                    .ok_or(FilesError::Malformed("such peer of a socket"))?;
                (self.files[peer as usize].as_fd(), None)
            }
            _ => (self.files[from as usize].as_fd(), Some(alone(end.1)?)),
        };
        let client = closed.as_ref().map_or(client, AsFd::as_fd);
        as_maker(client, end.1, husks, means, |batch| {
            let mut address = libc::AF_UNIX.to_ne_bytes()[..2].to_vec();
            address.extend_from_slice(name);
            let length = Arg::Value(address.len() as u64);
            (libc::SYS_connect, Arg::from(batch.data(&address)), length)
        })?;
        let flags = SocketFlags::CLOEXEC;
        let own = rustix::net::accept_with(&self.files[from as usize], flags).map_err(made())?;
        Ok((own, closed))
    }

    /// Sends what a socket had not read yet.
    fn fill(
        &self,
        (file, state): End<'_>,
        sender: BorrowedFd<'_>,
        husks: &Husks,
    ) -> Result<(), FilesError> {
        if state.queue.is_empty() {
            return Ok(());
        }
        let filled = || FilesError::make("what waits in a Unix socket");
        let receiver = &self.files[file as usize];
        socket::set_option(sender, libc::SO_SNDBUFFORCE, AMPLE).map_err(filled())?;
        if state.queue.iter().any(|message| message.sender.is_some()) {
            socket::set_option(receiver, libc::SO_PASSCRED, 1).map_err(filled())?;
        }
        for message in &state.queue {
            self.deliver(message, sender, state.kind, husks)?;
        }
        // Whatever it sends itself is not to carry who it is.
        socket::set_option(receiver, libc::SO_PASSCRED, 0).map_err(filled())
    }

    fn deliver(
        &self,
        message: &UnixMessage,
        sender: BorrowedFd<'_>,
        kind: i32,
        husks: &Husks,
    ) -> Result<(), FilesError> {
        let carried: Option<Vec<BorrowedFd<'_>>> =
            message.files.iter().map(|file| self.file(*file)).collect();
        let carried = carried.ok_or(FilesError::Malformed("such descriptor on its way"))?;
        let credentials = match message.sender {
            None => None,
            Some(UnixCredentials { pid, uid, gid }) => {
                let husk = husks.get(&pid);
                let husk = husk.ok_or(FilesError::Malformed("such sender of a message"))?;
                Some((husk.host().raw(), uid, gid))
            }
        };
        let mut rest = message.bytes.as_slice();
        let mut carried = carried.as_slice();
        loop {
            let sent = socket::send(sender, rest, carried, credentials)
                .map_err(FilesError::make("what waits in a Unix socket"))?;
            rest = &rest[sent..];
            if rest.is_empty() {
                return Ok(());
            }
            if kind != libc::SOCK_STREAM || sent == 0 {
                return Err(FilesError::Malformed("so long a message of a socket"));
            }
            carried = &[];
        }
    }
}

fn fit(one: &End<'_>, other: &End<'_>) -> bool {
    one.0 != other.0
        && one.1.kind == other.1.kind
        && one.1.peer == UnixPeer::Socket(other.0)
        && other.1.peer == UnixPeer::Socket(one.0)
}

/// Takes an abstract address. It belongs to the node's network: someone else
/// may have it here.
fn bind(own: BorrowedFd<'_>, name: &[u8]) -> Result<(), FilesError> {
    let label = || String::from_utf8_lossy(name.get(1..).unwrap_or_default()).into_owned();
    let address = match name.first() {
        Some(0) => SocketAddrUnix::new_abstract_name(&name[1..]).map_err(made())?,
        _ => return Err(FilesError::Malformed("such address of a socket")),
    };
    match rustix::net::bind(own, &address) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ADDRINUSE) => Err(FilesError::Refused(Obstacle {
            pid: None,
            object: format!("abstract socket address @{}", label()),
            reason: "somebody at the destination has it".to_owned(),
            remedy: "end that program, or move to another node".to_owned(),
            transient: false,
        })),
        Err(error) => Err(FilesError::make(format!("the socket address @{}", label()))(error)),
    }
}

/// Makes a call on a socket of the daemon as the process that its peer is told
/// of. The number of the call is followed by its second and third argument.
fn as_maker(
    own: BorrowedFd<'_>,
    state: &UnixSocket,
    husks: &mut Husks,
    (injector, daemon): (Injector, i32),
    call: impl FnOnce(&mut Batch) -> (i64, Arg, Arg),
) -> Result<(), RestoreError> {
    let (maker, husk) = maker(state, husks)?;
    let mut batch = Batch::new();
    let args = [daemon.into(), own.as_raw_fd().into(), 0.into()];
    let fetched = batch.call(libc::SYS_pidfd_getfd, &args);
    let (number, second, third) = call(&mut batch);
    become_user(&mut batch, maker.uid, maker.gid);
    batch.call(number, &[fetched.into(), second, third]);
    become_root(&mut batch);
    batch.call(libc::SYS_close, &[fetched.into()]);
    husk.run(injector, &batch, "take part in a socket")?;
    Ok(())
}

/// A pair, made by the process that its ends are to tell of. Of one that has
/// ended they tell of another process, with the same user and group.
fn pair(
    state: &UnixSocket,
    husks: &mut Husks,
    injector: Injector,
) -> Result<(OwnedFd, OwnedFd), RestoreError> {
    const STEP: &str = "make a pair of sockets";
    kind(state)?;
    let (maker, husk) = maker(state, husks)?;
    let mut batch = Batch::new();
    let place = batch.reserve(8);
    become_user(&mut batch, maker.uid, maker.gid);
    let kind = state.kind | libc::SOCK_CLOEXEC;
    let args = [libc::AF_UNIX.into(), kind.into(), 0.into(), place.into()];
    batch.call(libc::SYS_socketpair, &args);
    become_root(&mut batch);
    let results = husk.run(injector, &batch, STEP)?;
    let raw = rustix::process::Pid::from_raw(husk.host().raw()).expect("a husk has an ID");
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
        .map_err(error::host("open a process of the job"))?;
    let mut closing = Batch::new();
    let mut fetch = |number: u32| {
        let number = number.cast_signed();
        closing.call(libc::SYS_close, &[number.into()]);
        rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).map_err(made())
    };
    let ends = (
        fetch(results.half(place))?,
        fetch(results.half(place.at(4)))?,
    );
    husk.run(injector, &closing, STEP)?;
    Ok(ends)
}

/// The process that SO_PEERCRED of a socket tells of, or one that stands for it.
fn maker<'h>(
    state: &UnixSocket,
    husks: &'h mut Husks,
) -> Result<(UnixCredentials, &'h mut Task), FilesError> {
    let maker = state.credentials.unwrap_or(UnixCredentials {
        pid: 0,
        uid: 0,
        gid: 0,
    });
    let pid = match husks.contains_key(&maker.pid) {
        true => maker.pid,
        false => *husks
            .keys()
            .next()
            .ok_or(FilesError::Malformed("live process"))?,
    };
    let husk = husks.get_mut(&pid).expect("it has just been found");
    Ok((maker, husk))
}

/// The effective user and group, which SO_PEERCRED tells.
fn become_user(batch: &mut Batch, uid: u32, gid: u32) {
    batch.call(libc::SYS_setresgid, &[SAME, gid.into(), SAME]);
    batch.call(libc::SYS_setresuid, &[SAME, uid.into(), SAME]);
}

fn become_root(batch: &mut Batch) {
    batch.call(libc::SYS_setresuid, &[SAME, 0.into(), SAME]);
    batch.call(libc::SYS_setresgid, &[SAME, 0.into(), SAME]);
}

/// All that would have been in the way before.
fn settle(made: &OwnedFd, state: &UnixSocket) -> Result<(), FilesError> {
    options(made, state).map_err(FilesError::make("the options of a Unix socket"))?;
    let (uid, gid) = state.owner;
    rustix::fs::fchown(made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(FilesError::make("the owner of a Unix socket"))?;
    let how = match state.shutdown {
        0 => return Ok(()),
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        BOTH_SHUT => Shutdown::Both,
        _ => return Err(FilesError::Malformed("such state of a socket")),
    };
    match rustix::net::shutdown(made, how) {
        // A closed peer has shut it already, or there has never been one.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(FilesError::make("the state of a Unix socket")(error)),
    }
}

fn options(made: &OwnedFd, state: &UnixSocket) -> io::Result<()> {
    let set = |name, force, wanted: i32| {
        if socket::option(made, name)? / 2 == wanted {
            return Ok(());
        }
        socket::set_option(made, force, wanted)
    };
    set(libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, state.buffers.0)?;
    set(libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, state.buffers.1)?;
    for (name, micros) in [
        (libc::SO_SNDTIMEO, state.timeouts.0),
        (libc::SO_RCVTIMEO, state.timeouts.1),
    ] {
        if socket::timeout(made, name)? != micros {
            socket::set_timeout(made, name, micros)?;
        }
    }
    for (name, value) in &state.options {
        // The image comes from another node.
        if OPTIONS.contains(name) && socket::option(made, *name)? != *value {
            socket::set_option(made, *name, *value)?;
        }
    }
    Ok(())
}
