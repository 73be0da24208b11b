//! TCP: what its sockets tell, and TCP_REPAIR, which shows the queues of one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use super::socket::{get_at, option, option_at, set_at, set_option, set_option_at};

/// TCP_CONGESTION.
///
/// # Errors
/// What getsockopt(2) says.
pub fn congestion(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let mut name = [0u8; 16];
    get_at(
        fd.as_fd(),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
        &mut name,
    )?;
    let end = name.iter().position(|byte| *byte == 0);
    Ok(name[..end.unwrap_or(name.len())].to_vec())
}

/// Sets TCP_CONGESTION.
///
/// # Errors
/// ENOENT for one that this kernel does not have.
pub fn set_congestion(fd: impl AsFd, name: &[u8]) -> io::Result<()> {
    let mut padded = [0u8; 16];
    let length = name.len().min(15);
    padded[..length].copy_from_slice(&name[..length]);
    set_at(
        fd.as_fd(),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
        &padded,
    )
}

/// TCP_WINDOW_CLAMP: the most that a peer may be told that there is room for.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_window_clamp(fd: impl AsFd, bytes: i32) -> io::Result<()> {
    set_option_at(fd, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, bytes)
}

/// What TCP_INFO says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// tcpi_state.
    pub state: u8,
    /// tcpi_unacked; of a socket that listens, connections that wait.
    pub unacked: u32,
    /// tcpi_sacked; of a socket that listens, how many may wait.
    pub sacked: u32,
    /// Bytes that have been written and not been sent even once.
    pub unsent: u32,
    /// tcpi_bytes_received: also the end of the stream counts as one.
    pub bytes_received: u64,
    /// tcpi_bytes_sent, with those that have been sent again.
    pub bytes_sent: u64,
    /// tcpi_bytes_retrans.
    pub bytes_retransmitted: u64,
}

/// TCP_INFO.
///
/// # Errors
/// What getsockopt(2) says; InvalidData from a kernel before 4.19.
pub fn tcp_info(fd: impl AsFd) -> io::Result<TcpInfo> {
    const LENGTH: usize = 216;
    let mut info = [0u8; LENGTH];
    if get_at(fd.as_fd(), (libc::IPPROTO_TCP, libc::TCP_INFO), &mut info)? < LENGTH {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let word = |at: usize| {
        let bytes = info[at..].first_chunk().expect("within the structure");
        u32::from_ne_bytes(*bytes)
    };
    let long = |at: usize| {
        let bytes = info[at..].first_chunk().expect("within the structure");
        u64::from_ne_bytes(*bytes)
    };
    Ok(TcpInfo {
        state: info[0],
        unacked: word(24),
        sacked: word(28),
        unsent: word(144),
        bytes_received: long(128),
        bytes_sent: long(200),
        bytes_retransmitted: long(208),
    })
}

/// Whether something lies over its stream, as kTLS does (TCP_ULP).
#[must_use]
pub fn has_upper_protocol(fd: impl AsFd) -> bool {
    let mut name = [0u8; 16];
    let option = (libc::IPPROTO_TCP, libc::TCP_ULP);
    // Without one, the kernel says that the name has no bytes.
    get_at(fd.as_fd(), option, &mut name).is_ok_and(|length| length > 0)
}

/// Whether it is a TCP socket.
#[must_use]
pub fn is_tcp(fd: impl AsFd) -> bool {
    option(fd, libc::SO_PROTOCOL).is_ok_and(|protocol| protocol == libc::IPPROTO_TCP)
}

/// TCP_REPAIR on: when it is closed now, nobody is told and nothing is left of it.
///
/// # Errors
/// EPERM for a socket that listens; what setsockopt(2) says.
pub fn silence(fd: impl AsFd) -> io::Result<()> {
    set_option_at(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)
}

/// Ends TCP_REPAIR, which a process that has ended may have left on, without a packet.
/// True if it was on. Leaves SO_REUSEADDR off: nobody knows what it was.
///
/// # Errors
/// What getsockopt(2) and setsockopt(2) say.
pub fn mend(fd: impl AsFd) -> io::Result<bool> {
    let on = option_at(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR)? == 1;
    if on {
        set_option_at(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, REPAIR_OFF_SILENTLY)?;
    }
    Ok(on)
}

/// TCP_REPAIR_OFF_NO_WP: without the window probe that TCP_REPAIR_OFF sends.
const REPAIR_OFF_SILENTLY: i32 = -1;

/// TCP_REPAIR while this lives. Whoever has the socket must not use it meanwhile:
/// recv(2) fails with EPERM, and what send(2) writes is lost.
#[derive(Debug)]
pub struct Repair<'a> {
    socket: BorrowedFd<'a>,
    reuse: i32,
}

/// The queues of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// TCP_RECV_QUEUE.
    Received,
    /// TCP_SEND_QUEUE: what has been written and not been acknowledged.
    Sent,
}

impl<'a> Repair<'a> {
    /// Begins it.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN, or for a socket that listens.
    pub fn begin(socket: BorrowedFd<'a>) -> io::Result<Self> {
        // The kernel forgets it when the repair ends.
        let reuse = option(socket, libc::SO_REUSEADDR)?;
        silence(socket)?;
        Ok(Self { socket, reuse })
    }

    /// TCP_QUEUE_SEQ: the number of the byte after the last one of a queue. An end
    /// of the stream counts as a byte.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn sequence(&self, queue: Queue) -> io::Result<u32> {
        self.select(queue)?;
        let number = option_at(self.socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ)?;
        self.select_none()?;
        Ok(number.cast_unsigned())
    }

    /// The bytes of a queue, which stay in it. `room` is more than it holds.
    ///
    /// # Errors
    /// What recv(2) says; EFAULT where the room is too small.
    pub fn peek(&self, queue: Queue, room: usize) -> io::Result<Vec<u8>> {
        use rustix::net::RecvFlags;
        self.select(queue)?;
        let mut bytes = vec![0; room];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(self.socket, bytes.as_mut_slice(), flags);
        self.select_none()?;
        match peeked {
            Ok((length, _)) => bytes.truncate(length),
            Err(rustix::io::Errno::AGAIN) => bytes.clear(),
            Err(error) => return Err(error.into()),
        }
        Ok(bytes)
    }

    fn select(&self, queue: Queue) -> io::Result<()> {
        let number = match queue {
            Queue::Received => 1, // TCP_RECV_QUEUE
            Queue::Sent => 2,     // TCP_SEND_QUEUE
        };
        set_option_at(
            self.socket,
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR_QUEUE,
            number,
        )
    }

    /// While the send queue is selected, an acknowledgement that comes in makes the kernel take what
    /// waits there for sent, and send it again much later.
    fn select_none(&self) -> io::Result<()> {
        const TCP_NO_QUEUE: i32 = 0;
        set_option_at(
            self.socket,
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR_QUEUE,
            TCP_NO_QUEUE,
        )
    }
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        let level = libc::IPPROTO_TCP;
        let ended = set_option_at(self.socket, level, libc::TCP_REPAIR, REPAIR_OFF_SILENTLY)
            .and_then(|()| set_option(self.socket, libc::SO_REUSEADDR, self.reuse));
        debug_assert!(ended.is_ok(), "a repair ends");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_stream_is_what_was_received_and_the_end_of_what_was_sent() {
        let (mut client, mut server) = pair();
        client.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = (0..1 << 24)
            .map(|n: u32| (n / 7).to_ne_bytes()[0])
            .collect();
        let mut written = 0;
        while let Ok(n) = client.write(&bytes[written..]) {
            written += n;
        }
        let (reuse, before) = (option(&client, libc::SO_REUSEADDR).unwrap(), 3);
        let mut stream;
        {
            let (sender, receiver) = (
                Repair::begin(client.as_fd()).unwrap(),
                Repair::begin(server.as_fd()).unwrap(),
            );
            let sent = sender.peek(Queue::Sent, 1 << 24).unwrap();
            let end = sender.sequence(Queue::Sent).unwrap();
            let missing = end.wrapping_sub(receiver.sequence(Queue::Received).unwrap()) as usize;
            stream = receiver.peek(Queue::Received, 1 << 24).unwrap();
            assert!(missing > 0 && missing <= sent.len());
            stream.extend(&sent[sent.len() - missing..]);
            let refused = (&client).read(&mut [0]);
            assert!(refused.is_err(), "the program has no use of it");
        }
        assert!(stream == bytes[..written], "{} of {written}", stream.len());
        assert_eq!(option(&client, libc::SO_REUSEADDR).unwrap(), reuse);
        server.write_all(&[before]).unwrap();
        let mut all = vec![0; written];
        server.read_exact(&mut all).unwrap();
        assert!(all == bytes[..written]);
    }

    #[test]
    fn a_repair_that_nobody_ends_is_mended() {
        let (mut client, mut server) = pair();
        assert!(!mend(&client).unwrap());
        silence(&client).unwrap();
        assert!(client.write_all(b"a").is_err());
        assert!(mend(&client).unwrap() && !mend(&client).unwrap());
        client.write_all(b"a").unwrap();
        server.read_exact(&mut [0]).unwrap();
    }
}
