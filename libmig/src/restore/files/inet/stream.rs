//! The two ends of a TCP connection, and what is between them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags},
};

use super::{alone, bind, made, refused};
use crate::{
    image::{InetSocket, InetState},
    inspect::unix_socket,
    restore::files::FilesError,
    sys::{socket, tcp},
};

/// How long the kernel may take to carry bytes from one end to the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// After so long without a new byte the receiver has too little room.
const STALL: Duration = Duration::from_micros(300);
/// What a sender may hold that is to take all at once.
const AMPLE: i32 = i32::MAX / 2;

/// The other end of a connection of `client`, by a socket that listens for that.
pub(super) fn establish(
    client: BorrowedFd<'_>,
    state: &InetSocket,
    other: &InetSocket,
) -> Result<OwnedFd, FilesError> {
    let malformed = || FilesError::Malformed("such address of a connection");
    let listener = alone(&at(other, other.local.ok_or_else(malformed)?))?;
    bind(listener.as_fd(), other)?;
    make_room(listener.as_fd(), other)?;
    rustix::net::listen(&listener, 8).map_err(|error| refused(other.local, error))?;
    bind(client, state)?;
    make_room(client, state)?;
    let own = state.local.ok_or_else(malformed)?;
    let target = of_family(other.local.ok_or_else(malformed)?, state.v6);
    match rustix::net::connect(client, &target) {
        // One that does not wait is connected when the other end is there.
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(refused(state.local, error)),
    }
    accept(&listener, own)
}

/// Accepts the connection from `own`.
fn accept(listener: &OwnedFd, own: SocketAddr) -> Result<OwnedFd, FilesError> {
    loop {
        let (accepted, from) =
            rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC).map_err(made())?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        // A stranger has called just then: it is hung up on.
        if from.is_some_and(|from| of_family(from, true) == of_family(own, true)) {
            return Ok(accepted);
        }
    }
}

/// The kernel derives what a connection may receive from what it has when it is made.
fn make_room(own: BorrowedFd<'_>, state: &InetSocket) -> Result<(), FilesError> {
    let now = socket::option(own, libc::SO_RCVBUF).map_err(made())?;
    if state.buffers.1 > now {
        let room = state.buffers.1 / 2;
        socket::set_option(own, libc::SO_RCVBUFFORCE, room).map_err(made())?;
    }
    Ok(())
}

/// A connection whose other end at `remote` has been closed.
pub(super) fn closed(
    own: &OwnedFd,
    state: &InetSocket,
    remote: SocketAddr,
    queue: &[u8],
) -> Result<(), FilesError> {
    let other = establish(own.as_fd(), state, &at(state, remote))?;
    fill(&other, own, queue)?;
    // An end, and no reset.
    socket::set_linger(&other, None).map_err(made())?;
    drop(other);
    until(own, PollFlags::RDHUP)
}

/// A connection that is over: it has an end, and no other one. Its address is no longer its own.
pub(super) fn over(own: &OwnedFd, state: &InetSocket, queue: &[u8]) -> Result<(), FilesError> {
    let anywhere: SocketAddr = if state.v6 {
        (Ipv6Addr::LOCALHOST, 0).into()
    } else {
        (Ipv4Addr::LOCALHOST, 0).into()
    };
    let listener = alone(state)?;
    rustix::net::bind(&listener, &anywhere).map_err(made())?;
    rustix::net::listen(&listener, 8).map_err(made())?;
    let name = |socket: &OwnedFd| {
        let name = rustix::net::getsockname(socket).map_err(made())?;
        SocketAddr::try_from(name).map_err(made())
    };
    make_room(own.as_fd(), state)?;
    match rustix::net::connect(own, &name(&listener)?) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(made()(error)),
    }
    let other = accept(&listener, name(own)?)?;
    fill(&other, own, queue)?;
    // By a reset, which leaves no trace but an error.
    drop(other);
    until(own, PollFlags::RDHUP)?;
    socket::option(own, libc::SO_ERROR).map_err(made())?;
    Ok(())
}

/// Connects to one that listens and does not accept yet.
pub(super) fn call(
    own: BorrowedFd<'_>,
    state: &InetSocket,
    remote: SocketAddr,
) -> Result<(), FilesError> {
    bind(own, state)?;
    // It bounds connect(2), too.
    let patience = u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
    socket::set_timeout(own, libc::SO_SNDTIMEO, patience).map_err(made())?;
    match rustix::net::connect(own, &remote) {
        Ok(()) => Ok(()),
        Err(Errno::INPROGRESS) => until(own, PollFlags::OUT),
        Err(error) => Err(refused(state.local, error)),
    }
}

/// A socket of the same kind at another address.
fn at(state: &InetSocket, local: SocketAddr) -> InetSocket {
    InetSocket {
        v6: state.v6,
        stream: true,
        multipath: false,
        local: Some(local),
        state: InetState::Idle,
        buffers: (0, 0),
        locked: 0,
        timeouts: (0, 0),
        linger: None,
        congestion: None,
        datagrams: Vec::new(),
        options: state.options.clone(),
        owner: state.owner,
    }
}

/// An address as sockets of IPv6 see it, or of IPv4.
fn of_family(address: SocketAddr, v6: bool) -> SocketAddr {
    let ip = address.ip().to_canonical();
    match ip {
        std::net::IpAddr::V4(v4) if v6 => {
            SocketAddrV6::new(v4.to_ipv6_mapped(), address.port(), 0, 0).into()
        }
        std::net::IpAddr::V4(v4) => SocketAddrV4::new(v4, address.port()).into(),
        std::net::IpAddr::V6(_) => SocketAddr::new(ip, address.port()),
    }
}

fn until(own: impl AsFd, event: PollFlags) -> Result<(), FilesError> {
    let timeout = Timespec {
        tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut poll = [PollFd::new(&own, event)];
    match rustix::event::poll(&mut poll, Some(&timeout)).map_err(made())? {
        0 => Err(made()(io::Error::from(io::ErrorKind::TimedOut))),
        _ => Ok(()),
    }
}

/// Sends what the receiver had not read, and waits until it is there. The
/// receiver gets as much room as that takes: what is sent after that waits at
/// the sender, as it has done before.
pub(super) fn fill(sender: &OwnedFd, receiver: &OwnedFd, queue: &[u8]) -> Result<(), FilesError> {
    let filled = || FilesError::make::<io::Error>("what waits in a connection");
    if queue.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    let mut last = began;
    socket::set_option(sender, libc::SO_SNDBUFFORCE, AMPLE).map_err(filled())?;
    let mut rest = queue;
    let mut there = 0;
    loop {
        push(sender, &mut rest)?;
        let now = unix_socket::waiting(receiver.as_fd()).map_err(filled())?;
        if now == queue.len() {
            return Ok(());
        }
        if now > there {
            (there, last) = (now, Instant::now());
        } else if last.elapsed() > STALL {
            widen(receiver).map_err(filled())?;
            last = Instant::now();
        }
        if last > began + PATIENCE && there == 0 || began.elapsed() > 5 * PATIENCE {
            return Err(filled()(io::Error::from(io::ErrorKind::TimedOut)));
        }
        std::thread::yield_now();
    }
}

/// Gives a receiver some more room, and lets it tell the sender so: it does
/// whenever somebody looks at what it holds.
fn widen(receiver: &OwnedFd) -> io::Result<()> {
    let now = socket::option(receiver, libc::SO_RCVBUF)?;
    let room = (now / 2).saturating_add(now / 16).saturating_add(1 << 15);
    socket::set_option(receiver, libc::SO_RCVBUFFORCE, room)?;
    tcp::set_window_clamp(receiver, room.saturating_mul(2))?;
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(receiver, &mut [0; 1], flags) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends what was under way; the kernel delivers what there is room for.
pub(super) fn send_on(sender: &OwnedFd, bytes: &[u8]) -> Result<(), FilesError> {
    let sent = || FilesError::make::<io::Error>("what is under way in a connection");
    let deadline = Instant::now() + PATIENCE;
    if !bytes.is_empty() {
        socket::set_option(sender, libc::SO_SNDBUFFORCE, AMPLE).map_err(sent())?;
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        push(sender, &mut rest)?;
        if Instant::now() > deadline {
            return Err(sent()(io::Error::from(io::ErrorKind::TimedOut)));
        }
    }
    Ok(())
}

fn push(sender: &OwnedFd, rest: &mut &[u8]) -> Result<(), FilesError> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if rest.is_empty() {
        return Ok(());
    }
    match rustix::net::send(sender, rest, flags) {
        Ok(sent) => *rest = &rest[sent..],
        Err(Errno::AGAIN) => {}
        Err(error) => return Err(FilesError::make("what waits in a connection")(error)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_receiver_gets_all_that_it_had_and_the_rest_waits_at_the_sender() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let bytes: Vec<u8> = (0..12u32 << 20).map(|n| (n / 5).to_ne_bytes()[0]).collect();
        let (had, coming) = bytes.split_at(8 << 20);
        let (sender, receiver) = (
            client.as_fd().try_clone_to_owned().unwrap(),
            server.as_fd().try_clone_to_owned().unwrap(),
        );
        fill(&sender, &receiver, had).unwrap();
        let before = unix_socket::waiting(receiver.as_fd()).unwrap();
        send_on(&sender, coming).unwrap();
        assert_eq!(before, had.len());
        assert!(socket::unread(&sender).unwrap() > 1 << 20);
        let mut all = vec![0; bytes.len()];
        server.read_exact(&mut all).unwrap();
        assert!(all == bytes);
    }
}
