//! Datagrams of UDP that come from wherever they say: raw(7) sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, sendto, socket_with,
};

use super::socket::get_at;

/// IPPROTO_RAW: what is sent has its IP header.
const RAW: u32 = 255;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
/// A hop limit as programs have it.
const HOPS: u8 = 64;

/// Sends a datagram to a socket of this network namespace as if it came from `from`.
///
/// # Errors
/// EPERM without CAP_NET_RAW; EMSGSIZE for more than the loopback device takes at once;
/// InvalidInput for addresses of two families.
pub fn send_as(from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EMSGSIZE);
    let length = u16::try_from(UDP_HEADER + bytes.len()).map_err(too_long)?;
    let (source, target) = (from.ip().to_canonical(), to.ip().to_canonical());
    let mut datagram = Vec::with_capacity(UDP_HEADER + bytes.len());
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    // Of IPv4 it may be left out.
    datagram.extend([0; 2]);
    datagram.extend(bytes);
    let (family, mut packet) = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // Length, number and checksum are filled in by the kernel.
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0];
            header.extend(source.octets());
            header.extend(target.octets());
            (AddressFamily::INET, header)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let mut addresses = source.octets().to_vec();
            addresses.extend(target.octets());
            let sum = checksum(&addresses, length, &datagram);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([UDP, HOPS]);
            header.extend(addresses);
            (AddressFamily::INET6, header)
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    packet.extend(datagram);
    let raw = std::num::NonZeroU32::new(RAW).map(Protocol::from_raw);
    let socket: OwnedFd = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, raw)?;
    sendto(
        &socket,
        &packet,
        SendFlags::empty(),
        &SocketAddr::new(target, 0),
    )?;
    Ok(())
}

/// The one's complement sum of RFC 768 over a datagram and the pseudo header of IPv6.
fn checksum(addresses: &[u8], length: u16, datagram: &[u8]) -> u16 {
    let words = addresses.chunks(2).chain(datagram.chunks(2));
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u64 = words.map(word).sum::<u64>() + u64::from(length) + u64::from(UDP);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // None at all would be what zero says.
    match !(u16::try_from(sum).expect("folded")) {
        0 => 0xffff,
        sum => sum,
    }
}

/// The kernel's memory for what waits in a socket (SO_MEMINFO).
///
/// # Errors
/// What getsockopt(2) says.
pub fn received_memory(fd: impl AsFd) -> io::Result<u32> {
    const SO_MEMINFO: i32 = 55;
    let mut numbers = [0u32; 9];
    get_at(fd.as_fd(), (libc::SOL_SOCKET, SO_MEMINFO), &mut numbers)?;
    Ok(numbers[0])
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_datagram_comes_from_where_it_says() {
        for (at, from) in [
            ("127.0.0.1:0", "192.0.2.7:53"),
            ("[::1]:0", "[2001:db8::7]:53"),
            ("[::1]:0", "[::1]:9"),
        ] {
            let socket = UdpSocket::bind(at).unwrap();
            let (to, from): (SocketAddr, SocketAddr) =
                (socket.local_addr().unwrap(), from.parse().unwrap());
            for bytes in [&b""[..], b"odd", &[0xff; 60_000]] {
                send_as(from, to, bytes).unwrap();
                let timeout = std::time::Duration::from_secs(5);
                socket.set_read_timeout(Some(timeout)).unwrap();
                let mut buffer = vec![0; 65_536];
                let (length, sender) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], sender), (bytes, from));
            }
        }
    }
}
