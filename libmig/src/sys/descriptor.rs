//! What descriptors need beyond nix and rustix: identity of open file
//! descriptions (F_DUPFD_QUERY, kcmp), owners of SIGIO, raw status flags,
//! signalfd with a kernel mask, and timerfd with its ticks.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// F_DUPFD_QUERY of Linux 6.10; neither libc nor rustix names it yet.
const F_DUPFD_QUERY: i32 = 1027;
/// Linux's own fcntl commands, which libc leaves out.
const F_GETSIG: i32 = 11;
const F_GETOWN_EX: i32 = 16;
const KCMP_FILE: i32 = 0;
const KCMP_EPOLL_TFD: i32 = 7;

/// struct f_owner_ex.
#[repr(C)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

/// struct kcmp_epoll_slot.
#[repr(C)]
struct EpollSlot {
    efd: u32,
    tfd: u32,
    toff: u32,
}

/// An entry of an epoll interest list, addressed as kcmp(2) does.
#[derive(Debug, Clone, Copy)]
pub struct EpollTarget {
    /// The epoll descriptor in its process.
    pub epoll: i32,
    /// The number under which the target was added.
    pub number: i32,
    /// How many entries with the same number come before it in fdinfo.
    pub skip: u32,
}

fn check(result: libc::c_long) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(result).unwrap_or(i32::MAX))
    }
}

/// Whether two descriptors of this process are one open file description
/// (F_DUPFD_QUERY, Linux 6.10; before that kcmp KCMP_FILE).
///
/// # Errors
/// EPERM where kcmp is the only way and is forbidden.
pub fn same_description(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (a.as_fd().as_raw_fd(), b.as_fd().as_raw_fd());
    // SAFETY: both numbers are open descriptors, and the command takes no pointer.
    let answer = check(unsafe { libc::fcntl(a, F_DUPFD_QUERY, b) }.into());
    match answer {
        Ok(same) => Ok(same == 1),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let own = nix::unistd::getpid().as_raw();
            // SAFETY: kcmp takes five integers for KCMP_FILE.
            let order = check(unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, a, b) })?;
            Ok(order == 0)
        }
        Err(error) => Err(error),
    }
}

/// Whether descriptor `number` of process `pid` is the target of an epoll
/// entry of process `owner` (kcmp KCMP_EPOLL_TFD). Both IDs are of the caller's
/// pid namespace.
///
/// # Errors
/// ENOENT when there is no such entry; EPERM and ESRCH as kcmp(2) says.
pub fn is_epoll_target(pid: i32, number: i32, owner: i32, target: EpollTarget) -> io::Result<bool> {
    let slot = EpollSlot {
        efd: target.epoll.cast_unsigned(),
        tfd: target.number.cast_unsigned(),
        toff: target.skip,
    };
    // SAFETY: for KCMP_EPOLL_TFD the last argument points to a kcmp_epoll_slot,
    // which lives across the call and is only read.
    let order = check(unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pid,
            owner,
            KCMP_EPOLL_TFD,
            number,
            std::ptr::from_ref(&slot),
        )
    })?;
    Ok(order == 0)
}

/// F_GETOWN_EX: the kind (F_OWNER_*) and the ID in the caller's pid namespace;
/// an ID of 0 means that nobody gets SIGIO.
///
/// # Errors
/// EBADF for O_PATH descriptors.
pub fn owner(fd: impl AsFd) -> io::Result<(i32, i32)> {
    let mut owner = OwnerEx { kind: 0, pid: 0 };
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: F_GETOWN_EX writes one f_owner_ex.
    check(unsafe { libc::fcntl(raw, F_GETOWN_EX, &raw mut owner) }.into())?;
    Ok((owner.kind, owner.pid))
}

/// F_GETSIG: the signal that comes instead of SIGIO; 0 for SIGIO itself.
///
/// # Errors
/// EBADF for O_PATH descriptors.
pub fn owner_signal(fd: impl AsFd) -> io::Result<i32> {
    // SAFETY: F_GETSIG takes no argument.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETSIG) }.into())
}

/// F_GETFL with every bit the kernel gives: libc has O_LARGEFILE as 0 on
/// 64-bit machines, and rustix hides what it has no name for.
///
/// # Errors
/// EBADF only.
pub fn status_flags(fd: impl AsFd) -> io::Result<i32> {
    // SAFETY: F_GETFL takes no argument.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) }.into())
}

/// F_SETFL. The kernel takes O_APPEND, O_ASYNC, O_DIRECT, O_NOATIME and O_NONBLOCK from it.
///
/// # Errors
/// EPERM for O_NOATIME without ownership, EINVAL for O_DIRECT where there is none.
pub fn set_status_flags(fd: impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: F_SETFL takes an integer.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFL, flags) }.into()).map(drop)
}

/// signalfd4(2) with the kernel's own 64-bit mask, bit n-1 for signal n. The C
/// library's set would drop the two signals that it keeps for itself.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn signalfd(mask: u64) -> io::Result<OwnedFd> {
    // SAFETY: the mask is 8 bytes long, as the size argument says, and is only read.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            std::ptr::from_ref(&mask),
            size_of::<u64>(),
            libc::SFD_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// MAX_HANDLE_SZ.
const LONGEST: usize = 128;

/// struct file_handle.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; LONGEST],
}

/// name_to_handle_at(2): the ID of the mount that a file was opened in, and type and bytes of its
/// handle, also of one that nobody can open by (AT_HANDLE_FID, Linux 6.5), as fdinfo shows it.
///
/// # Errors
/// EOPNOTSUPP where the file system has no handles.
pub fn handle(file: impl AsFd) -> io::Result<(i32, i32, Vec<u8>)> {
    const AT_HANDLE_FID: i32 = 0x200;
    let mut found = Handle {
        bytes: u32::try_from(LONGEST).expect("a small number"),
        kind: 0,
        handle: [0; LONGEST],
    };
    let mut mount = 0_i32;
    let mut ask = |flags: i32| {
        // SAFETY: the name is empty and ends with a zero; the kernel writes a header and as
        // many bytes as that offers, and an integer.
        check(unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut found,
                &raw mut mount,
                libc::AT_EMPTY_PATH | flags,
            )
        })
    };
    ask(AT_HANDLE_FID).or_else(|_| ask(0))?;
    let length = usize::try_from(found.bytes).unwrap_or(LONGEST).min(LONGEST);
    Ok((mount, found.kind, found.handle[..length].to_vec()))
}

/// open_by_handle_at(2) with O_PATH: the file with this handle in the file system of `mount`.
///
/// # Errors
/// ESTALE when there is none any more; EOPNOTSUPP or EINVAL where handles lead nowhere.
pub fn open_by_handle(mount: impl AsFd, kind: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut argument = Handle {
        bytes: u32::try_from(handle.len()).map_err(|_| invalid())?,
        kind,
        handle: [0; LONGEST],
    };
    let place = argument.handle.get_mut(..handle.len());
    place.ok_or_else(invalid)?.copy_from_slice(handle);
    // SAFETY: the kernel reads the header and as many bytes as it says, which are there.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw mut argument,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// INOTIFY_IOC_SETNEXTWD (Linux 4.16, CONFIG_CHECKPOINT_RESTORE): the number of the
/// next watch.
///
/// # Errors
/// EINVAL for a number that is not positive; ENOTTY where the kernel cannot.
pub fn set_next_watch(inotify: impl AsFd, wd: i32) -> io::Result<()> {
    const INOTIFY_IOC_SETNEXTWD: u64 = 0x4004_4900;
    // SAFETY: the argument is an integer.
    check(unsafe { libc::ioctl(inotify.as_fd().as_raw_fd(), INOTIFY_IOC_SETNEXTWD, wd) }.into())?;
    Ok(())
}

/// timerfd_create(2), close-on-exec.
///
/// # Errors
/// EINVAL for an unknown clock; EPERM for the alarm clocks without CAP_WAKE_ALARM.
pub fn timerfd(clock: i32) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = check(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn timespec(ns: u64) -> libc::timespec {
    let seconds = i64::try_from(ns / 1_000_000_000).expect("2^64 ns are fewer than 2^63 s");
    let rest = i64::try_from(ns % 1_000_000_000).expect("below a second");
    libc::timespec {
        tv_sec: seconds,
        tv_nsec: rest,
    }
}

/// timerfd_settime(2) in nanoseconds; `value` 0 disarms.
///
/// # Errors
/// EINVAL for unknown flags or a descriptor that is no timer.
pub fn set_timerfd(fd: impl AsFd, flags: i32, value_ns: u64, interval_ns: u64) -> io::Result<()> {
    let new = libc::itimerspec {
        it_interval: timespec(interval_ns),
        it_value: timespec(value_ns),
    };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `new` is only read, and the old value may be null.
    check(unsafe { libc::timerfd_settime(fd, flags, &raw const new, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// timerfd_gettime(2), for its side effect alone: it lets the kernel count the
/// periods that an expired periodic timer has missed, as the next read would.
///
/// # Errors
/// EINVAL when the descriptor is no timer.
pub fn settle_timerfd(fd: impl AsFd) -> io::Result<()> {
    let mut now = libc::itimerspec {
        it_interval: timespec(0),
        it_value: timespec(0),
    };
    // SAFETY: the kernel writes one itimerspec.
    check(unsafe { libc::timerfd_gettime(fd.as_fd().as_raw_fd(), &raw mut now) }.into()).map(drop)
}

/// TFD_IOC_SET_TICKS: expirations that the next read returns; not 0.
///
/// # Errors
/// EINVAL for 0, ENOTTY without CONFIG_CHECKPOINT_RESTORE.
pub fn set_timerfd_ticks(fd: impl AsFd, ticks: u64) -> io::Result<()> {
    let request = libc::Ioctl::from(linux_raw_sys::ioctl::TFD_IOC_SET_TICKS);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: TFD_IOC_SET_TICKS reads one u64.
    check(unsafe { libc::ioctl(fd, request, &raw const ticks) }.into()).map(drop)
}
