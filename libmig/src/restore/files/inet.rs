//! TCP and UDP sockets. Both ends of a connection are made anew, with the
//! addresses that they had, and what one had not read yet is sent by the other.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType},
};

use super::FilesError;
use crate::{
    api::Obstacle,
    image::{FileId, FileObject, InetSocket, InetState, JobImage},
    inspect::{inet_socket::OPTIONS, unix_socket},
    sys::socket,
};

/// How long the kernel may take to carry bytes from one end to the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// What an end may hold while it is filled.
const AMPLE: i32 = i32::MAX / 2;

/// One socket of the image.
type End<'a> = (FileId, &'a InetSocket);

/// A socket without an address.
pub(super) fn alone(state: &InetSocket) -> Result<OwnedFd, FilesError> {
    let family = if state.v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let kind = if state.stream {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let made_here = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None);
    let made_here = made_here.map_err(made())?;
    let v6only = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    for (level, name, value) in &state.options {
        if (*level, *name) == v6only {
            socket::set_option_at(&made_here, *level, *name, *value).map_err(made())?;
        }
    }
    // What keeps others out comes last.
    socket::set_option(&made_here, libc::SO_REUSEADDR, 1).map_err(made())?;
    if state.stream {
        // Should this come to nothing, no trace is left of it.
        socket::set_linger(&made_here, Some(0)).map_err(made())?;
    }
    Ok(made_here)
}

/// Gives all of them their addresses, connects and fills them.
pub(super) fn connect(image: &JobImage, files: &mut [OwnedFd]) -> Result<(), FilesError> {
    let sockets: Vec<End<'_>> = (0..)
        .zip(&image.files)
        .filter_map(|(file, description)| match &description.object {
            FileObject::Inet(state) => Some((file, &**state)),
            _ => None,
        })
        .collect();
    // Connections first: nobody listens yet whom a stranger could call instead.
    for (file, state) in &sockets {
        let InetState::Connected { peer, .. } = state.state else {
            continue;
        };
        let other = sockets.iter().find(|other| other.0 == peer);
        let mutual = |other: &&&InetSocket| matches!(other.state, InetState::Connected { peer, .. } if peer == *file);
        let other = other.map(|other| &other.1).filter(mutual);
        let other = other.ok_or(FilesError::Malformed("such end of a connection"))?;
        if *file < peer {
            let client = files[*file as usize].as_fd();
            files[peer as usize] = establish(client, state, other)?;
        }
    }
    for (file, state) in &sockets {
        if let InetState::Connected { peer, queue, .. } = &state.state {
            fill(&files[*peer as usize], &files[*file as usize], queue)?;
        }
    }
    for (file, state) in &sockets {
        let own = &files[*file as usize];
        match &state.state {
            InetState::Connected { shut: true, .. } => {
                rustix::net::shutdown(own, Shutdown::Write).map_err(made())?;
            }
            InetState::Connected { .. } => {}
            _ => bind(own.as_fd(), state)?,
        }
        // Connections of its port allow that for as long as all of them say so.
        if let InetState::Listening(backlog) = state.state {
            let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
            rustix::net::listen(own, backlog).map_err(|error| refused(state.local, error))?;
        }
        if let InetState::Towards(remote) = state.state {
            rustix::net::connect(own, &remote).map_err(made())?;
        }
    }
    for (file, state) in &sockets {
        let own = &files[*file as usize];
        options(own, state)?;
        settle(own, state).map_err(FilesError::make("the options of a network socket"))?;
        super::object::finish(own, &image.files[*file as usize])?;
    }
    Ok(())
}

/// The other end of a connection of `client`, by a socket that listens for that.
fn establish(
    client: BorrowedFd<'_>,
    state: &InetSocket,
    other: &InetSocket,
) -> Result<OwnedFd, FilesError> {
    let malformed = || FilesError::Malformed("such address of a connection");
    let listener = alone(other)?;
    bind(listener.as_fd(), other)?;
    rustix::net::listen(&listener, 8).map_err(|error| refused(other.local, error))?;
    bind(client, state)?;
    let own = state.local.ok_or_else(malformed)?;
    let target = of_family(other.local.ok_or_else(malformed)?, state.v6);
    match rustix::net::connect(client, &target) {
        // One that does not wait is connected when the other end is there.
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(refused(state.local, error)),
    }
    loop {
        let (accepted, from) =
            rustix::net::acceptfrom_with(&listener, SocketFlags::CLOEXEC).map_err(made())?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        // A stranger has called just then: it is hung up on.
        if from.is_some_and(|from| of_family(from, true) == of_family(own, true)) {
            return Ok(accepted);
        }
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

fn bind(own: BorrowedFd<'_>, state: &InetSocket) -> Result<(), FilesError> {
    let Some(local) = state.local else {
        return Ok(());
    };
    for (level, name, value) in &state.options {
        // All that share a port say so before they have it.
        if (*level, *name) == (libc::SOL_SOCKET, libc::SO_REUSEPORT) && *value != 0 {
            socket::set_option(own, *name, *value).map_err(made())?;
        }
    }
    rustix::net::bind(own, &local).map_err(|error| refused(Some(local), error))
}

fn refused(local: Option<SocketAddr>, error: Errno) -> FilesError {
    let (reason, remedy) = match error {
        Errno::ADDRINUSE => (
            "somebody at the destination has it",
            "end that program, or move to another node",
        ),
        Errno::ADDRNOTAVAIL => (
            "the destination does not have that address, or has not forgotten an earlier connection of it",
            "let the program use 0.0.0.0 or 127.0.0.1, or try again in a minute",
        ),
        _ => return made()(error),
    };
    let local = local.map_or_else(|| "?".to_owned(), |local| local.to_string());
    FilesError::Refused(Obstacle {
        pid: None,
        object: format!("network address {local}"),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
        transient: false,
    })
}

/// Sends what the receiver had not read, and waits until it is there.
fn fill(sender: &OwnedFd, receiver: &OwnedFd, queue: &[u8]) -> Result<(), FilesError> {
    let filled = || FilesError::make::<io::Error>("what waits in a connection");
    if queue.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    socket::set_option(sender, libc::SO_SNDBUFFORCE, AMPLE).map_err(filled())?;
    socket::set_option(receiver, libc::SO_RCVBUFFORCE, AMPLE).map_err(filled())?;
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut rest = queue;
    loop {
        if !rest.is_empty() {
            match rustix::net::send(sender, rest, flags) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(filled()(error.into())),
            }
        }
        if unix_socket::waiting(receiver.as_fd()).map_err(filled())? == queue.len() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(filled()(io::Error::from(io::ErrorKind::TimedOut)));
        }
        std::thread::yield_now();
    }
}

/// What a socket has for good, or streams do not have at all.
fn is_fixed(option: (i32, i32), state: &InetSocket) -> bool {
    const MULTICAST: [(i32, i32); 2] = [
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    ];
    option == (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) || state.stream && MULTICAST.contains(&option)
}

fn options(own: &OwnedFd, state: &InetSocket) -> Result<(), FilesError> {
    for (level, name, value) in &state.options {
        // The image comes from another node.
        let known = OPTIONS.contains(&(*level, *name)) && !is_fixed((*level, *name), state);
        if known && socket::option_at(own, *level, *name).is_ok_and(|now| now != *value) {
            let what = format!("option {name} of level {level} of a network socket");
            socket::set_option_at(own, *level, *name, *value).map_err(FilesError::make(what))?;
        }
    }
    Ok(())
}

fn settle(own: &OwnedFd, state: &InetSocket) -> io::Result<()> {
    let (uid, gid) = state.owner;
    rustix::fs::fchown(own, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    for (name, force, wanted) in [
        (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, state.buffers.0),
        (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, state.buffers.1),
    ] {
        let now = socket::option(own, name)?;
        if let Some(wanted) = wanted.filter(|wanted| now / 2 != *wanted) {
            socket::set_option(own, force, wanted)?;
        }
    }
    if state.buffers == (None, None) {
        socket::set_option(own, SO_BUF_LOCK, 0)?;
    }
    socket::set_timeout(own, libc::SO_SNDTIMEO, state.timeouts.0)?;
    socket::set_timeout(own, libc::SO_RCVTIMEO, state.timeouts.1)?;
    if let Some(congestion) = &state.congestion
        && socket::congestion(own)? != *congestion
    {
        socket::set_congestion(own, congestion)?;
    }
    if state.stream {
        socket::set_linger(own, state.linger)?;
    }
    Ok(())
}

const SO_BUF_LOCK: i32 = 72;

fn made<E: Into<io::Error>>() -> impl FnOnce(E) -> FilesError {
    FilesError::make("a network socket")
}
