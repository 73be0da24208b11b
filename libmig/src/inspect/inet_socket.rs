//! TCP and UDP sockets: what the kernel tells about one, and whether it can travel.
//!
//! A TCP connection travels with both its ends: nothing is read from it but
//! what its ends would read, and nothing is set. At the destination it is made
//! anew with the same addresses, and filled.

use std::{collections::BTreeMap, io, net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{getpeername, getsockname},
};

use super::refusal::{self, Refusal};
use crate::sys::socket;

/// Options that are ints and travel as they are, by level and number.
pub const OPTIONS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
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
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
];
/// tcpi_state.
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const CLOSE: u8 = 7;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LISTEN: u8 = 10;
}

/// An internet socket that can travel if its peer can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inet {
    /// AF_INET6.
    pub v6: bool,
    /// TCP, not UDP.
    pub stream: bool,
    /// Its address; none without a port.
    pub local: Option<SocketAddr>,
    /// What it is connected to.
    pub remote: Option<SocketAddr>,
    /// How many connections may wait, if it listens.
    pub backlog: Option<u32>,
    /// It has closed its direction.
    pub shut: bool,
    /// The other end has closed its direction.
    ended: bool,
    /// Bytes that it has sent, and received.
    passed: (u64, u64),
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
    let stream = (kind, protocol) == (libc::SOCK_STREAM, libc::IPPROTO_TCP);
    let datagrams = (kind, protocol) == (libc::SOCK_DGRAM, libc::IPPROTO_UDP);
    let internet = matches!(domain, libc::AF_INET | libc::AF_INET6);
    if !internet || !(stream || datagrams) {
        return Err(refusal::socket());
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
        local: getsockname(fd).ok().and_then(|any| any.try_into().ok()),
        remote: getpeername(fd)
            .ok()
            .flatten()
            .and_then(|any| any.try_into().ok()),
        backlog: None,
        shut: false,
        ended: false,
        passed: (0, 0),
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
        connection(fd, &mut found)?;
    } else if events.contains(PollFlags::IN) {
        return Err(refusal::socket_busy("datagrams wait in it"));
    }
    Ok(found)
}

/// The state of a TCP socket.
fn connection(fd: &OwnedFd, found: &mut Inet) -> Result<(), Refusal> {
    let unreadable = |error: io::Error| refusal::socket_unknown(&error.to_string());
    let info = socket::tcp_info(fd).map_err(unreadable)?;
    match info.state {
        state::LISTEN if info.unacked > 0 => {
            return Err(refusal::socket_busy(
                "connections wait in it to be accepted",
            ));
        }
        state::LISTEN => found.backlog = Some(info.sacked),
        state::CLOSE if has_ended(fd) => {
            return Err(refusal::socket_busy("its connection has ended"));
        }
        state::CLOSE => found.remote = None,
        state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSE_WAIT => {
            found.shut = matches!(info.state, state::FIN_WAIT1 | state::FIN_WAIT2);
            found.ended = matches!(info.state, state::CLOSE_WAIT);
            found.passed = (
                info.bytes_sent.saturating_sub(info.bytes_retransmitted),
                info.bytes_received.saturating_sub(u64::from(found.ended)),
            );
            if info.unsent > 0 {
                return Err(refusal::socket_busy(
                    "its peer has no room for what it sends",
                ));
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

/// Whether there has been a connection: a fresh socket cannot be read from.
fn has_ended(fd: &OwnedFd) -> bool {
    use rustix::net::RecvFlags;
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    rustix::net::recv(fd, &mut [0; 1], flags) != Err(rustix::io::Errno::NOTCONN)
}

fn poll(fd: &OwnedFd) -> io::Result<PollFlags> {
    let mut poll = [PollFd::new(fd, PollFlags::PRI | PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&Timespec::default()))?;
    Ok(poll[0].revents())
}

/// The other end of a connection, by its inode.
#[must_use]
pub fn peer(socket: &Inet, all: &BTreeMap<u32, Inet>) -> Option<u32> {
    let same = |other: &Inet| {
        other.stream
            && plain(other.local) == plain(socket.remote)
            && plain(other.remote) == plain(socket.local)
    };
    socket.remote.filter(|_| socket.stream)?;
    all.iter()
        .find_map(|(inode, other)| same(other).then_some(*inode))
}

/// Why one of these cannot travel, the others being all that the job has.
#[must_use]
pub fn strayed(socket: &Inet, all: &BTreeMap<u32, Inet>) -> Option<Refusal> {
    socket.remote.filter(|_| socket.stream)?;
    let Some(peer) = peer(socket, all) else {
        let port = socket.remote.map(|remote| remote.port());
        let listens =
            |other: &Inet| other.backlog.is_some() && other.local.map(|l| l.port()) == port;
        let passes = socket.ended || all.values().any(listens);
        return Some(if passes {
            refusal::socket_busy("its other end is not accepted yet, or closed")
        } else {
            refusal::foreign_connection(socket.remote)
        });
    };
    // What is between the two is nowhere to be read.
    (socket.passed.0 != all[&peer].passed.1)
        .then(|| refusal::socket_busy("something that it has sent is on its way"))
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

    #[test]
    fn the_ends_of_a_connection_find_each_other() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(see(&listener).unwrap().backlog.is_some());
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(see(&listener).unwrap_err().transient, "one waits");
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        let ends =
            |client, server| BTreeMap::from([(1, see(client).unwrap()), (2, see(server).unwrap())]);
        let all = ends(&client, &server);
        assert_eq!(
            (peer(&all[&1], &all), peer(&all[&2], &all)),
            (Some(2), Some(1))
        );
        assert_eq!(
            (strayed(&all[&1], &all), strayed(&all[&2], &all)),
            (None, None)
        );
        client.shutdown(Shutdown::Write).unwrap();
        let all = ends(&client, &server);
        assert!(all[&1].shut && !all[&2].shut);
        assert_eq!(strayed(&all[&1], &all), None);
        let alone = BTreeMap::from([(1, all[&1].clone())]);
        assert!(!strayed(&alone[&1], &alone).unwrap().transient);
        let unaccepted = BTreeMap::from([(1, all[&1].clone()), (3, see(&listener).unwrap())]);
        assert!(strayed(&unaccepted[&1], &unaccepted).unwrap().transient);
        drop(client);
        let left = BTreeMap::from([(2, see(&server).unwrap())]);
        assert!(
            strayed(&left[&2], &left).unwrap().transient,
            "its client has gone"
        );
    }

    #[test]
    fn what_has_something_in_it_may_pass() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(see(&receiver).unwrap().remote, None);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        assert!(see(&sender).unwrap().remote.is_some());
        sender.send(b"").unwrap();
        assert!(see(&receiver).unwrap_err().transient);
    }
}
