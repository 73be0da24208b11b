//! sock_diag(7) about one TCP connection, by its addresses: also one that no
//! process has a descriptor of.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use super::{
    inet_socket::state,
    sock_diag::{self, word},
};

/// What the kernel knows about the socket with a pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    /// As tcpi_state.
    pub(super) state: u8,
    /// Bytes that have been received and not been read.
    pub(super) unread: u32,
    /// 0 while no process has it.
    pub(super) inode: u32,
}

/// The socket whose own address is `local`, and that is connected to `remote`.
/// The addresses are of one family, those of IPv4 as such.
pub(super) fn find(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Connection>> {
    let answer = match sock_diag::ask(&request(local, remote)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let found = parse(&answer).ok_or(io::ErrorKind::InvalidData)?;
    // Without a connection, the kernel shows who listens there.
    Ok(Some(found).filter(|found| found.state != state::LISTEN))
}

/// struct inet_diag_req_v2.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = match local {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut body = vec![family.to_ne_bytes()[0], libc::IPPROTO_TCP.to_ne_bytes()[0]];
    body.extend([0, 0]);
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        body.extend(bytes);
    }
    // Any interface, any cookie.
    body.extend(0u32.to_ne_bytes());
    body.extend([0xff; 8]);
    body
}

/// struct inet_diag_msg behind its header.
fn parse(answer: &[u8]) -> Option<Connection> {
    const STATE: usize = 1;
    const UNREAD: usize = 56;
    const INODE: usize = 68;
    let body = answer.get(sock_diag::HEADER..)?;
    Some(Connection {
        state: *body.get(STATE)?,
        unread: word(body, UNREAD)?,
        inode: word(body, INODE)?,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;

    #[test]
    fn a_connection_is_found_before_it_is_accepted_and_after_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(there).unwrap();
        let here = client.local_addr().unwrap();
        client.write_all(b"seven b").unwrap();
        let waiting = find(there, here).unwrap().unwrap();
        assert_eq!((waiting.state, waiting.unread, waiting.inode), (1, 7, 0));
        let inode = rustix::fs::fstat(client.as_fd()).unwrap().st_ino;
        let own = find(here, there).unwrap().unwrap();
        assert_eq!(u64::from(own.inode), inode);
        drop(listener.accept().unwrap());
        assert_ne!(find(there, here).unwrap().map(|left| left.inode), Some(1));
        drop(client);
        assert_eq!(find(here, there).unwrap(), None);
    }
}
