//! What sockets need beyond nix and rustix: options by their number, a look at
//! a queue with what its messages carry, and a send with the same.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{
    self, ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, sockopt,
};

/// What one message may carry at most (SCM_MAX_FD).
const MOST_DESCRIPTORS: usize = 253;

/// A message, or a piece of a stream, that is still in its queue.
#[derive(Debug, Default)]
pub struct Peeked {
    /// How many bytes were copied.
    pub length: usize,
    /// The buffer was too short for it.
    pub truncated: bool,
    /// Duplicates of the descriptors that it carries.
    pub descriptors: Vec<OwnedFd>,
    /// Process, user and group of the sender as this process knows them; only
    /// with SO_PASSCRED.
    pub credentials: Option<(i32, u32, u32)>,
    /// It carries something else, too.
    pub unknown: bool,
}

/// An option of SOL_SOCKET that is an int.
///
/// # Errors
/// ENOPROTOOPT for one that this kernel does not have.
pub fn option(fd: impl AsFd, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    get(fd.as_fd(), name, &mut value)?;
    Ok(value)
}

/// Sets an option of SOL_SOCKET that is an int.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_option(fd: impl AsFd, name: i32, value: i32) -> io::Result<()> {
    set(fd.as_fd(), name, &value)
}

/// SO_RCVTIMEO or SO_SNDTIMEO in microseconds; 0 for none.
///
/// # Errors
/// What getsockopt(2) says.
pub fn timeout(fd: impl AsFd, name: i32) -> io::Result<u64> {
    let mut time = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    get(fd.as_fd(), name, &mut time)?;
    let whole = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_usec).unwrap_or(0);
    Ok(whole.saturating_mul(1_000_000).saturating_add(rest))
}

/// Sets SO_RCVTIMEO or SO_SNDTIMEO in microseconds.
///
/// # Errors
/// EDOM for times beyond what the kernel counts.
pub fn set_timeout(fd: impl AsFd, name: i32, micros: u64) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        tv_usec: i64::try_from(micros % 1_000_000).expect("below a second"),
    };
    set(fd.as_fd(), name, &time)
}

/// SO_PEERCRED: process, user and group of the peer as this process knows them.
///
/// # Errors
/// What getsockopt(2) says.
pub fn peer_credentials(fd: impl AsFd) -> io::Result<(i32, u32, u32)> {
    let found = socket::getsockopt(&fd.as_fd(), sockopt::PeerCredentials)?;
    Ok((found.pid(), found.uid(), found.gid()))
}

/// Whether the socket has a packet filter.
///
/// # Errors
/// What getsockopt(2) says.
pub fn has_filter(fd: impl AsFd) -> io::Result<bool> {
    let mut count: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel writes nothing but the length.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut count,
        )
    };
    match check(answer) {
        Ok(()) => Ok(count > 0),
        // One that is no classic program.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(true),
        Err(error) => Err(error),
    }
}

/// SIOCOUTQ: the kernel's memory that holds what this Unix socket has sent and
/// nobody has read.
///
/// # Errors
/// What ioctl(2) says.
pub fn unread(fd: impl AsFd) -> io::Result<i32> {
    let mut memory: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ, writes one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut memory) })?;
    Ok(memory)
}

/// The next message (from SO_PEEK_OFF on, where that is set), which stays in
/// its queue.
///
/// # Errors
/// EAGAIN when there is none.
pub fn peek(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Peeked> {
    let mut space = nix::cmsg_space!(UnixCredentials, [RawFd; MOST_DESCRIPTORS]);
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut pieces = [IoSliceMut::new(buffer)];
    let raw = fd.as_fd().as_raw_fd();
    let received = socket::recvmsg::<()>(raw, &mut pieces, Some(&mut space), flags)?;
    let mut peeked = Peeked {
        length: received.bytes,
        truncated: received.flags.contains(MsgFlags::MSG_TRUNC),
        unknown: received.flags.contains(MsgFlags::MSG_CTRUNC),
        ..Peeked::default()
    };
    let Ok(carried) = received.cmsgs() else {
        return Ok(peeked);
    };
    for message in carried {
        match message {
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel has just made these descriptors for us.
                let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
                peeked.descriptors.extend(numbers.into_iter().map(own));
            }
            ControlMessageOwned::ScmCredentials(sender) if sender.pid() != 0 => {
                peeked.credentials = Some((sender.pid(), sender.uid(), sender.gid()));
            }
            ControlMessageOwned::ScmCredentials(_) => {}
            _ => peeked.unknown = true,
        }
    }
    Ok(peeked)
}

/// Sends without waiting, and as somebody else where `credentials` say so.
///
/// # Errors
/// EAGAIN without room; EPIPE, without a signal; ESRCH for a sender that is not there.
pub fn send(
    fd: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    credentials: Option<(i32, u32, u32)>,
) -> io::Result<usize> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let sender =
        credentials.map(|(pid, uid, gid)| UnixCredentials::from(libc::ucred { pid, uid, gid }));
    let mut carried = Vec::new();
    if !numbers.is_empty() {
        carried.push(ControlMessage::ScmRights(&numbers));
    }
    carried.extend(sender.as_ref().map(ControlMessage::ScmCredentials));
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let raw = fd.as_fd().as_raw_fd();
    let pieces = [IoSlice::new(bytes)];
    Ok(socket::sendmsg::<()>(raw, &pieces, &carried, flags, None)?)
}

fn get<T>(fd: BorrowedFd<'_>, name: i32, value: &mut T) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel writes at most `length` bytes to `value`, which is a
    // plain int or timeval: any bytes are one.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    })
}

fn set<T>(fd: BorrowedFd<'_>, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel reads at most `length` bytes of `value`.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
