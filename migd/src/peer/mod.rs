//! Connections between nodes: who is up, questions and answers, streams for
//! moves and for the terminals of jobs that are away.
//!
//! Invariant: nothing is parsed before TLS has authenticated the other node,
//! and whatever it sends is bounded before it is stored; a connection that
//! breaks a rule is closed with a logged reason and is never more than that.
//!
//! ```text
//!            hello        Control ─► link (asks)  ⇄ listener/answer (answers)
//! dial ──► TLS 1.3 ──►    Move    ─► a blocking stream on a thread of `moves`
//! ```

pub(crate) mod answer;
pub(crate) mod carrier;
pub(crate) mod dial;
pub(crate) mod frame;
pub(crate) mod hello;
mod link;
pub(crate) mod listener;
pub(crate) mod message;
mod seal;
mod stream;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use libmig::api::{Code, Failure, NodeName};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::Daemon;
use libmig::balance::Load;
use message::{Answer, Question};

pub(crate) use dial::dial_move;
pub(crate) use hello::{DialHello, Purpose};
pub(crate) use stream::BlockingTls;

/// Questions that may wait for one peer.
const QUEUE: usize = 256;

/// Why a connection to a peer failed or was closed.
#[derive(Debug, Error)]
pub(crate) enum PeerError {
    /// Not in the configuration.
    #[error("node `{0}` is not a configured peer")]
    Stranger(NodeName),
    /// Connected, but not now.
    #[error("node `{node}` is not connected: {reason}")]
    Down {
        /// The peer.
        node: NodeName,
        /// The last thing that went wrong.
        reason: String,
    },
    /// Its certificate is not good for a node.
    #[error("certificate of the peer is not accepted: {0}")]
    Certificate(String),
    /// It speaks another protocol.
    #[error(
        "the peer speaks protocol versions {min} to {max}, this node {} to {}",
        hello::VERSIONS.start(), hello::VERSIONS.end()
    )]
    Version {
        /// Its oldest.
        min: u16,
        /// Its newest.
        max: u16,
    },
    /// Bytes that mean nothing.
    #[error("the peer sent garbage: {0}")]
    Garbage(String),
    /// Bytes that mean something at another time.
    #[error("the peer broke the protocol: {0}")]
    OutOfPhase(&'static str),
    /// It said no.
    #[error("the peer refused: {0}")]
    Refused(Failure),
    /// Too slow.
    #[error("the peer did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
}

impl PeerError {
    /// As it is told to a user who asked for something at `node`.
    pub(crate) fn failure(&self, node: &NodeName) -> Failure {
        match self {
            PeerError::Refused(failure) => failure.clone(),
            PeerError::Stranger(_) => {
                Failure::new(Code::NotFound, format!("there is no node `{node}`"))
                    .hint("`mig nodes` lists the nodes")
            }
            other => {
                let code = match other {
                    PeerError::Version { .. } => Code::Version,
                    PeerError::Timeout(_) => Code::Timeout,
                    _ => Code::PeerLost,
                };
                Failure::from_error(code, format!("node `{node}` cannot be asked"), other)
            }
        }
    }
}

/// What is known of one peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerState {
    /// Our control connection to it stands.
    pub(crate) up: bool,
    /// Why not.
    pub(crate) reason: Option<String>,
    /// Its load and when it arrived.
    pub(crate) load: Option<(Load, Instant)>,
    /// Instruction sets of its CPU, from its last hello; none before the first.
    pub(crate) cpu_features: Vec<String>,
}

/// A question on its way to a link task.
#[derive(Debug)]
struct Ask {
    question: Question,
    answer: oneshot::Sender<Result<Answer, PeerError>>,
}

#[derive(Debug)]
struct Peer {
    asks: mpsc::Sender<Ask>,
    state: Mutex<PeerState>,
}

/// All peers of this node.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    all: Arc<BTreeMap<NodeName, Peer>>,
}

/// The receiving ends of the question queues, for [`Peers::spawn`].
#[derive(Debug)]
pub(crate) struct PeerQueues(Vec<(NodeName, mpsc::Receiver<Ask>)>);

impl Peers {
    /// Knows `names`; connects to nobody yet.
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a NodeName>) -> (Peers, PeerQueues) {
        let mut queues = Vec::new();
        let all = names.map(|name| {
            let (asks, queue) = mpsc::channel(QUEUE);
            queues.push((name.clone(), queue));
            let reason = Some("no connection has been tried yet".to_owned());
            (
                name.clone(),
                Peer {
                    asks,
                    state: Mutex::new(PeerState {
                        reason,
                        ..PeerState::default()
                    }),
                },
            )
        });
        let all = Arc::new(all.collect());
        (Peers { all }, PeerQueues(queues))
    }

    /// Starts one link task per peer.
    pub(crate) fn spawn(daemon: &Daemon, queues: PeerQueues) {
        for (node, queue) in queues.0 {
            daemon.runtime.spawn(link::run(daemon.clone(), node, queue));
        }
    }

    /// Asks `node` and waits for its answer, at most for `limit`.
    ///
    /// # Errors
    /// When it is unknown, down, too slow, or answered with a failure.
    pub(crate) async fn ask(
        &self,
        node: &NodeName,
        question: Question,
        limit: Duration,
    ) -> Result<Answer, PeerError> {
        let peer = self
            .all
            .get(node)
            .ok_or_else(|| PeerError::Stranger(node.clone()))?;
        let (answer, answered) = oneshot::channel();
        {
            let state = lock(&peer.state);
            if !state.up {
                let reason = state.reason.clone().unwrap_or_default();
                return Err(PeerError::Down {
                    node: node.clone(),
                    reason,
                });
            }
        }
        let lost = || PeerError::Down {
            node: node.clone(),
            reason: "the link ended".into(),
        };
        peer.asks
            .try_send(Ask { question, answer })
            .map_err(|_| lost())?;
        match tokio::time::timeout(limit, answered).await {
            Err(_) => Err(PeerError::Timeout(limit)),
            Ok(Err(_)) => Err(lost()),
            Ok(Ok(Ok(Answer::Failed(failure)))) => Err(PeerError::Refused(failure)),
            Ok(Ok(result)) => result,
        }
    }

    /// What is known of every peer.
    pub(crate) fn states(&self) -> BTreeMap<NodeName, PeerState> {
        self.all
            .iter()
            .map(|(name, peer)| (name.clone(), lock(&peer.state).clone()))
            .collect()
    }

    /// Names of the peers that are up.
    pub(crate) fn up(&self) -> Vec<NodeName> {
        let up = self.all.iter().filter(|(_, peer)| lock(&peer.state).up);
        up.map(|(name, _)| name.clone()).collect()
    }

    /// Changes what is known of `node`.
    fn note(&self, node: &NodeName, change: impl FnOnce(&mut PeerState)) {
        if let Some(peer) = self.all.get(node) {
            change(&mut lock(&peer.state));
        }
    }

    /// Remembers a load that arrived.
    pub(crate) fn note_load(&self, node: &NodeName, load: Load) {
        self.note(node, |state| state.load = Some((load, Instant::now())));
    }
}

/// A poisoned lock means a panic while plain data was copied: the data is good.
fn lock(state: &Mutex<PeerState>) -> MutexGuard<'_, PeerState> {
    state
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
