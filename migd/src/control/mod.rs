//! The local API on the unix socket: one file per request, as in
//! mig-cli/src/commands.
//!
//! Invariant: who asks is what the kernel says (SO_PEERCRED), never what the
//! request says; a user acts on jobs of their own, root on all, and that is
//! checked on the node that holds the job's record. A message that breaks a
//! rule closes its connection and nothing else.

mod checkpoint;
mod exec;
mod kill;
pub(crate) mod r#move;
mod nodes;
pub(crate) mod ps;
mod restore;
mod session;
pub(crate) mod target;
mod wait;
mod r#where;
mod why;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::Context;
use libmig::api::{Code, Event, Failure, JobId, Reply, Request};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, sleep};
use tracing::{Instrument, debug, info_span, warn};

use crate::config::Config;
use crate::daemon::Daemon;
use crate::jobs::record::JobRecord;

/// Connections of all users together.
const CONNECTIONS: usize = 1024;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The user.
    pub(crate) uid: u32,
    /// How often the request has been forwarded between nodes.
    pub(crate) hops: u8,
}

impl Caller {
    /// Whether this user may act on jobs of `owner`.
    pub(crate) fn may(self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner
    }

    /// Refuses to act on someone else's job.
    ///
    /// # Errors
    /// [`Code::NotYours`].
    pub(crate) fn check(self, record: &JobRecord) -> Result<(), Failure> {
        if self.may(record.uid) {
            return Ok(());
        }
        Err(not_yours(&record.id).hint(format!("it belongs to {}", record.user)))
    }
}

/// The failure of [`Caller::check`].
pub(crate) fn not_yours(job: &JobId) -> Failure {
    Failure::new(Code::NotYours, format!("job {job} is not your job"))
}

/// Where progress goes. A reader that is too slow misses some of it.
#[derive(Debug, Clone)]
pub(crate) struct Events(Option<mpsc::Sender<Event>>);

impl Events {
    /// Nobody listens.
    pub(crate) fn none() -> Events {
        Events(None)
    }

    /// `listener` hears them.
    pub(crate) fn to(listener: mpsc::Sender<Event>) -> Events {
        Events(Some(listener))
    }

    /// Tells the listener, from any thread, without waiting.
    pub(crate) fn send(&self, event: Event) {
        if let Some(listener) = &self.0 {
            // Full or gone: progress is not worth waiting for.
            drop(listener.try_send(event));
        }
    }
}

/// Makes the socket that everybody may connect to; what they may do is
/// decided by who they are.
///
/// # Errors
/// When another daemon serves it, or it cannot be made.
pub(crate) fn bind(config: &Config) -> anyhow::Result<UnixListener> {
    let path = config.socket();
    for dir in [&config.run_dir, &config.jobs_dir()] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Others must reach the socket, and their own jobs' `attach`.
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o711))?;
    }
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        anyhow::bail!("another daemon serves {}", path.display());
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

/// Accepts for ever.
pub(crate) async fn run(daemon: Daemon, listener: UnixListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a local connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let daemon = daemon.clone();
        let serve = async move {
            if let Err(error) = session::serve(&daemon, stream).await {
                debug!(reason = %format!("{error:#}"), "local connection closed");
            }
            drop(permit);
        };
        tokio::spawn(serve.instrument(info_span!("local")));
    }
}

/// Works on a request that carries no descriptors, here or on the node that
/// can.
///
/// # Errors
/// What the user is told.
pub(crate) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    request: Request,
    events: &Events,
) -> Result<Reply, Failure> {
    match request {
        // Programs and terminals are for callers on this machine: see `session`.
        Request::Exec(_)
        | Request::Attach { .. }
        | Request::Checkpoint { .. }
        | Request::Restore(_) => Err(Failure::new(
            Code::Usage,
            "this request cannot come from another node",
        )),
        Request::Ps { all } => Ok(Reply::Jobs(ps::cluster(daemon, caller, all).await)),
        Request::Nodes {} => Ok(Reply::Nodes(nodes::list(daemon).await)),
        Request::Move(request) => r#move::handle(daemon, caller, request, events).await,
        Request::Kill { target, signal } => kill::handle(daemon, caller, target, signal).await,
        Request::Wait { target } => wait::handle(daemon, caller, target).await,
        Request::Why { target, to } => why::handle(daemon, caller, target, to).await,
        Request::Where { target } => r#where::handle(daemon, caller, target).await,
    }
}
