//! What sockets need beyond nix and rustix: options by their number, a look at
//! a queue with what its messages carry, and a send with the same.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{self, ControlMessage, MsgFlags, UnixCredentials, sockopt};

/// SO_BUF_LOCK, since Linux 5.15: 1 where the size of the send buffer, 2 where that of
/// the receive buffer has been chosen.
pub const SO_BUF_LOCK: i32 = 72;
/// What one message may carry at most (SCM_MAX_FD).
const MOST_DESCRIPTORS: usize = 253;
/// Words of a buffer for that, a sender, and something unknown.
const CONTROL: usize = MOST_DESCRIPTORS / 2 + 32;

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
    /// Address of the datagram socket that sent it: a path, or a zero and an
    /// abstract name.
    pub from: Option<Vec<u8>>,
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

/// An option of any level that is an int.
///
/// # Errors
/// ENOPROTOOPT for one that this kernel or kind of socket does not have.
pub fn option_at(fd: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    get_at(fd.as_fd(), (level, name), &mut value).map(|_| value)
}

/// Sets an option of any level that is an int.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_option_at(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_at(fd.as_fd(), (level, name), &value)
}

/// SO_LINGER: seconds, if it is on.
///
/// # Errors
/// What getsockopt(2) says.
pub fn linger(fd: impl AsFd) -> io::Result<Option<i32>> {
    let mut found = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    get(fd.as_fd(), libc::SO_LINGER, &mut found)?;
    Ok((found.l_onoff != 0).then_some(found.l_linger))
}

/// Sets SO_LINGER.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_linger(fd: impl AsFd, seconds: Option<i32>) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: seconds.is_some().into(),
        l_linger: seconds.unwrap_or(0),
    };
    set(fd.as_fd(), libc::SO_LINGER, &linger)
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

/// SIOCOUTQ: of a Unix socket, the kernel's memory that holds what it has sent and
/// nobody has read; of a TCP socket, bytes and an end that nobody has acknowledged.
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
    let mut space = [0u64; CONTROL];
    let mut name = [0u8; size_of::<libc::sockaddr_un>() + 1];
    let mut piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: a msghdr is plain integers and pointers, for which zeros are right.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = space.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&space);
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = libc::socklen_t::try_from(name.len()).expect("addresses are short");
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to buffers of the lengths that it tells, which outlive the call.
    let received = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut peeked = Peeked {
        length,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        from: name_of(&name[..name.len().min(header.msg_namelen as usize)]),
        unknown: header.msg_flags & libc::MSG_CTRUNC != 0,
        ..Peeked::default()
    };
    take_carried(&header, &mut peeked);
    Ok(peeked)
}

/// What came with a message. `header` is as recvmsg(2) has left it, its buffers are alive.
fn take_carried(header: &libc::msghdr, peeked: &mut Peeked) {
    // SAFETY: the kernel has filled the control buffer, which is aligned, and told its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: as above; each header is whole.
        let (one, data) = unsafe { (next.read(), libc::CMSG_DATA(next)) };
        // SAFETY: pure arithmetic.
        let length = one.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
        match (one.cmsg_level, one.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..length / size_of::<RawFd>() {
                    // SAFETY: the message has that many numbers, of descriptors that the
                    // kernel has just made for us.
                    let own = unsafe {
                        OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned())
                    };
                    peeked.descriptors.push(own);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: the message is that long, and any bytes are a ucred.
                let sender = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                if sender.pid != 0 {
                    peeked.credentials = Some((sender.pid, sender.uid, sender.gid));
                }
            }
            _ => peeked.unknown = true,
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
}

/// A path without its zero, or a zero and an abstract name, of a sockaddr_un.
fn name_of(address: &[u8]) -> Option<Vec<u8>> {
    let name = address.get(size_of::<libc::sa_family_t>()..)?;
    match name.first()? {
        0 => Some(name.to_vec()),
        _ => name.split(|byte| *byte == 0).next().map(<[u8]>::to_vec),
    }
}

/// SIOCUNIXFILE: an O_PATH descriptor of the file that bind(2) has made for a
/// Unix socket.
///
/// # Errors
/// ENOENT when its address is no path.
pub fn file(fd: impl AsFd) -> io::Result<OwnedFd> {
    const SIOCUNIXFILE: libc::Ioctl = 0x89e0;
    // SAFETY: it takes no argument, and returns a new descriptor.
    let made = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), SIOCUNIXFILE) };
    check(made)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
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
    get_at(fd, (libc::SOL_SOCKET, name), value).map(drop)
}

/// How many bytes the kernel has written is returned.
pub(super) fn get_at<T>(
    fd: BorrowedFd<'_>,
    (level, name): (i32, i32),
    value: &mut T,
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel writes at most `length` bytes to `value`, which is
    // plain ints: any bytes are one.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    })?;
    Ok(length as usize)
}

fn set<T>(fd: BorrowedFd<'_>, name: i32, value: &T) -> io::Result<()> {
    set_at(fd, (libc::SOL_SOCKET, name), value)
}

pub(super) fn set_at<T>(
    fd: BorrowedFd<'_>,
    (level, name): (i32, i32),
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel reads at most `length` bytes of `value`.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
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
