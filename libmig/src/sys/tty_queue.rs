//! What lies in a pty and has not been read yet. The kernel has no way to look
//! at it, so it is read and put back at once; nobody who holds the terminal may
//! run in between. Nothing is echoed, interpreted or turned into a signal.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use linux_raw_sys::general as k;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    pty::OpenptFlags,
};

use super::tty::{self, Termios2};
use crate::image::TtyInput;

/// The line discipline keeps at most 4 KiB, and the buffers before it 64 KiB.
const MAX_PIECES: usize = 128 * 1024;
const READ_SIZE: usize = 64 * 1024;
const NEWLINE: u8 = b'\n';

/// A slave of our own: reads of it leave the flags of the program's alone.
fn private_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(master, flags)?;
    rustix::io::ioctl_fionbio(&slave, true)?;
    Ok(slave)
}

/// The input that the program has not read, put back behind its back. Call it
/// only while a slave is open: the last close of a slave hangs the master up.
///
/// # Errors
/// When the terminal was hung up, or the input could not be put back.
pub fn peek_input(master: impl AsFd) -> io::Result<Vec<TtyInput>> {
    let master = master.as_fd();
    let slave = private_slave(master)?;
    let modes = tty::modes(master)?;
    let input = take_input(&slave, &modes)?;
    put_input(master, &input)?;
    Ok(input)
}

fn take_input(slave: &OwnedFd, modes: &Termios2) -> io::Result<Vec<TtyInput>> {
    let mut input = Vec::new();
    if modes.c_lflag & k::ICANON == 0 {
        take_raw(slave, &mut input)?;
        return Ok(input);
    }
    while input.len() < MAX_PIECES {
        let Some(line) = read_some(slave)? else { break };
        let complete = line.last().is_some_and(|last| ends_line(modes, *last));
        if !line.is_empty() {
            input.push(TtyInput::Bytes(line));
        }
        if !complete {
            // ^D at the start of a line, or right behind it.
            input.push(TtyInput::Eof);
        }
    }
    // Only in raw mode can the line be read that is still being typed. The
    // switch forgets where lines end, and so comes when none is left.
    let mut raw = *modes;
    raw.c_lflag &= !k::ICANON;
    raw.c_cc[k::VMIN as usize] = 1;
    raw.c_cc[k::VTIME as usize] = 0;
    tty::set_modes(slave, &raw)?;
    let rest = take_raw(slave, &mut input);
    tty::set_modes(slave, modes)?;
    rest?;
    Ok(input)
}

fn take_raw(slave: &OwnedFd, input: &mut Vec<TtyInput>) -> io::Result<()> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_PIECES {
        match read_some(slave)? {
            Some(more) if !more.is_empty() => bytes.extend_from_slice(&more),
            _ => break,
        }
    }
    if !bytes.is_empty() {
        input.push(TtyInput::Bytes(bytes));
    }
    Ok(())
}

/// One read; `None` when there is nothing. The kernel pushes what is on its
/// way through the line discipline before it says so.
fn read_some(fd: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(Some(buffer));
            }
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn ends_line(modes: &Termios2, byte: u8) -> bool {
    let extra = [modes.c_cc[k::VEOL as usize], modes.c_cc[k::VEOL2 as usize]];
    byte == NEWLINE || (byte != 0 && extra.contains(&byte))
}

/// Types `input` into a terminal as it was typed once: line ends stay where
/// they were, nothing is echoed, no byte is a signal or an erase character.
///
/// # Errors
/// When the terminal takes no more.
pub fn put_input(master: impl AsFd, input: &[TtyInput]) -> io::Result<()> {
    if input.is_empty() {
        return Ok(());
    }
    let master = master.as_fd();
    let modes = tty::modes(master)?;
    let canonical = modes.c_lflag & k::ICANON != 0;
    let used = |byte: &u8| {
        input
            .iter()
            .any(|piece| matches!(piece, TtyInput::Bytes(bytes) if bytes.contains(byte)))
    };
    let mut unused = (1..=u8::MAX).filter(|byte| !used(byte) && !ends_line(&modes, *byte));
    // All 254 in use at once: then a quoted byte is better than none.
    let end_of_file = unused.next().unwrap_or(4);
    let quote = unused.next().unwrap_or(22);
    tty::set_modes(master, &typing_modes(&modes, end_of_file, quote))?;
    let typed = type_bytes(input, &modes, canonical, end_of_file, quote);
    let written = write_all(master, &typed).and_then(|()| settle(master));
    tty::set_modes(master, &modes)?;
    written
}

/// Modes that let bytes through. Start and stop characters are switched off by
/// having none: to clear IXON would restart an output that ^S has stopped.
fn typing_modes(modes: &Termios2, end_of_file: u8, quote: u8) -> Termios2 {
    let mut quiet = *modes;
    quiet.c_lflag &= !(k::ECHO | k::ECHOE | k::ECHOK | k::ECHONL | k::ISIG);
    quiet.c_lflag |= k::IEXTEN;
    quiet.c_iflag &= !(k::IXANY
        | k::ICRNL
        | k::INLCR
        | k::IGNCR
        | k::ISTRIP
        | k::IUCLC
        | k::PARMRK
        | k::INPCK
        | k::IMAXBEL);
    let kept = [k::VEOL, k::VEOL2, k::VMIN, k::VTIME];
    for (index, character) in quiet.c_cc.iter_mut().enumerate() {
        if !kept.iter().any(|keep| *keep as usize == index) {
            *character = 0;
        }
    }
    quiet.c_cc[k::VEOF as usize] = end_of_file;
    quiet.c_cc[k::VLNEXT as usize] = quote;
    quiet
}

fn type_bytes(
    input: &[TtyInput],
    modes: &Termios2,
    canonical: bool,
    end_of_file: u8,
    quote: u8,
) -> Vec<u8> {
    let mut typed = Vec::new();
    for piece in input {
        let TtyInput::Bytes(bytes) = piece else {
            typed.push(end_of_file);
            continue;
        };
        for (index, byte) in bytes.iter().enumerate() {
            let inside = index + 1 < bytes.len();
            if canonical && inside && ends_line(modes, *byte) {
                typed.push(quote);
            }
            typed.push(*byte);
        }
    }
    typed
}

/// Waits until the line discipline has seen what was written: the kernel does
/// that in a worker, and the modes must not change before. A read of nothing
/// through a slave of our own would take input away; poll waits as well.
fn settle(master: BorrowedFd<'_>) -> io::Result<()> {
    let slave = private_slave(master)?;
    wait(slave.as_fd(), PollFlags::IN, 0).map(drop)
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, milliseconds: i64) -> io::Result<bool> {
    let mut poll = [PollFd::from_borrowed_fd(fd, events)];
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: milliseconds * 1_000_000,
    };
    rustix::event::poll(&mut poll, Some(&timeout))?;
    Ok(poll[0].revents().intersects(events))
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // Neither end may block us: the other side does not run.
        if !wait(fd, PollFlags::OUT, 500)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let chunk = &bytes[..bytes.len().min(1024)];
        match rustix::io::write(fd, chunk) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the program has written and nobody has read from the master yet, put
/// back at once. Call it only while a slave is open.
///
/// # Errors
/// When the terminal was hung up, or its output is stopped.
pub fn peek_output(master: impl AsFd) -> io::Result<Vec<u8>> {
    let master = master.as_fd();
    let mut output = Vec::new();
    if !wait(master, PollFlags::IN, 0)? {
        return Ok(output);
    }
    let packets = tty::packet_mode(master)?;
    if packets {
        // Else every read starts with a status byte.
        tty::set_packet_mode(master, false)?;
    }
    let mut buffer = vec![0; READ_SIZE];
    // The master may be in blocking mode, which is the program's: only read
    // when the kernel says that there is something.
    while output.len() < MAX_PIECES && wait(master, PollFlags::IN, 0)? {
        let count = rustix::io::read(master, &mut buffer)?;
        if count == 0 {
            break;
        }
        output.extend_from_slice(&buffer[..count]);
    }
    let put_back = put_output(master, &output);
    if packets {
        tty::set_packet_mode(master, true)?;
    }
    put_back?;
    Ok(output)
}

/// Writes `output` as the program wrote it once, without processing it again.
///
/// # Errors
/// When the terminal takes no more, or its output is stopped.
pub fn put_output(master: impl AsFd, output: &[u8]) -> io::Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    let master = master.as_fd();
    let slave = private_slave(master)?;
    let modes = tty::modes(master)?;
    let mut raw = modes;
    raw.c_oflag &= !k::OPOST;
    tty::set_modes(master, &raw)?;
    let mut written = write_all(slave.as_fd(), output);
    if matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
        written = write_stopped(master, &slave, &raw, output);
    }
    tty::set_modes(master, &modes)?;
    written
}

/// Output that was stopped by ^S takes nothing: start it, write, stop it again.
fn write_stopped(
    master: BorrowedFd<'_>,
    slave: &OwnedFd,
    modes: &Termios2,
    output: &[u8],
) -> io::Result<()> {
    write_all(master, &[modes.c_cc[k::VSTART as usize]])?;
    let written = write_all(slave.as_fd(), output);
    write_all(master, &[modes.c_cc[k::VSTOP as usize]])?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pty() -> (OwnedFd, OwnedFd) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        (master, slave)
    }

    fn set_local(master: &OwnedFd, on: u32, off: u32) {
        let mut modes = tty::modes(master).unwrap();
        modes.c_lflag = (modes.c_lflag | on) & !off;
        tty::set_modes(master, &modes).unwrap();
    }

    fn bytes(text: &[u8]) -> TtyInput {
        TtyInput::Bytes(text.to_vec())
    }

    #[test]
    fn lines_ends_of_file_and_the_unfinished_line_stay() {
        let (master, slave) = pty();
        set_local(&master, 0, k::ECHO);
        rustix::io::write(&master, b"one\ntwo\n\x04half\x04\x16\x03quoted\x7f!").unwrap();
        let expected = [
            bytes(b"one\n"),
            bytes(b"two\n"),
            TtyInput::Eof,
            bytes(b"half"),
            TtyInput::Eof,
            bytes(b"\x03quote!"),
        ];
        let before = tty::modes_to_bytes(&tty::modes(&master).unwrap());
        assert_eq!(peek_input(&master).unwrap(), expected);
        assert_eq!(peek_input(&master).unwrap(), expected, "nothing was lost");
        let after = tty::modes_to_bytes(&tty::modes(&master).unwrap());
        assert_eq!(before, after);
        // And the program reads what was typed.
        let mut buffer = [0; 100];
        let mut read = || rustix::io::read(&slave, &mut buffer).unwrap();
        assert_eq!([read(), read(), read(), read()], [4, 4, 0, 4]);
        rustix::io::write(&master, b"\n").unwrap();
        let count = rustix::io::read(&slave, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"\x03quote!\n");
    }

    #[test]
    fn raw_input_stays() {
        let (master, _slave) = pty();
        set_local(&master, 0, k::ECHO | k::ICANON | k::ISIG);
        rustix::io::write(&master, b"a\nb\x04\x03\x16\x11").unwrap();
        for _ in 0..2 {
            let input = peek_input(&master).unwrap();
            // ^Q is taken by IXON before anybody can read it.
            assert_eq!(input, [bytes(b"a\nb\x04\x03\x16")]);
        }
    }

    #[test]
    fn output_stays_and_is_not_processed_twice() {
        let (master, slave) = pty();
        rustix::io::write(&slave, b"x\ny").unwrap();
        assert_eq!(peek_output(&master).unwrap(), b"x\r\ny");
        assert_eq!(peek_output(&master).unwrap(), b"x\r\ny");
        let mut buffer = [0; 100];
        let count = rustix::io::read(&master, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"x\r\ny");
        assert_eq!(peek_output(&master).unwrap(), b"");
    }

    #[test]
    fn a_master_in_packet_mode_keeps_its_output() {
        let (master, slave) = pty();
        tty::set_packet_mode(&master, true).unwrap();
        rustix::io::write(&slave, b"data").unwrap();
        assert_eq!(peek_output(&master).unwrap(), b"data");
        let mut buffer = [0; 100];
        let count = rustix::io::read(&master, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"\0data");
    }
}
