//! Sockets of AF_UNIX: what the kernel tells about one (sock_diag(7)), and
//! whether it can travel.
//!
//! A pair is two sockets whose inodes name each other. Both have to be in the
//! job, or one of them has to be closed: then all that is left of it is what it
//! sent.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    thread::LinkNameSpaceType,
};

use super::{
    fd,
    refusal::{self, Refusal},
    sock_diag::{self, HEADER, half, word},
    visit,
};
use crate::{image::SocketFile, sys::socket};

/// Options of SOL_SOCKET that are ints and travel as they are; SO_PEEK_OFF and
/// SO_PASSCRED last: they change what reading a queue means.
pub const OPTIONS: [i32; 13] = [
    libc::SO_REUSEADDR,
    libc::SO_DONTROUTE,
    libc::SO_BROADCAST,
    libc::SO_KEEPALIVE,
    libc::SO_OOBINLINE,
    libc::SO_PRIORITY,
    libc::SO_RCVLOWAT,
    libc::SO_TIMESTAMP,
    libc::SO_TIMESTAMPNS,
    libc::SO_NO_CHECK,
    libc::SO_RXQ_OVFL,
    libc::SO_PEEK_OFF,
    libc::SO_PASSCRED,
];
/// Options that add to every message what means nothing on another node.
const FOREIGN_OPTIONS: [(i32, &str); 2] = [
    (libc::SO_PASSSEC, "SO_PASSSEC"),
    (SO_PASSPIDFD, "SO_PASSPIDFD"),
];
const SO_PASSPIDFD: i32 = 76;
/// sk_shutdown with both directions closed.
pub const BOTH_SHUT: u8 = 3;
/// sk_state, as for TCP.
const LISTENING: u8 = 10;

const MESSAGE: usize = HEADER + 16;
/// UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN.
const SHOW: u32 = 1 | 4 | 8 | 0x10;
const NAME: u16 = 0;
const PEER: u16 = 2;
const WAITING: u16 = 3;
const QUEUES: u16 = 4;
const SHUTDOWN: u16 = 6;

/// A socket of AF_UNIX that can travel if its peer can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
    pub kind: i32,
    /// Its address: a path as bind(2) was given it, or a zero and an abstract name.
    pub name: Option<Vec<u8>>,
    /// The file of an address that is a path.
    pub file: Option<SocketFile>,
    /// How many connections may wait, if it listens.
    pub backlog: Option<u32>,
    /// Inodes of those who wait to be accepted from it, the first one first; 0 for a socket
    /// that is closed.
    pub waiting: Vec<u32>,
    /// Something that it has sent has not been read.
    pub unread: bool,
    /// Inode of what it is connected to; 0 for a socket that is closed.
    pub peer: Option<u32>,
    /// sk_shutdown: 1 for receiving, 2 for sending.
    pub shutdown: u8,
    /// An error waits to be told: the peer was closed with something unread.
    pub reset: bool,
}

/// What sock_diag says about one socket.
#[derive(Debug, Default, PartialEq, Eq)]
struct Diag {
    state: u8,
    name: Option<Vec<u8>>,
    /// Connections that wait and how many may, of one that listens.
    queues: (u32, u32),
    waiting: Vec<u32>,
    peer: Option<u32>,
    shutdown: u8,
}

/// Looks at a socket, by a duplicate, without changing it. Below `root` the
/// names of the job are looked up.
///
/// # Errors
/// Why it cannot travel.
pub fn look(fd: &OwnedFd, inode: u64, root: Option<&OwnedFd>) -> Result<Socket, Refusal> {
    let unreadable = |error: io::Error| refusal::socket_unknown(&error.to_string());
    let domain = socket::option(fd, libc::SO_DOMAIN).map_err(unreadable)?;
    let kind = socket::option(fd, libc::SO_TYPE).map_err(unreadable)?;
    if domain != libc::AF_UNIX {
        return Err(refusal::socket(domain, kind, 0));
    }
    for (option, name) in FOREIGN_OPTIONS {
        if socket::option(fd, option).is_ok_and(|value| value != 0) {
            return Err(refusal::socket_option(name));
        }
    }
    if socket::has_filter(fd).map_err(unreadable)? {
        return Err(refusal::socket_option("a packet filter"));
    }
    let elsewhere = visit::elsewhere(fd).map_err(unreadable)?;
    let diag = diag(inode, elsewhere.as_ref()).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => refusal::socket_unknown("it is of another network namespace"),
        _ => unreadable(error),
    })?;
    if elsewhere.is_some()
        && diag
            .name
            .as_ref()
            .is_some_and(|name| name.first() == Some(&0))
    {
        return Err(refusal::socket_elsewhere());
    }
    let events = poll(fd).map_err(unreadable)?;
    let found = Socket {
        kind,
        name: diag.name.clone(),
        file: match &diag.name {
            Some(name) if name.first() != Some(&0) => Some(file(fd, root)?),
            _ => None,
        },
        backlog: (diag.state == LISTENING).then_some(diag.queues.1),
        waiting: diag.waiting.clone(),
        unread: diag.state != LISTENING && socket::unread(fd).map_err(unreadable)? > 0,
        peer: diag.peer,
        shutdown: diag.shutdown,
        reset: events.contains(PollFlags::ERR),
    };
    judge(&found, events.contains(PollFlags::PRI)).map_or(Ok(found), Err)
}

fn judge(found: &Socket, urgent: bool) -> Option<Refusal> {
    let dgram = found.kind == libc::SOCK_DGRAM;
    if urgent {
        return Some(refusal::socket_busy("it holds urgent data (MSG_OOB)"));
    }
    if dgram && found.reset {
        return Some(refusal::socket_busy("an error of it has not been read yet"));
    }
    None
}

/// The file that an address leads to.
fn file(fd: &OwnedFd, root: Option<&OwnedFd>) -> Result<SocketFile, Refusal> {
    let unreadable = |error: io::Error| refusal::socket_unknown(&error.to_string());
    let found = socket::file(fd).map_err(unreadable)?;
    let stat = rustix::fs::fstat(&found).map_err(|error| unreadable(error.into()))?;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let path = std::fs::read_link(link).map_err(unreadable)?;
    let path = path.into_os_string().into_vec();
    let linked = stat.st_nlink > 0;
    let leads = |root| fd::leads_to(root, &path, (stat.st_dev, stat.st_ino));
    if linked && (stat.st_nlink > 1 || !root.is_some_and(leads)) {
        return Err(refusal::misnamed(&String::from_utf8_lossy(&path)));
    }
    let changed = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    Ok(SocketFile {
        path: linked.then_some(path),
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        identity: (
            stat.st_dev,
            stat.st_ino,
            i64::try_from(changed).unwrap_or_default(),
        ),
    })
}

/// Why one of these cannot travel, the others being all that the job has.
#[must_use]
pub fn strayed(socket: &Socket, inode: u32, all: &BTreeMap<u32, Socket>) -> Option<Refusal> {
    if socket.is_calling() && called(socket, inode, all).is_none() {
        let reason = "nobody in the job is to accept its connection";
        return Some(refusal::socket_busy(reason));
    }
    let waits = |caller: &u32| {
        all.get(caller)
            .is_some_and(|one| one.is_calling() && !one.unread)
    };
    if !socket.waiting.iter().all(waits) {
        return Some(refusal::socket_busy(
            "a connection waits to be accepted that has sent something, has ended or is a stranger's",
        ));
    }
    let peer = socket.peer.filter(|peer| *peer != 0)?;
    let other = all.get(&peer).filter(|other| other.kind == socket.kind);
    // Datagram sockets may be connected one way, to an address.
    let reached = |other: &&Socket| {
        let addressed = socket.kind == libc::SOCK_DGRAM && other.name.is_some();
        other.peer == Some(inode) || addressed
    };
    other
        .filter(reached)
        .is_none()
        .then(|| refusal::foreign_socket(inode))
}

impl Socket {
    /// Whether it is connected to what nobody has accepted. The other end of one that is
    /// closed has both directions shut.
    #[must_use]
    pub fn is_calling(&self) -> bool {
        self.peer == Some(0) && self.kind != libc::SOCK_DGRAM && self.shutdown != BOTH_SHUT
    }
}

/// The inode of the socket that one is to be accepted from.
#[must_use]
pub fn called(socket: &Socket, inode: u32, all: &BTreeMap<u32, Socket>) -> Option<u32> {
    let listens = |other: &Socket| other.kind == socket.kind && other.waiting.contains(&inode);
    let mut found = all.iter().filter(|(_, other)| listens(other));
    found
        .next()
        .filter(|_| socket.is_calling())
        .map(|(listener, _)| *listener)
}

/// Whether a socket was accepted from one that is closed: it has an address
/// and a peer that was not accepted itself.
#[must_use]
pub fn is_orphan(socket: &Socket, all: &BTreeMap<u32, Socket>) -> bool {
    let accepted = socket.kind != libc::SOCK_DGRAM && !socket.is_calling();
    let Some(peer) = socket.peer.filter(|_| accepted) else {
        return false;
    };
    let accepted = |other| listener(other, all).is_some();
    let bound_client = all.get(&peer).is_some_and(accepted);
    socket.name.is_some() && listener(socket, all).is_none() && !bound_client
}

/// The inode of the socket that a connected one was accepted from.
#[must_use]
pub fn listener(socket: &Socket, all: &BTreeMap<u32, Socket>) -> Option<u32> {
    let accepted = |other: &&Socket| {
        other.backlog.is_some() && (other.kind, &other.name) == (socket.kind, &socket.name)
    };
    socket.peer?;
    socket.name.as_ref()?;
    all.iter()
        .find_map(|(inode, other)| accepted(&other).then_some(*inode))
}

fn poll(fd: &OwnedFd) -> io::Result<PollFlags> {
    let mut poll = [PollFd::new(fd, PollFlags::PRI)];
    rustix::event::poll(&mut poll, Some(&Timespec::default()))?;
    Ok(poll[0].revents())
}

/// By its inode, in its network namespace where that is not the daemon's.
fn diag(inode: u64, elsewhere: Option<&File>) -> io::Result<Diag> {
    let inode = u32::try_from(inode).map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
    let ask = || sock_diag::ask(&request(inode));
    let answer = match elsewhere {
        Some(namespace) => visit::within(namespace, LinkNameSpaceType::Network, ask)?,
        None => ask()?,
    };
    parse(&answer)
}

/// struct unix_diag_req for one inode, whatever its cookie.
fn request(inode: u32) -> Vec<u8> {
    let any = u32::MAX;
    let family = libc::AF_UNIX.to_ne_bytes()[0];
    let mut body = vec![family, 0, 0, 0];
    for word in [any, inode, SHOW, any, any] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// struct nlmsghdr, struct unix_diag_msg, attributes.
fn parse(answer: &[u8]) -> io::Result<Diag> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let mut diag = Diag {
        state: *answer.get(HEADER + 2).ok_or_else(malformed)?,
        ..Diag::default()
    };
    let mut at = MESSAGE;
    while at + 4 <= answer.len() {
        let length = usize::from(half(answer, at).ok_or_else(malformed)?);
        let kind = half(answer, at + 2).ok_or_else(malformed)?;
        let value = answer.get(at + 4..at + length).ok_or_else(malformed)?;
        match kind {
            // The kernel counts the zero behind a path.
            NAME if value.first() != Some(&0) => {
                let path = value.split(|byte| *byte == 0).next();
                diag.name = path.map(<[u8]>::to_vec);
            }
            NAME => diag.name = Some(value.to_vec()),
            QUEUES => {
                let queue = |at| word(value, at).ok_or_else(malformed);
                diag.queues = (queue(0)?, queue(4)?);
            }
            WAITING => {
                let words = value.chunks_exact(4);
                diag.waiting = words.filter_map(|inode| word(inode, 0)).collect();
            }
            PEER => diag.peer = Some(word(value, 0).ok_or_else(malformed)?),
            SHUTDOWN => diag.shutdown = *value.first().ok_or_else(malformed)?,
            _ => {}
        }
        at += length.max(4).next_multiple_of(4);
    }
    Ok(diag)
}

/// Bytes that wait in a stream, or in all messages of a SOCK_SEQPACKET.
///
/// # Errors
/// What FIONREAD says.
pub fn waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let waiting = rustix::io::ioctl_fionread(fd.as_fd())?;
    Ok(usize::try_from(waiting).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::AsFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    };

    use super::*;

    fn see(fd: impl AsFd) -> (u32, Result<Socket, Refusal>) {
        let inode = rustix::fs::fstat(&fd).unwrap().st_ino;
        let copy = fd.as_fd().try_clone_to_owned().unwrap();
        let root = super::fd::root(crate::sys::HostPid::own()).unwrap();
        (
            u32::try_from(inode).unwrap(),
            look(&copy, inode, Some(&root)),
        )
    }

    #[test]
    fn the_ends_of_a_pair_name_each_other() {
        let (one, other) = UnixStream::pair().unwrap();
        let ((a, left), (b, right)) = (see(&one), see(&other));
        let (left, right) = (left.unwrap(), right.unwrap());
        assert_eq!((left.peer, right.peer), (Some(b), Some(a)));
        let both = BTreeMap::from([(a, left.clone()), (b, right)]);
        assert_eq!(strayed(&left, a, &both), None);
        let alone = BTreeMap::from([(a, left.clone())]);
        assert_eq!(strayed(&left, a, &alone), Some(refusal::foreign_socket(a)));
        drop(other);
        let left = see(&one).1.unwrap();
        assert_eq!((left.peer, left.shutdown), (Some(0), BOTH_SHUT));
        assert_eq!(
            strayed(&left, a, &BTreeMap::from([(a, left.clone())])),
            None
        );
    }

    #[test]
    fn shutdowns_and_resets_are_seen() {
        let (mut one, other) = UnixStream::pair().unwrap();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(see(&one).1.unwrap().shutdown, 1);
        assert_eq!(see(&other).1.unwrap().shutdown, 2);
        std::io::Write::write_all(&mut one, b"unread").unwrap();
        drop(other);
        assert!(see(&one).1.unwrap().reset);
    }

    #[test]
    fn what_was_accepted_knows_its_listener() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("mig-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let client = UnixStream::connect_addr(&address).unwrap();
        let [listens, calls] =
            [see(&listener), see(&client)].map(|(inode, found)| (inode, found.unwrap()));
        let both = BTreeMap::from([listens.clone(), calls.clone()]);
        assert_eq!(listens.1.waiting, [calls.0]);
        assert_eq!(called(&calls.1, calls.0, &both), Some(listens.0));
        for (inode, socket) in &both {
            assert_eq!(strayed(socket, *inode, &both), None);
            let alone = BTreeMap::from([(*inode, socket.clone())]);
            assert!(strayed(socket, *inode, &alone).unwrap().transient);
        }
        let (server, _) = listener.accept().unwrap();
        let ends = [see(&listener), see(&client), see(&server)];
        let all: BTreeMap<u32, Socket> = ends
            .iter()
            .map(|(inode, found)| (*inode, found.clone().unwrap()))
            .collect();
        for (inode, socket) in &all {
            assert_eq!(strayed(socket, *inode, &all), None);
        }
        assert!(all[&ends[0].0].backlog.is_some());
        assert_eq!(super::listener(&all[&ends[2].0], &all), Some(ends[0].0));
        assert_eq!(super::listener(&all[&ends[1].0], &all), None);
        let left: BTreeMap<u32, Socket> = all
            .iter()
            .filter(|(inode, _)| **inode != ends[0].0)
            .map(|(inode, socket)| (*inode, socket.clone()))
            .collect();
        assert_eq!(strayed(&left[&ends[2].0], ends[2].0, &left), None);
        assert!(is_orphan(&left[&ends[2].0], &left));
        assert!(!is_orphan(&all[&ends[2].0], &all));
        assert!(!is_orphan(&all[&ends[1].0], &all));
    }

    #[test]
    fn a_path_is_kept_as_it_was_given_and_found_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let found = see(&listener).1.unwrap();
        let wanted = Some(path.as_os_str().as_encoded_bytes().to_vec());
        assert_eq!(found.name, wanted);
        assert_eq!(found.file.unwrap().path, wanted);
        let aside = folder.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let moved = see(&listener).1.unwrap();
        assert_eq!(moved.name, wanted);
        let wanted = Some(aside.as_os_str().as_encoded_bytes().to_vec());
        assert_eq!(moved.file.unwrap().path, wanted);
        std::fs::hard_link(&aside, &path).unwrap();
        assert!(see(&listener).1.unwrap_err().reason.contains("other links"));
        std::fs::remove_file(&aside).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(see(&listener).1.unwrap().file.unwrap().path, None);
    }

    #[test]
    fn a_datagram_socket_may_be_connected_one_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("named");
        let (named, client) = (
            UnixDatagram::bind(&path).unwrap(),
            UnixDatagram::unbound().unwrap(),
        );
        client.connect(&path).unwrap();
        let ends = [see(&named), see(&client)];
        let all: BTreeMap<u32, Socket> = ends
            .iter()
            .map(|(inode, found)| (*inode, found.clone().unwrap()))
            .collect();
        for (inode, socket) in &all {
            assert_eq!(strayed(socket, *inode, &all), None);
        }
        let alone = BTreeMap::from([(ends[1].0, all[&ends[1].0].clone())]);
        assert_eq!(
            strayed(&alone[&ends[1].0], ends[1].0, &alone),
            Some(refusal::foreign_socket(ends[1].0))
        );
    }

    #[test]
    fn what_is_not_carried_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(see(&listener).1.unwrap().backlog.is_some());
        let mut waiting = UnixStream::connect(&path).unwrap();
        std::io::Write::write_all(&mut waiting, b"early").unwrap();
        let ends = [see(&listener), see(&waiting)].map(|(inode, found)| (inode, found.unwrap()));
        let (inode, listens) = &ends[0];
        let refusal = strayed(listens, *inode, &BTreeMap::from(ends.clone()));
        assert!(
            refusal.unwrap().transient,
            "nobody can see what it has sent"
        );
        let network = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            see(&network).1,
            Err(refusal::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))
        );
        drop(waiting);
        let fresh = UnixDatagram::unbound().unwrap();
        assert_eq!(see(&fresh).1.unwrap().peer, None);
    }
}
