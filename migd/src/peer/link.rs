//! Our control connection to one peer: made again whenever it breaks.
//!
//! Invariant: `PeerState::up` is true exactly while a session that has
//! exchanged hellos runs; every question gets an answer or an error.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libmig::api::NodeName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::client::TlsStream;
use tracing::{debug, info, warn};

use super::message::{Answer, Call, Question, Return};
use super::{Ask, PeerError, Purpose, dial, frame};
use crate::daemon::Daemon;

/// How often loads are exchanged.
const BEAT: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(2);

type Pending = HashMap<u64, oneshot::Sender<Result<Answer, PeerError>>>;

/// Connects to `node` for ever and serves the questions in `queue`.
pub(super) async fn run(daemon: Daemon, node: NodeName, mut queue: mpsc::Receiver<Ask>) {
    let mut backoff = BACKOFF_FIRST;
    let mut last_reason = String::new();
    loop {
        let error = match connect(&daemon, &node).await {
            Ok(stream) => {
                info!(peer = %node, "connected");
                backoff = BACKOFF_FIRST;
                last_reason.clear();
                let ended = session(&daemon, &node, stream, &mut queue).await;
                // Only a closed queue ends a session without an error.
                let Err(error) = ended else { return };
                error
            }
            Err(error) => error,
        };
        let reason = chain(&error);
        if reason == last_reason {
            debug!(peer = %node, %reason, "still not connected");
        } else {
            warn!(peer = %node, %reason, "not connected");
        }
        daemon.peers.note(&node, |state| {
            state.up = false;
            state.reason = Some(reason.clone());
        });
        last_reason = reason;
        drain(&mut queue, &node, &last_reason);
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

async fn connect(daemon: &Daemon, node: &NodeName) -> Result<TlsStream<TcpStream>, PeerError> {
    let limit = daemon.config.peer_timeout();
    let dialled = timeout(limit, dial::dial(daemon, node, Purpose::Control)).await;
    let (stream, welcome) = dialled.map_err(|_| PeerError::Timeout(limit))??;
    daemon.peers.note(node, |state| {
        state.up = true;
        state.reason = None;
        state.cpu_features = welcome;
    });
    // Whatever home missed while we could not talk.
    daemon.jobs.peer_came_up();
    Ok(stream)
}

/// One connection, until it breaks.
async fn session(
    daemon: &Daemon,
    node: &NodeName,
    stream: TlsStream<TcpStream>,
    queue: &mut mpsc::Receiver<Ask>,
) -> Result<(), PeerError> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (returns_in, mut returns) = mpsc::channel(16);
    // Reading a frame is not cancel-safe: it has a task of its own, which ends
    // with the connection.
    let reader = tokio::spawn(async move {
        loop {
            let read = frame::read::<Return>(&mut from).await;
            let ended = read.is_err();
            if returns_in.send(read).await.is_err() || ended {
                return;
            }
        }
    });
    let _stop = AbortOnDrop(reader);
    let silence = daemon.config.peer_timeout();
    let mut pending = Pending::new();
    let mut next = 0u64;
    let mut heard = Instant::now();
    let mut beat = interval(BEAT.min(silence / 2));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = loop {
        let call = tokio::select! {
            read = returns.recv() => match read {
                Some(Ok(answer)) => {
                    heard = Instant::now();
                    if let Err(error) = settle(daemon, node, &mut pending, answer) {
                        break Err(error);
                    }
                    continue;
                }
                Some(Err(error)) => break Err(error),
                None => break Err(PeerError::OutOfPhase("the reader ended")),
            },
            ask = queue.recv() => match ask {
                Some(ask) => {
                    next += 1;
                    pending.retain(|_, waiting| !waiting.is_closed());
                    pending.insert(next, ask.answer);
                    Call { id: next, question: ask.question }
                }
                None => break Ok(()),
            },
            _ = beat.tick() => {
                if heard.elapsed() > silence {
                    break Err(PeerError::Timeout(silence));
                }
                // Number 0 is the heartbeat's: nobody waits for its answer.
                Call { id: 0, question: Question::Load(daemon.meters.exported()) }
            }
        };
        match timeout(silence, frame::write(&mut to, &call)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => break Err(error),
            Err(_) => break Err(PeerError::Timeout(silence)),
        }
    };
    for (_, waiting) in pending {
        let reason = "the connection broke before the answer came".to_owned();
        // Nobody may be waiting any more.
        drop(waiting.send(Err(PeerError::Down {
            node: node.clone(),
            reason,
        })));
    }
    result
}

fn settle(
    daemon: &Daemon,
    node: &NodeName,
    pending: &mut Pending,
    back: Return,
) -> Result<(), PeerError> {
    match (back.id, back.answer) {
        (0, Answer::Load(load)) => {
            daemon.peers.note_load(node, load);
            Ok(())
        }
        (0, Answer::Failed(failure)) => Err(PeerError::Refused(failure)),
        (0, _) => Err(PeerError::OutOfPhase(
            "a heartbeat was answered with something else",
        )),
        (id, answer) => {
            // An unknown number is one whose asker has given up.
            if let Some(waiting) = pending.remove(&id) {
                drop(waiting.send(Ok(answer)));
            }
            Ok(())
        }
    }
}

fn drain(queue: &mut mpsc::Receiver<Ask>, node: &NodeName, reason: &str) {
    while let Ok(ask) = queue.try_recv() {
        let reason = reason.to_owned();
        drop(ask.answer.send(Err(PeerError::Down {
            node: node.clone(),
            reason,
        })));
    }
}

/// An error and its sources in one line, for logs and `mig nodes`.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Ends a task with the scope that needs it.
pub(super) struct AbortOnDrop<T>(pub(super) tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
