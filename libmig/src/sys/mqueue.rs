//! mq_overview(7), without a C library: names have no slash, and every call acts on the IPC
//! namespace of the calling thread.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

/// What a queue has room for, and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Messages that it holds at most.
    pub most: i64,
    /// Bytes of the longest message.
    pub longest: i64,
    /// Messages that wait.
    pub waiting: i64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// mq_open(3) of a queue that is there.
///
/// # Errors
/// ENOENT when it is not.
pub fn open(name: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let nothing = ptr::null::<libc::c_long>();
    // SAFETY: the name ends with a zero byte; no attributes are read of a queue that exists.
    let opened =
        check(unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0, nothing) })?;
    // SAFETY: the kernel has made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(opened).unwrap_or(-1)) })
}

/// mq_open(3) of a new queue, for its owner alone, open for both and not blocking.
///
/// # Errors
/// EMFILE beyond RLIMIT_MSGQUEUE, EINVAL for attributes that no kernel takes.
pub fn make(name: &CStr, most: i64, longest: i64) -> io::Result<OwnedFd> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK;
    let attributes: [i64; 8] = [0, most, longest, 0, 0, 0, 0, 0];
    // SAFETY: the name ends with a zero byte; struct mq_attr has eight words.
    let opened = check(unsafe {
        libc::syscall(
            libc::SYS_mq_open,
            name.as_ptr(),
            flags,
            0o600,
            attributes.as_ptr(),
        )
    })?;
    // SAFETY: the kernel has made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(opened).unwrap_or(-1)) })
}

/// mq_getattr(3).
///
/// # Errors
/// EBADF for what is no queue.
pub fn attributes(queue: impl AsFd) -> io::Result<Attributes> {
    let mut words = [0i64; 8];
    let number = queue.as_fd().as_raw_fd();
    // SAFETY: struct mq_attr has eight words; nothing is set.
    check(unsafe {
        libc::syscall(
            libc::SYS_mq_getsetattr,
            number,
            ptr::null::<i64>(),
            words.as_mut_ptr(),
        )
    })?;
    let [_, most, longest, waiting, ..] = words;
    Ok(Attributes {
        most,
        longest,
        waiting,
    })
}

/// Takes the first message, with its priority, out of a queue that does not block and whose
/// messages have `longest` bytes at most; nothing of an empty one.
///
/// # Errors
/// mq_receive(3).
pub fn receive(queue: impl AsFd, longest: usize) -> io::Result<Option<(u32, Vec<u8>)>> {
    let mut text = vec![0u8; longest];
    let mut priority = 0u32;
    let number = queue.as_fd().as_raw_fd();
    let forever = ptr::null::<libc::timespec>();
    // SAFETY: the kernel writes at most `longest` bytes, and the priority.
    let got = check(unsafe {
        libc::syscall(
            libc::SYS_mq_timedreceive,
            number,
            text.as_mut_ptr(),
            longest,
            &raw mut priority,
            forever,
        )
    });
    match got {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
        Ok(length) => {
            text.truncate(usize::try_from(length).unwrap_or(0));
            Ok(Some((priority, text)))
        }
    }
}

/// mq_send(3) to a queue that does not block.
///
/// # Errors
/// EAGAIN when it is full.
pub fn send(queue: impl AsFd, priority: u32, text: &[u8]) -> io::Result<()> {
    let number = queue.as_fd().as_raw_fd();
    let forever = ptr::null::<libc::timespec>();
    // SAFETY: the kernel reads as many bytes as the text has.
    check(unsafe {
        libc::syscall(
            libc::SYS_mq_timedsend,
            number,
            text.as_ptr(),
            text.len(),
            priority,
            forever,
        )
    })?;
    Ok(())
}
