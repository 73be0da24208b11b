//! The blocking stream that a move runs on.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use libmig::transfer::Link;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// A TLS stream for one OS thread. A timeout is an error of kind `WouldBlock`
/// or `TimedOut`; the stream is of no use afterwards.
#[derive(Debug)]
pub(crate) enum BlockingTls {
    /// We made the connection.
    Dialled(Box<StreamOwned<ClientConnection, std::net::TcpStream>>),
    /// The peer made it.
    Accepted(Box<StreamOwned<ServerConnection, std::net::TcpStream>>),
}

impl BlockingTls {
    /// Waits longer for what is read from now on than the rest of a move would.
    ///
    /// # Errors
    /// When the socket is gone.
    pub(crate) fn wait_for(&mut self, limit: Duration) -> io::Result<()> {
        self.parts().0.set_read_timeout(Some(limit))
    }

    fn parts(&mut self) -> (&mut std::net::TcpStream, Side<'_>) {
        match self {
            BlockingTls::Dialled(stream) => (&mut stream.sock, Side::Client(&mut stream.conn)),
            BlockingTls::Accepted(stream) => (&mut stream.sock, Side::Server(&mut stream.conn)),
        }
    }

    /// Ends the conversation: says so, and takes what the peer still sends for at
    /// most `limit`. Closed with unread bytes, TCP would reset the connection, and
    /// our last words might be lost.
    pub(crate) fn linger(&mut self, limit: Duration) {
        match self.parts().1 {
            Side::Client(conn) => conn.send_close_notify(),
            Side::Server(conn) => conn.send_close_notify(),
        }
        let deadline = Instant::now() + limit;
        let said = self.flush().and_then(|()| {
            let (sock, _) = self.parts();
            sock.shutdown(std::net::Shutdown::Write)
        });
        let mut waste = vec![0; 64 << 10];
        while said.is_ok() {
            let left = deadline.saturating_duration_since(Instant::now());
            let (sock, _) = self.parts();
            // A timeout of zero would be none.
            if left.is_zero() || sock.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match sock.read(&mut waste) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Either kind of TLS connection.
enum Side<'a> {
    Client(&'a mut ClientConnection),
    Server(&'a mut ServerConnection),
}

impl Side<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Side::Client(conn) => conn.reader().read(buffer),
            Side::Server(conn) => conn.reader().read(buffer),
        }
    }

    /// Bytes that can be read without asking the socket.
    fn plain(&mut self) -> usize {
        let state = match self {
            Side::Client(conn) => conn.process_new_packets(),
            Side::Server(conn) => conn.process_new_packets(),
        };
        state.map_or(0, |state| state.plaintext_bytes_to_read())
    }

    /// Takes what has arrived from the socket; blocks when nothing has. Returns
    /// the number of bytes that can be read now, or nothing at the end.
    fn fill(&mut self, sock: &mut std::net::TcpStream) -> io::Result<Option<usize>> {
        let (read, state) = match self {
            Side::Client(conn) => (conn.read_tls(sock)?, conn.process_new_packets()),
            Side::Server(conn) => (conn.read_tls(sock)?, conn.process_new_packets()),
        };
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let plain = state.plaintext_bytes_to_read();
        Ok((read > 0 || plain > 0).then_some(plain))
    }
}

/// Not by way of what is still to be written: a peer that reads no more may
/// have said why.
impl Read for BlockingTls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (sock, mut side) = self.parts();
        loop {
            match side.take(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return taken,
            }
            if side.fill(sock)?.is_none() {
                return side.take(buffer);
            }
        }
    }
}

impl Link for BlockingTls {
    fn has_news(&mut self) -> bool {
        let (sock, mut side) = self.parts();
        let mut polled = [PollFd::new(sock, PollFlags::IN)];
        if side.plain() > 0 {
            return true;
        }
        match poll(&mut polled, Some(&Timespec::default())) {
            Ok(0) => false,
            // Session tickets come at any time, and are none.
            Ok(_) => !matches!(side.fill(sock), Ok(Some(0))),
            Err(_) => true,
        }
    }
}

impl Write for BlockingTls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            BlockingTls::Dialled(stream) => stream.write(bytes),
            BlockingTls::Accepted(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            BlockingTls::Dialled(stream) => stream.write_vectored(bytes),
            BlockingTls::Accepted(stream) => stream.write_vectored(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            BlockingTls::Dialled(stream) => stream.flush(),
            BlockingTls::Accepted(stream) => stream.flush(),
        }
    }
}
