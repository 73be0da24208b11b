//! Namespaces as objects (ioctl_ns(2)), and the loopback device of a network namespace.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    thread,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::HostPid;

/// linux/nsfs.h.
const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
/// linux/sockios.h.
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// The user namespace that owns a namespace (NS_GET_USERNS); of a user namespace: its parent.
///
/// # Errors
/// EPERM when it lies outside of the caller's own user namespace.
pub fn owner(namespace: impl AsFd) -> io::Result<OwnedFd> {
    descriptor(namespace, NS_GET_USERNS)
}

/// The network namespace that a socket was made in (SIOCGSKNS).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over it.
pub fn of_socket(socket: impl AsFd) -> io::Result<OwnedFd> {
    descriptor(socket, SIOCGSKNS)
}

/// Who made a user namespace (NS_GET_OWNER_UID), in the caller's user namespace.
///
/// # Errors
/// EINVAL when it is none.
pub fn owner_uid(namespace: impl AsFd) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: NS_GET_OWNER_UID writes one uid_t.
    check(unsafe { libc::ioctl(fd, NS_GET_OWNER_UID, &raw mut uid) })?;
    Ok(uid)
}

/// Calls `look` with a process that is in a user namespace, for as long as that takes: one
/// that is made for it, since only of a process does /proc tell the maps.
///
/// # Errors
/// setns(2), or no process can be made.
pub fn with_resident<T>(namespace: impl AsFd, look: impl FnOnce(HostPid) -> T) -> io::Result<T> {
    let namespace = namespace.as_fd().as_raw_fd();
    let (mut told, tell) = io::pipe()?;
    let (wait, leave) = io::pipe()?;
    let (tell_fd, wait_fd) = (tell.as_raw_fd(), wait.as_raw_fd());
    let leave_fd = leave.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: between fork and exec the closure makes system calls only, allocates nothing and
    // takes no lock; it always fails, so that nothing is executed.
    unsafe {
        command.pre_exec(move || {
            libc::close(leave_fd);
            if libc::setns(namespace, libc::CLONE_NEWUSER) == 0 {
                let own = libc::getpid().to_ne_bytes();
                libc::write(tell_fd, own.as_ptr().cast(), own.len());
                let mut nothing = 0u8;
                libc::read(wait_fd, (&raw mut nothing).cast(), 1);
            }
            Err(io::Error::from_raw_os_error(libc::ECANCELED))
        });
    }
    thread::scope(|scope| {
        // Returns when the child has ended; nobody else has the end that tells then.
        let child = scope.spawn(move || {
            let ended = command.spawn();
            drop(tell);
            ended.map(drop)
        });
        let mut own = [0; 4];
        let found = told
            .read_exact(&mut own)
            .map(|()| look(HostPid::new(i32::from_ne_bytes(own))));
        drop(leave);
        drop(child.join());
        found
    })
}

/// Whether `lo` of the calling thread's network namespace is up.
///
/// # Errors
/// SIOCGIFFLAGS.
pub fn loopback_is_up() -> io::Result<bool> {
    let (socket, mut request) = loopback()?;
    interface(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    Ok(flags(&request) & libc::IFF_UP != 0)
}

/// Brings `lo` of the calling thread's network namespace up: the kernel gives it its addresses.
///
/// # Errors
/// SIOCGIFFLAGS, SIOCSIFFLAGS.
pub fn raise_loopback() -> io::Result<()> {
    let (socket, mut request) = loopback()?;
    interface(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    let up = flags(&request) | libc::IFF_UP;
    let low = u16::try_from(up & 0xffff).unwrap_or(0);
    request[FLAGS..FLAGS + 2].copy_from_slice(&low.to_ne_bytes());
    interface(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// struct ifreq: IFNAMSIZ bytes of name, then a union.
type Request = [u8; size_of::<libc::ifreq>()];
const FLAGS: usize = libc::IFNAMSIZ;

fn loopback() -> io::Result<(OwnedFd, Request)> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut request = [0; size_of::<libc::ifreq>()];
    request[..2].copy_from_slice(b"lo");
    Ok((socket, request))
}

fn flags(request: &Request) -> libc::c_int {
    u16::from_ne_bytes([request[FLAGS], request[FLAGS + 1]]).into()
}

fn interface(socket: &OwnedFd, command: libc::Ioctl, request: &mut Request) -> io::Result<()> {
    // SAFETY: both commands read and write one struct ifreq, whose size the array has.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), command, request.as_mut_ptr()) })?;
    Ok(())
}

fn descriptor(from: impl AsFd, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: these take no argument and return a new descriptor.
    let fd = check(unsafe { libc::ioctl(from.as_fd().as_raw_fd(), request) })?;
    // SAFETY: it was made for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn a_namespace_has_an_owner_and_a_socket_a_namespace() {
        let own = File::open("/proc/self/ns/uts").unwrap();
        let user = std::fs::metadata("/proc/self/ns/user").unwrap().ino();
        let found = File::from(owner(&own).unwrap());
        assert_eq!(found.metadata().unwrap().ino(), user);
        let (socket, _) = loopback().unwrap();
        let net = File::from(of_socket(&socket).unwrap());
        let expected = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(net.metadata().unwrap().ino(), expected);
        loopback_is_up().unwrap();
    }
}
