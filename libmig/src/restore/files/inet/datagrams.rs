//! Datagrams that waited in a UDP socket, sent again from where they came.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{connect, connect_unspec, getsockname};

use super::made;
use crate::{
    image::{Datagram, InetSocket, InetState},
    restore::files::FilesError,
    sys::{socket, udp},
};

/// The kernel delivers at once what this machine sends to itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a socket may hold that is to take all.
const AMPLE: i32 = i32::MAX / 2;

/// Fills a socket that has its address.
pub(super) fn fill(own: &OwnedFd, state: &InetSocket) -> Result<(), FilesError> {
    if state.datagrams.is_empty() {
        return Ok(());
    }
    if state.stream || state.local.is_none() {
        return Err(FilesError::Malformed("such datagrams of a socket"));
    }
    let filled = || FilesError::make::<io::Error>("what waits in a UDP socket");
    socket::set_option(own, libc::SO_RCVBUFFORCE, AMPLE).map_err(filled())?;
    for datagram in &state.datagrams {
        // Connected, it is the one that gets it, of all that share its port, and gets nothing else.
        // Without a way to the sender its address will do.
        let _ = connect(own, &datagram.from);
        deliver(own, datagram).map_err(filled())?;
    }
    if !matches!(state.state, InetState::Towards(_)) {
        connect_unspec(own).map_err(made())?;
    }
    Ok(())
}

fn deliver(own: &OwnedFd, datagram: &Datagram) -> io::Result<()> {
    let to = SocketAddr::try_from(getsockname(own)?)?;
    let to = match to.ip().is_unspecified() {
        true => SocketAddr::new(loopback(datagram.from), to.port()),
        false => to,
    };
    let before = udp::received_memory(own)?;
    udp::send_as(datagram.from, to, &datagram.bytes)?;
    let deadline = Instant::now() + PATIENCE;
    while udp::received_memory(own)? <= before {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn loopback(sender: SocketAddr) -> std::net::IpAddr {
    match sender.ip().to_canonical() {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}
