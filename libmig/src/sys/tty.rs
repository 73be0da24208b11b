//! Terminals: the ioctls of ioctl_tty(2) that nix and rustix lack, on either
//! side of a pty. Asked on a master, the kernel answers for the slave's modes,
//! session and foreground group, without a controlling terminal of one's own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use linux_raw_sys::{general::termios2, ioctl};

const TIOCGDEV: u32 = 0x8004_5432;
/// Bytes of struct termios2.
pub const TERMIOS2_SIZE: usize = size_of::<termios2>();

/// struct termios2: the modes of a terminal with arbitrary speeds.
pub type Termios2 = termios2;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An ioctl that writes one int (or unsigned int, or pid_t).
fn integer(fd: impl AsFd, request: u32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: every request passed here writes one 32-bit integer.
    check(unsafe { libc::ioctl(raw, libc::Ioctl::from(request), &raw mut value) })?;
    Ok(value)
}

/// An ioctl that reads one int.
fn set_integer(fd: impl AsFd, request: u32, value: i32) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: every request passed here reads one 32-bit integer.
    check(unsafe { libc::ioctl(raw, libc::Ioctl::from(request), &raw const value) })
}

/// TCGETS2.
///
/// # Errors
/// ENOTTY when it is no terminal, EIO when it was hung up.
pub fn modes(fd: impl AsFd) -> io::Result<Termios2> {
    let mut modes = Termios2 {
        c_iflag: 0,
        c_oflag: 0,
        c_cflag: 0,
        c_lflag: 0,
        c_line: 0,
        c_cc: [0; 19],
        c_ispeed: 0,
        c_ospeed: 0,
    };
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: TCGETS2 writes one termios2.
    check(unsafe { libc::ioctl(raw, libc::Ioctl::from(ioctl::TCGETS2), &raw mut modes) })?;
    Ok(modes)
}

/// TCSETS2: at once, queues kept.
///
/// # Errors
/// ENOTTY, EIO.
pub fn set_modes(fd: impl AsFd, modes: &Termios2) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    let modes = std::ptr::from_ref(modes);
    // SAFETY: TCSETS2 reads one termios2.
    check(unsafe { libc::ioctl(raw, libc::Ioctl::from(ioctl::TCSETS2), modes) })
}

/// The bytes of a termios2, as they travel.
#[must_use]
pub fn modes_to_bytes(modes: &Termios2) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TERMIOS2_SIZE);
    for word in [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.push(modes.c_line);
    bytes.extend_from_slice(&modes.c_cc);
    for word in [modes.c_ispeed, modes.c_ospeed] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A termios2 from its bytes; `None` when there are too few or too many.
#[must_use]
pub fn modes_from_bytes(bytes: &[u8]) -> Option<Termios2> {
    if bytes.len() != TERMIOS2_SIZE {
        return None;
    }
    let word = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(four.try_into().ok()?))
    };
    Some(Termios2 {
        c_iflag: word(0)?,
        c_oflag: word(4)?,
        c_cflag: word(8)?,
        c_lflag: word(12)?,
        c_line: *bytes.get(16)?,
        c_cc: bytes.get(17..36)?.try_into().ok()?,
        c_ispeed: word(36)?,
        c_ospeed: word(40)?,
    })
}

/// TIOCGPTN: index of a master's pty.
///
/// # Errors
/// ENOTTY when it is no master.
pub fn index(master: impl AsFd) -> io::Result<u32> {
    integer(master, ioctl::TIOCGPTN).map(i32::cast_unsigned)
}

/// TIOCGDEV: (major, minor) of the terminal itself, also through /dev/tty.
///
/// # Errors
/// ENOTTY, EIO.
pub fn device(fd: impl AsFd) -> io::Result<(u32, u32)> {
    let device = u64::from(integer(fd, TIOCGDEV)?.cast_unsigned());
    Ok((rustix::fs::major(device), rustix::fs::minor(device)))
}

/// TIOCGSID: session leader, in the caller's pid namespace; `None` when the
/// terminal controls no session.
///
/// # Errors
/// EIO when it was hung up.
pub fn session(master: impl AsFd) -> io::Result<Option<i32>> {
    match integer(master, ioctl::TIOCGSID) {
        Ok(0) => Ok(None),
        Ok(session) => Ok(Some(session)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(None),
        Err(error) => Err(error),
    }
}

/// TIOCGPGRP: foreground process group, in the caller's pid namespace; `None` for none.
///
/// # Errors
/// EIO when it was hung up.
pub fn foreground(master: impl AsFd) -> io::Result<Option<i32>> {
    match integer(master, ioctl::TIOCGPGRP) {
        Ok(0) => Ok(None),
        Ok(group) => Ok(Some(group)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(None),
        Err(error) => Err(error),
    }
}

/// TIOCGPTLCK: whether the slave cannot be opened yet.
///
/// # Errors
/// ENOTTY when it is no master.
pub fn locked(master: impl AsFd) -> io::Result<bool> {
    integer(master, ioctl::TIOCGPTLCK).map(|lock| lock != 0)
}

/// TIOCSPTLCK.
///
/// # Errors
/// ENOTTY when it is no master.
pub fn set_locked(master: impl AsFd, locked: bool) -> io::Result<()> {
    set_integer(master, ioctl::TIOCSPTLCK, locked.into())
}

/// TIOCGPKT: packet mode of a master.
///
/// # Errors
/// ENOTTY when it is no master.
pub fn packet_mode(master: impl AsFd) -> io::Result<bool> {
    integer(master, ioctl::TIOCGPKT).map(|mode| mode != 0)
}

/// TIOCPKT.
///
/// # Errors
/// ENOTTY when it is no master.
pub fn set_packet_mode(master: impl AsFd, on: bool) -> io::Result<()> {
    set_integer(master, ioctl::TIOCPKT, on.into())
}

/// TIOCGEXCL: exclusive mode of this side.
///
/// # Errors
/// ENOTTY.
pub fn exclusive(fd: impl AsFd) -> io::Result<bool> {
    integer(fd, ioctl::TIOCGEXCL).map(|mode| mode != 0)
}

/// TIOCEXCL or TIOCNXCL.
///
/// # Errors
/// ENOTTY.
pub fn set_exclusive(fd: impl AsFd, on: bool) -> io::Result<()> {
    let request = if on { ioctl::TIOCEXCL } else { ioctl::TIOCNXCL };
    // SAFETY: neither request takes an argument.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(request)) })
}

/// TIOCGWINSZ: rows, columns, x and y pixels.
///
/// # Errors
/// ENOTTY, EIO.
pub fn window(fd: impl AsFd) -> io::Result<[u16; 4]> {
    let size = rustix::termios::tcgetwinsize(fd)?;
    Ok([size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel])
}

/// TIOCSWINSZ: also tells the foreground group with SIGWINCH, if the size changes.
///
/// # Errors
/// ENOTTY, EIO.
pub fn set_window(fd: impl AsFd, [row, column, x, y]: [u16; 4]) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: row,
        ws_col: column,
        ws_xpixel: x,
        ws_ypixel: y,
    };
    Ok(rustix::termios::tcsetwinsize(fd, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_keep_their_bytes() {
        let bytes: Vec<u8> = (0u8..44).collect();
        let modes = modes_from_bytes(&bytes).unwrap();
        assert_eq!(modes_to_bytes(&modes), bytes);
        assert!(modes_from_bytes(&bytes[1..]).is_none());
    }
}
