//! Connections that we make.
//!
//! Invariant: a stream that leaves this file has passed TLS, the check of the
//! peer's name, and the hello; a blocking one has timeouts in both directions.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libmig::api::NodeName;
use rustix::net::sockopt;
use rustls::{ClientConnection, StreamOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::hello::{self, AcceptHello, PRELUDE, Purpose};
use super::{BlockingTls, PeerError, frame, tls};
use crate::daemon::Daemon;

/// Dials `node` on the runtime. Returns the stream and the peer's CPU flags.
///
/// # Errors
/// When it is unknown, cannot be reached, is not who it should be, or refuses.
pub(crate) async fn dial(
    daemon: &Daemon,
    node: &NodeName,
    purpose: Purpose,
) -> Result<(TlsStream<TcpStream>, Vec<String>), PeerError> {
    let tcp = TcpStream::connect(address(daemon, node)?).await?;
    tune(&tcp, daemon.config.peer_timeout())?;
    let connector = TlsConnector::from(Arc::clone(&daemon.tls.dial));
    let mut stream = connector.connect(tls::server_name(node), tcp).await?;
    tls::authenticate(stream.get_ref().1.peer_certificates(), [node].into_iter())?;
    stream
        .write_all(&hello::encode(&daemon.hello(purpose)))
        .await?;
    stream.flush().await?;
    let mut prelude = [0; PRELUDE];
    stream.read_exact(&mut prelude).await?;
    let len = hello::check_prelude(&prelude)?;
    let body = frame::read_body(&mut stream, len).await?;
    let features = welcome(&body, node)?;
    Ok((stream, features))
}

/// Dials `node` for one move, from the thread that will run it; blocks.
/// Returns the stream and the peer's CPU flags.
///
/// # Errors
/// When it is unknown, cannot be reached, is not who it should be, or refuses.
pub(crate) fn dial_move(
    daemon: &Daemon,
    node: &NodeName,
    purpose: Purpose,
) -> Result<(BlockingTls, Vec<String>), PeerError> {
    let limit = daemon.config.peer_timeout();
    let tcp = std::net::TcpStream::connect_timeout(&address(daemon, node)?, limit)?;
    prepare_blocking(&tcp, limit)?;
    let connection = ClientConnection::new(Arc::clone(&daemon.tls.dial), tls::server_name(node))
        .map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    tls::authenticate(stream.conn.peer_certificates(), [node].into_iter())?;
    stream.write_all(&hello::encode(&daemon.hello(purpose)))?;
    stream.flush()?;
    let mut prelude = [0; PRELUDE];
    stream.read_exact(&mut prelude)?;
    let mut body = vec![0; hello::check_prelude(&prelude)?];
    stream.read_exact(&mut body)?;
    let features = welcome(&body, node)?;
    Ok((BlockingTls::Dialled(Box::new(stream)), features))
}

fn address(daemon: &Daemon, node: &NodeName) -> Result<SocketAddr, PeerError> {
    let peer = daemon
        .config
        .peer(node)
        .ok_or_else(|| PeerError::Stranger(node.clone()))?;
    Ok(peer.address)
}

fn welcome(body: &[u8], expected: &NodeName) -> Result<Vec<String>, PeerError> {
    match hello::decode(body)? {
        AcceptHello::Refused(failure) => Err(PeerError::Refused(failure)),
        AcceptHello::Welcome {
            node, cpu_features, ..
        } if &node == expected => Ok(cpu_features),
        AcceptHello::Welcome { .. } => Err(PeerError::OutOfPhase(
            "its hello has another name than its certificate",
        )),
    }
}

/// No Nagle, and an end to connections whose other end is gone: data that is
/// not acknowledged within `limit` breaks the connection (tcp(7),
/// TCP_USER_TIMEOUT), keep-alive finds a dead peer when nothing is sent.
pub(super) fn tune(tcp: &impl std::os::fd::AsFd, limit: Duration) -> io::Result<()> {
    let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_nodelay(tcp, true)?;
    sockopt::set_tcp_user_timeout(tcp, millis)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, limit.max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(1))?;
    Ok(())
}

/// For a stream of the standard library. A peer may wait for something of its own for as
/// long as `limit` before it answers, and has to clear up and to say so after that: its
/// answer may take twice as long. A peer that is gone is found sooner, see [`tune`].
pub(super) fn prepare_blocking(tcp: &std::net::TcpStream, limit: Duration) -> io::Result<()> {
    tune(tcp, limit)?;
    tcp.set_nonblocking(false)?;
    tcp.set_read_timeout(Some(limit * 2))?;
    tcp.set_write_timeout(Some(limit))
}
