//! Connections that peers make.
//!
//! Invariant: a bounded number of connections, each with a bounded time for
//! TLS and hello; before these are through nothing reaches the rest of the
//! daemon. Carriers and moves are handed on; control connections are answered
//! here.

use std::sync::Arc;

use libmig::api::{Code, Failure, NodeName};
use rustls::StreamOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{Instrument, debug, info_span, warn};

use super::hello::{self, AcceptHello, DialHello, PRELUDE, Purpose};
use super::link::{AbortOnDrop, chain};
use super::message::{Answer, Call, Question, Return};
use super::{BlockingTls, PeerError, answer, carrier, dial, frame, tls};
use crate::daemon::Daemon;
use crate::moves;

/// Connections of all peers together: control, moves and carriers.
const CONNECTIONS: usize = 4096;

/// Connections that have not said hello yet, which may be anybody's.
const STRANGERS: usize = 64;

/// Questions of one connection that are worked on at the same time.
const QUESTIONS: usize = 128;

/// Accepts for ever.
pub(crate) async fn run(daemon: Daemon, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        // Neither semaphore is ever closed.
        let Ok(connection) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others will close theirs.
                warn!(%error, "cannot accept a peer");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let daemon = daemon.clone();
        let serve = async move {
            let limit = daemon.config.peer_timeout();
            let greeted = timeout(limit, greet(&daemon, tcp)).await;
            drop(stranger);
            let ended = match greeted {
                Ok(Ok((stream, hello))) => serve(&daemon, stream, hello).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(PeerError::Timeout(limit)),
            };
            if let Err(error) = ended {
                warn!(reason = %chain(&error), "peer connection closed");
            }
            drop(connection);
        };
        tokio::spawn(serve.instrument(info_span!("peer", %address)));
    }
}

/// TLS, the check of the name, and the hello.
async fn greet(
    daemon: &Daemon,
    tcp: TcpStream,
) -> Result<(TlsStream<TcpStream>, DialHello), PeerError> {
    dial::tune(&tcp, daemon.config.peer_timeout())?;
    let mut stream = TlsAcceptor::from(Arc::clone(&daemon.tls.accept))
        .accept(tcp)
        .await?;
    let known = daemon.config.peers.iter().map(|peer| &peer.name);
    let named = tls::authenticate(stream.get_ref().1.peer_certificates(), known);
    let mut prelude = [0; PRELUDE];
    stream.read_exact(&mut prelude).await?;
    let checked = hello::check_prelude(&prelude);
    if let Err(error @ PeerError::Version { .. }) = checked {
        // The prelude tells it which versions would have done.
        stream.write_all(&hello::prelude(0)).await?;
        stream.shutdown().await?;
        return Err(error);
    }
    let body = frame::read_body(&mut stream, checked?).await?;
    let hello: DialHello = hello::decode(&body)?;
    match named.and_then(|name| admit(daemon, &name, &hello)) {
        Ok(()) => {
            stream.write_all(&hello::encode(&daemon.welcome())).await?;
            stream.flush().await?;
            Ok((stream, hello))
        }
        Err(error) => {
            let failure = Failure::new(Code::Refused, error.to_string());
            stream
                .write_all(&hello::encode(&AcceptHello::Refused(failure)))
                .await?;
            stream.shutdown().await?;
            Err(error)
        }
    }
}

fn admit(daemon: &Daemon, name: &NodeName, hello: &DialHello) -> Result<(), PeerError> {
    if &hello.node != name {
        return Err(PeerError::OutOfPhase(
            "its hello has another name than its certificate",
        ));
    }
    if daemon.draining() && matches!(hello.purpose, Purpose::Move { .. }) {
        return Err(PeerError::OutOfPhase("this node's daemon is about to stop"));
    }
    Ok(())
}

async fn serve(
    daemon: &Daemon,
    stream: TlsStream<TcpStream>,
    hello: DialHello,
) -> Result<(), PeerError> {
    match hello.purpose.clone() {
        Purpose::Control => {
            debug!(peer = %hello.node, "control connection");
            control(daemon, stream, hello.node).await
        }
        Purpose::Carrier { job, epoch } => {
            carrier::serve(daemon, stream, &hello.node, &job, epoch).await
        }
        Purpose::Move { job, .. } => {
            let (tcp, connection) = stream.into_inner();
            let tcp = tcp.into_std()?;
            dial::prepare_blocking(&tcp, daemon.config.peer_timeout())?;
            let stream = BlockingTls::Accepted(Box::new(StreamOwned::new(connection, tcp)));
            let mover = daemon.clone();
            // ptrace belongs to the thread: each move has its own.
            daemon.spawn_mover(&format!("in {job}"), move || {
                moves::serve(stream, &hello, &mover)
            })?;
            Ok(())
        }
        Purpose::Fetch {
            job,
            uid,
            end,
            known,
        } => {
            let (tcp, connection) = stream.into_inner();
            let tcp = tcp.into_std()?;
            dial::prepare_blocking(&tcp, daemon.config.peer_timeout())?;
            let stream = BlockingTls::Accepted(Box::new(StreamOwned::new(connection, tcp)));
            let mover = daemon.clone();
            daemon.spawn_mover(&format!("disk {job}"), move || {
                moves::fetch::serve(stream, &mover, uid, &job, (end, known));
            })?;
            Ok(())
        }
    }
}

/// Answers the questions of one peer until it goes.
async fn control(
    daemon: &Daemon,
    stream: TlsStream<TcpStream>,
    node: NodeName,
) -> Result<(), PeerError> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (answers_in, mut answers) = mpsc::channel::<Return>(QUESTIONS);
    let silence = daemon.config.peer_timeout();
    let writer = tokio::spawn(async move {
        while let Some(answer) = answers.recv().await {
            if !matches!(
                timeout(silence, frame::write(&mut to, &answer)).await,
                Ok(Ok(()))
            ) {
                return;
            }
        }
    });
    let _stop = AbortOnDrop(writer);
    let working = Arc::new(Semaphore::new(QUESTIONS));
    loop {
        // The peer's heartbeat comes more often than this.
        let read = timeout(silence, frame::read::<Call>(&mut from)).await;
        let call = match read {
            Ok(Err(PeerError::Io(error))) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(());
            }
            Ok(call) => call?,
            Err(_) => return Err(PeerError::Timeout(silence)),
        };
        if let Question::Load(load) = call.question {
            daemon.peers.note_load(&node, load);
            let beat = Return {
                id: call.id,
                answer: Answer::Load(daemon.meters.exported()),
            };
            if answers_in.send(beat).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let Ok(permit) = Arc::clone(&working).try_acquire_owned() else {
            let busy = Failure::new(Code::Busy, "too many questions at once");
            let refused = Return {
                id: call.id,
                answer: Answer::Failed(busy),
            };
            drop(answers_in.try_send(refused));
            continue;
        };
        let (daemon, node, answers_in) = (daemon.clone(), node.clone(), answers_in.clone());
        tokio::spawn(async move {
            let answer = answer::answer(&daemon, &node, call.question)
                .await
                .unwrap_or_else(Answer::Failed);
            drop(
                answers_in
                    .send(Return {
                        id: call.id,
                        answer,
                    })
                    .await,
            );
            drop(permit);
        });
    }
}
