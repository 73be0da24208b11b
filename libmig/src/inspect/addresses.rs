//! Network addresses that a running job has, and whether another node has them to give.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::AsFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};

use super::{fd, files::FileSource, inet_socket};
use crate::{api::Obstacle, image::NeededAddress, sys::socket};

/// Every address that sockets of the processes have, each once, [`NeededAddress::MOST`] at most.
/// What changes while this looks is left to the end of the move.
#[must_use]
pub fn of(processes: &[FileSource<'_>]) -> Vec<NeededAddress> {
    let mut found = BTreeMap::new();
    for source in processes {
        for number in fd::numbers(source.host).unwrap_or_default() {
            let link = std::fs::read_link(format!("/proc/{}/fd/{number}", source.host));
            if link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
                && let Ok(copy) = source.duplicate(number)
                && let Some(address) = of_socket(&copy)
            {
                found.insert((address.stream, address.address), address);
            }
        }
    }
    found.into_values().take(NeededAddress::MOST).collect()
}

fn of_socket(copy: &std::os::fd::OwnedFd) -> Option<NeededAddress> {
    let seen = inet_socket::look(copy).ok().filter(|seen| !seen.over)?;
    let set = |level, name| socket::option_at(copy, level, name).is_ok_and(|value| value != 0);
    Some(NeededAddress {
        stream: seen.stream,
        address: seen.local?,
        v6: seen.v6,
        v6_only: set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
        // Connections that are over are not to be in the way.
        reuse: seen.stream || set(libc::SOL_SOCKET, libc::SO_REUSEADDR),
        share: set(libc::SOL_SOCKET, libc::SO_REUSEPORT),
    })
}

/// Obstacles for all addresses that nobody could take here, now.
#[must_use]
pub fn taken(addresses: &[NeededAddress]) -> Vec<Obstacle> {
    let refused = |needed: &NeededAddress| refused(Some(needed.address), take(needed).err()?);
    let judged = addresses.iter().take(NeededAddress::MOST);
    judged.filter_map(refused).collect()
}

/// Takes an address for a moment.
fn take(needed: &NeededAddress) -> Result<(), Errno> {
    let (family, kind) = (
        if needed.v6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        },
        if needed.stream {
            SocketType::STREAM
        } else {
            SocketType::DGRAM
        },
    );
    let probe = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let set = |level, name, value: bool| {
        // What cannot be set is found when the socket is made for good.
        drop(socket::set_option_at(
            probe.as_fd(),
            level,
            name,
            value.into(),
        ));
    };
    set(libc::SOL_SOCKET, libc::SO_REUSEADDR, needed.reuse);
    set(libc::SOL_SOCKET, libc::SO_REUSEPORT, needed.share);
    if needed.v6 {
        set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, needed.v6_only);
    }
    rustix::net::bind(&probe, &needed.address)
}

/// Why bind(2) or connect(2) fails where it is the address.
#[must_use]
pub fn refused(local: Option<SocketAddr>, error: Errno) -> Option<Obstacle> {
    let (reason, remedy) = match error {
        Errno::ADDRINUSE => (
            "somebody at the destination has it",
            "end that program, or move to another node",
        ),
        Errno::ADDRNOTAVAIL => (
            "the destination does not have that address, or has not forgotten an earlier connection of it",
            "let the program use 0.0.0.0 or 127.0.0.1, or try again in a minute",
        ),
        _ => return None,
    };
    let local = local.map_or_else(|| "?".to_owned(), |local| local.to_string());
    Some(Obstacle {
        pid: None,
        object: format!("network address {local}"),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
        transient: false,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        os::fd::{AsFd, OwnedFd},
    };

    use super::*;

    fn needed(socket: impl Into<OwnedFd>) -> NeededAddress {
        of_socket(&socket.into()).unwrap()
    }

    #[test]
    fn an_address_is_taken_while_somebody_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("[::1]:0").unwrap();
        let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
        let both = [needed(own(&listener)), needed(own(&datagrams))];
        let found = taken(&both);
        assert_eq!(found.len(), 2);
        assert!(
            found[0]
                .reason
                .contains("somebody at the destination has it")
        );
        drop((listener, datagrams));
        assert_eq!(taken(&both), []);
        let elsewhere = NeededAddress {
            address: "192.0.2.7:80".parse().unwrap(),
            ..both[0]
        };
        assert!(
            taken(&[elsewhere])[0]
                .reason
                .contains("does not have that address")
        );
    }
}
