//! TCP and UDP sockets. Both ends of a connection are made anew, with the
//! addresses that they had, and what one had not read yet is sent by the other.

mod datagrams;
mod settle;
mod stream;

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto},
};

use super::FilesError;
use crate::{
    image::{FileId, FileObject, InetPeer, InetSocket, InetState, JobImage},
    inspect::addresses,
    sys::socket,
};

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
    let make = |protocol| rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol);
    let multipath = (state.stream && state.multipath).then_some(ipproto::MPTCP);
    let made_here = match make(multipath) {
        // Plain TCP is what its clients would have by all means.
        Err(Errno::PROTONOSUPPORT | Errno::NOPROTOOPT) if multipath.is_some() => make(None),
        other => other,
    };
    let made_here = made_here.map_err(made())?;
    let v6only = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    for (level, name, value) in &state.options {
        if (*level, *name) == v6only {
            socket::set_option_at(&made_here, *level, *name, *value).map_err(made())?;
        }
    }
    // What keeps others out comes last. Datagrams that somebody is sent already are not to be shared.
    let reuse = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
    let mut set = state
        .options
        .iter()
        .filter(|option| (option.0, option.1) == reuse);
    if state.stream || set.any(|option| option.2 != 0) {
        socket::set_option(&made_here, libc::SO_REUSEADDR, 1).map_err(made())?;
    }
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
    establish(&sockets, files)?;
    for (file, state) in &sockets {
        let own = files[*file as usize].as_fd();
        match &state.state {
            InetState::Connected {
                peer: InetPeer::Held(_) | InetPeer::Closed(_),
                shut,
                deaf,
                ..
            } => shut_down(own, *shut, *deaf)?,
            InetState::Connected { .. } | InetState::Over { .. } => {}
            _ => bind(own, state)?,
        }
        // Connections of its port allow that for as long as all of them say so.
        if let InetState::Listening(backlog) = state.state {
            let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
            rustix::net::listen(own, backlog).map_err(|error| refused(state.local, error))?;
        }
        datagrams::fill(&files[*file as usize], state)?;
        if let InetState::Towards(remote) = state.state {
            rustix::net::connect(own, &remote).map_err(made())?;
        }
    }
    for (file, state) in &sockets {
        if let InetState::Connected {
            peer: InetPeer::Waiting(remote),
            shut,
            deaf,
            ..
        } = state.state
        {
            let own = files[*file as usize].as_fd();
            stream::call(own, state, remote)?;
            shut_down(own, shut, deaf)?;
        }
    }
    for (file, state) in &sockets {
        let own = &files[*file as usize];
        settle::options(own, state)?;
        settle::rest(own, state).map_err(FilesError::make("the options of a network socket"))?;
        super::object::finish(own, &image.files[*file as usize])?;
    }
    Ok(())
}

/// Connections with both ends, and those that are left of one.
fn establish(sockets: &[End<'_>], files: &mut [OwnedFd]) -> Result<(), FilesError> {
    for (file, state) in sockets {
        if let InetState::Connected {
            peer: InetPeer::Held(peer),
            ..
        } = state.state
        {
            let other = other_end(sockets, *file, peer)?;
            if *file < peer {
                let client = files[*file as usize].as_fd();
                files[peer as usize] = stream::establish(client, state, other)?;
            }
        }
    }
    for (file, state) in sockets {
        let own = &files[*file as usize];
        match &state.state {
            InetState::Connected {
                peer: InetPeer::Held(peer),
                queue,
                under_way,
                ..
            } => {
                let sender = &files[*peer as usize];
                stream::fill(sender, own, queue)?;
                stream::send_on(sender, under_way)?;
            }
            InetState::Connected {
                peer: InetPeer::Closed(remote),
                queue,
                ..
            } => stream::closed(own, state, *remote, queue)?,
            InetState::Over { queue } => stream::over(own, state, queue)?,
            _ => {}
        }
    }
    Ok(())
}

fn other_end<'a>(
    sockets: &[End<'a>],
    file: FileId,
    peer: FileId,
) -> Result<&'a InetSocket, FilesError> {
    let other = sockets.iter().find(|other| other.0 == peer && peer != file);
    let mutual = |other: &&InetSocket| matches!(other.state, InetState::Connected { peer: InetPeer::Held(peer), .. } if peer == file);
    let other = other.map(|other| other.1).filter(mutual);
    other.ok_or(FilesError::Malformed("such end of a connection"))
}

fn shut_down(own: BorrowedFd<'_>, shut: bool, deaf: bool) -> Result<(), FilesError> {
    let how = match (shut, deaf) {
        (false, false) => return Ok(()),
        (true, false) => Shutdown::Write,
        (false, true) => Shutdown::Read,
        (true, true) => Shutdown::Both,
    };
    rustix::net::shutdown(own, how).map_err(made())
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
    match addresses::refused(local, error) {
        Some(obstacle) => FilesError::Refused(obstacle),
        None => made()(error),
    }
}

fn made<E: Into<std::io::Error>>() -> impl FnOnce(E) -> FilesError {
    FilesError::make("a network socket")
}
