//! TCP and UDP sockets: what the kernel tells about one, and whether it can travel.
//!
//! A TCP connection travels with both its ends, or with the only one that a
//! process has: nothing is read from it but what its ends would read. At the
//! destination it is made anew with the same addresses, and filled.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{getpeername, getsockname},
};

use super::{
    inet_diag::{self, Connection},
    refusal::{self, Refusal},
    visit,
};
use crate::sys::{socket, tcp};

/// Options that are ints and travel as they are, by level and number.
pub const OPTIONS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_NO_CHECK),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
    (libc::IPPROTO_UDP, libc::UDP_GRO),
    // IP_TOS sets it, too.
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
];
/// tcpi_state.
pub(super) mod state {
    pub(in super::super) const ESTABLISHED: u8 = 1;
    pub(in super::super) const FIN_WAIT1: u8 = 4;
    pub(in super::super) const FIN_WAIT2: u8 = 5;
    pub(in super::super) const CLOSE: u8 = 7;
    pub(in super::super) const CLOSE_WAIT: u8 = 8;
    pub(in super::super) const LISTEN: u8 = 10;
}

/// An internet socket that can travel if its peer can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inet {
    /// AF_INET6.
    pub v6: bool,
    /// TCP, not UDP.
    pub stream: bool,
    /// Multipath TCP: it listens, or has never been connected.
    pub multipath: bool,
    /// Its address; none without a port.
    pub local: Option<SocketAddr>,
    /// What it is connected to.
    pub remote: Option<SocketAddr>,
    /// How many connections wait and how many may, if it listens.
    pub backlog: Option<(u32, u32)>,
    /// It has closed its direction.
    pub shut: bool,
    /// It was told to receive nothing any more.
    pub deaf: bool,
    /// Its connection is over.
    pub over: bool,
    /// The other end has closed its direction.
    ended: bool,
    /// Bytes that it has sent, and received.
    passed: (u64, u64),
    /// Something that it has sent has not been acknowledged.
    pending: bool,
}

/// The other end of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// A socket of the job, by its inode.
    Held(u32),
    /// No process has it any more.
    Closed,
    /// It waits to be accepted from a socket of the job, by its inode.
    Waiting(u32),
}

/// Looks at a socket, by a duplicate, without changing it.
///
/// # Errors
/// Why it cannot travel.
pub fn look(fd: &OwnedFd) -> Result<Inet, Refusal> {
    let unreadable = |error: io::Error| refusal::socket_unknown(&error.to_string());
    let option = |name| socket::option(fd, name).map_err(unreadable);
    let (domain, kind) = (option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?);
    let protocol = option(libc::SO_PROTOCOL)?;
    let multipath = protocol == libc::IPPROTO_MPTCP;
    let stream = kind == libc::SOCK_STREAM && (multipath || protocol == libc::IPPROTO_TCP);
    let datagrams = (kind, protocol) == (libc::SOCK_DGRAM, libc::IPPROTO_UDP);
    let internet = matches!(domain, libc::AF_INET | libc::AF_INET6);
    if !internet || !(stream || datagrams) {
        return Err(refusal::socket(domain, kind, protocol));
    }
    if visit::elsewhere(fd).map_err(unreadable)?.is_some() {
        return Err(refusal::socket_elsewhere());
    }
    if socket::has_filter(fd).map_err(unreadable)? {
        return Err(refusal::socket_option("a packet filter"));
    }
    for name in [libc::SO_BINDTOIFINDEX, libc::SO_PEEK_OFF] {
        if option(name).is_ok_and(|value| value > 0) {
            return Err(refusal::socket_option("SO_BINDTODEVICE or SO_PEEK_OFF"));
        }
    }
    let mut found = Inet {
        v6: domain == libc::AF_INET6,
        stream,
        multipath,
        local: getsockname(fd).ok().and_then(|any| any.try_into().ok()),
        remote: getpeername(fd)
            .ok()
            .flatten()
            .and_then(|any| any.try_into().ok()),
        backlog: None,
        shut: false,
        deaf: false,
        over: false,
        ended: false,
        passed: (0, 0),
        pending: false,
    };
    found.local = found.local.filter(|local| local.port() != 0);
    let scoped = |address: &SocketAddr| matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    if found.local.iter().chain(&found.remote).any(scoped) {
        return Err(refusal::socket_option("a link-local address"));
    }
    let events = poll(fd).map_err(unreadable)?;
    if events.intersects(PollFlags::ERR | PollFlags::PRI) {
        return Err(refusal::socket_busy("it holds an error or urgent data"));
    }
    if stream {
        connection(fd, &mut found, events)?;
    }
    Ok(found)
}

/// The state of a TCP socket.
fn connection(fd: &OwnedFd, found: &mut Inet, events: PollFlags) -> Result<(), Refusal> {
    let unreadable = |error: io::Error| refusal::socket_unknown(&error.to_string());
    let info = tcp::tcp_info(fd).map_err(unreadable)?;
    if found.multipath && !matches!(info.state, state::LISTEN | state::CLOSE) {
        return Err(refusal::multipath());
    }
    if !found.multipath && tcp::has_upper_protocol(fd) {
        return Err(refusal::socket_option("TCP_ULP"));
    }
    let deaf = events.contains(PollFlags::RDHUP);
    match info.state {
        state::LISTEN => found.backlog = Some((info.unacked, info.sacked)),
        state::CLOSE => {
            found.over = deaf;
            found.remote = None;
        }
        state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSE_WAIT => {
            found.shut = matches!(info.state, state::FIN_WAIT1 | state::FIN_WAIT2);
            found.ended = matches!(info.state, state::CLOSE_WAIT);
            found.deaf = deaf && !found.ended;
            found.passed = (
                info.bytes_sent.saturating_sub(info.bytes_retransmitted),
                info.bytes_received.saturating_sub(u64::from(found.ended)),
            );
            found.pending = info.unsent > 0 || socket::unread(fd).map_err(unreadable)? > 0;
            if info.unsent > 0 {
                // Never what the other end has received.
                found.passed.0 = u64::MAX;
            }
        }
        _ => {
            return Err(refusal::socket_busy(
                "its connection is being made or ended",
            ));
        }
    }
    Ok(())
}

fn poll(fd: &OwnedFd) -> io::Result<PollFlags> {
    let wanted = PollFlags::PRI | PollFlags::IN | PollFlags::RDHUP;
    let mut poll = [PollFd::new(fd, wanted)];
    rustix::event::poll(&mut poll, Some(&Timespec::default()))?;
    Ok(poll[0].revents())
}

/// All internet sockets of a job, by their inodes.
#[derive(Debug, Default)]
pub struct Inets {
    all: BTreeMap<u32, Inet>,
    connections: HashMap<(SocketAddr, SocketAddr), u32>,
}

impl Inets {
    /// Adds one.
    pub fn insert(&mut self, inode: u32, socket: Inet) {
        if let Some(ends) = socket.ends() {
            self.connections.insert(ends, inode);
        }
        self.all.insert(inode, socket);
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, inode: u32) -> Option<&Inet> {
        self.all.get(&inode)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Inet)> {
        self.all.iter().map(|(inode, socket)| (*inode, socket))
    }

    /// The other end of a connection; `None` for what has none.
    ///
    /// # Errors
    /// It cannot travel, or its connection cannot.
    pub fn other(&self, socket: &Inet) -> Result<Option<Other>, Refusal> {
        let Some((local, remote)) = socket.ends() else {
            return Ok(None);
        };
        if (local, remote) == (remote, local) {
            return Err(refusal::socket_option("a connection to itself"));
        }
        if let Some(peer) = self.connections.get(&(remote, local)) {
            return Ok(Some(Other::Held(*peer)));
        }
        let unreadable = |error: io::Error| refusal::socket_unknown(&error.to_string());
        let found = inet_diag::find(remote, local).map_err(unreadable)?;
        self.left(socket, found).map(Some)
    }

    /// The inode of the other end, which is in none of these, of a connection of this node.
    #[must_use]
    pub fn stranger(&self, socket: &Inet) -> Option<u32> {
        let (local, remote) = socket.ends()?;
        let found = inet_diag::find(remote, local).ok().flatten()?;
        (found.inode != 0).then_some(found.inode)
    }

    /// The other end of a connection of which the job has one.
    fn left(&self, socket: &Inet, found: Option<Connection>) -> Result<Other, Refusal> {
        let foreign = || refusal::foreign_connection(socket.remote);
        let Some(found) = found else {
            // The last that the kernel forgets of a socket that has sent its end.
            let here = socket.ends().is_some_and(|(local, remote)| {
                local.ip() == remote.ip() || remote.ip().is_loopback()
            });
            return match (here, socket.ended && !socket.pending) {
                (true, true) => Ok(Other::Closed),
                (true, false) => Err(refusal::socket_busy("its other end has just been closed")),
                (false, _) => Err(foreign()),
            };
        };
        match found.state {
            _ if found.inode != 0 => Err(foreign()),
            state::ESTABLISHED | state::CLOSE_WAIT => {
                let listener = self.listener(socket).ok_or_else(foreign)?;
                let end = u32::from(found.state == state::CLOSE_WAIT);
                if found.unread > end || socket.pending {
                    let reason = "what it has sent waits at an end that is not accepted yet";
                    return Err(refusal::socket_busy(reason));
                }
                Ok(Other::Waiting(listener))
            }
            // Its end comes after all that it has sent.
            _ if socket.ended && !socket.pending => Ok(Other::Closed),
            _ => Err(refusal::socket_busy(
                "its other end is closed, and has more to send",
            )),
        }
    }

    /// Who listens for a connection that nobody has accepted.
    fn listener(&self, socket: &Inet) -> Option<u32> {
        let (_, remote) = socket.ends()?;
        let listens = |other: &Inet| {
            let at = plain(other.local).filter(|_| other.backlog.is_some());
            at.is_some_and(|at| {
                at.port() == remote.port() && (at.ip() == remote.ip() || at.ip().is_unspecified())
            })
        };
        let mut all = self.all.iter();
        all.find_map(|(inode, other)| listens(other).then_some(*inode))
    }

    /// Why one of these cannot travel, the others being all that the job has.
    #[must_use]
    pub fn strayed(&self, socket: &Inet) -> Option<Refusal> {
        match (self.other(socket), socket.backlog) {
            (Err(refusal), _) => Some(refusal),
            // Each other connection is looked at only where somebody waits.
            (Ok(_), Some((waiting @ 1.., _))) => (self.expected(socket) < waiting)
                .then(|| refusal::socket_busy("connections wait in it to be accepted")),
            (Ok(_), _) => None,
        }
    }

    /// How many connections of the job wait at the address of a socket that listens.
    fn expected(&self, socket: &Inet) -> u32 {
        let port = socket.local.map(|local| local.port());
        let own = |other: &&Inet| {
            let there = other
                .ends()
                .is_some_and(|(_, remote)| Some(remote.port()) == port);
            there && matches!(self.other(other), Ok(Some(Other::Waiting(_))))
        };
        u32::try_from(self.all.values().filter(own).count()).unwrap_or(u32::MAX)
    }
}

impl Inet {
    /// The addresses of a TCP connection, those of IPv4 as such.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let connected = self.stream && self.backlog.is_none();
        plain(self.local)
            .zip(plain(self.remote))
            .filter(|_| connected)
    }

    /// Whether all that it has sent has been received by `peer`, by their counts.
    #[must_use]
    pub fn has_reached(&self, peer: &Inet) -> bool {
        !self.pending || self.passed.0 == peer.passed.1
    }
}

/// Whether a socket is connected to one of this node that no process has.
#[must_use]
pub fn is_left(fd: &OwnedFd) -> bool {
    let found = look(fd).map(|found| Inets::default().other(&found));
    matches!(found, Ok(Ok(Some(Other::Closed))))
}

/// An IPv4 address as such, also of a socket of IPv6.
fn plain(address: Option<SocketAddr>) -> Option<SocketAddr> {
    address.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Shutdown, TcpListener, TcpStream, UdpSocket},
        os::fd::AsFd,
    };

    use super::*;

    fn see(fd: impl AsFd) -> Result<Inet, Refusal> {
        look(&fd.as_fd().try_clone_to_owned().unwrap())
    }

    fn all<const N: usize>(sockets: [&dyn AsFd; N]) -> Inets {
        let mut all = Inets::default();
        for (inode, socket) in (1..).zip(sockets) {
            all.insert(inode, see(socket.as_fd()).unwrap());
        }
        all
    }

    fn other(all: &Inets, inode: u32) -> Result<Option<Other>, Refusal> {
        all.other(all.get(inode).unwrap())
    }

    fn pair() -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    #[test]
    fn the_ends_of_a_connection_find_each_other() {
        let (listener, mut client, server) = pair();
        client.write_all(b"unread").unwrap();
        let both = all([&client, &server, &listener]);
        assert_eq!(other(&both, 1), Ok(Some(Other::Held(2))));
        assert_eq!(other(&both, 2), Ok(Some(Other::Held(1))));
        assert_eq!(other(&both, 3), Ok(None));
        assert!(both.iter().all(|(_, one)| both.strayed(one).is_none()));
        assert!(both.get(1).unwrap().has_reached(both.get(2).unwrap()));
        client.shutdown(Shutdown::Write).unwrap();
        let both = all([&client, &server]);
        assert!(both.get(1).unwrap().shut && !both.get(2).unwrap().shut);
        assert_eq!(both.strayed(both.get(1).unwrap()), None);
        let alone = all([&client]);
        assert!(!other(&alone, 1).unwrap_err().transient);
    }

    #[test]
    fn an_end_that_nobody_has_is_closed_or_waits() {
        let (listener, client, server) = pair();
        drop(client);
        assert_eq!(other(&all([&server]), 1), Ok(Some(Other::Closed)));
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let waits = all([&client, &listener]);
        assert_eq!(other(&waits, 1), Ok(Some(Other::Waiting(2))));
        assert_eq!(waits.strayed(waits.get(2).unwrap()), None);
        assert!(
            !other(&all([&client]), 1).unwrap_err().transient,
            "at a stranger's"
        );
        let alone = all([&listener]);
        let refusal = alone.strayed(alone.get(1).unwrap());
        assert!(refusal.unwrap().transient, "a stranger waits");
        client.write_all(b"request").unwrap();
        assert!(other(&all([&client, &listener]), 1).unwrap_err().transient);
    }

    #[test]
    fn a_connection_that_is_over_is_none() {
        let (_, client, server) = pair();
        client.shutdown(Shutdown::Both).unwrap();
        assert!(see(&client).unwrap().deaf);
        drop(server);
        drop(client.try_clone().unwrap());
        let over = see(&client).unwrap();
        assert_eq!((over.over, over.remote), (true, None));
        let fresh = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        );
        assert!(!see(fresh.unwrap()).unwrap().over);
    }

    #[test]
    fn a_udp_socket_may_have_something_in_it() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(see(&receiver).unwrap().remote, None);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        assert!(see(&sender).unwrap().remote.is_some());
        sender.send(b"").unwrap();
        assert!(see(&receiver).is_ok(), "a datagram");
    }
}
