//! `mig move`: finds where the job is, chooses a destination if none was
//! named, and runs the move on a thread of its own.

use libmig::api::{Code, Failure, JobId, MoveMode, MoveReport, MoveRequest, NodeName};
use libmig::api::{Reply, Request, Target};
use libmig::sys::HostPid;
use tokio::sync::oneshot;
use tracing::{Instrument, info_span};

use super::target::{self, Route};
use super::{Caller, Events};
use crate::daemon::Daemon;
use crate::moves;

/// Answers when the move has ended.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    request: MoveRequest,
    events: &Events,
) -> Result<Reply, Failure> {
    if let Some(process) = target::foreign(daemon, &request.target)? {
        let to = destination(daemon, request.to)?;
        return adopt(daemon, (process, caller.uid), to, request.mode, events)
            .await
            .map(Reply::Moved);
    }
    let job = target::resolve(daemon, caller, &request.target).await?;
    match target::route(daemon, caller, &job).await? {
        Route::Node(node) => {
            let request = MoveRequest {
                target: Target::Job(job),
                ..request
            };
            target::forward(daemon, caller, &node, Request::Move(request)).await
        }
        Route::Here(_) => {
            let to = destination(daemon, request.to)?;
            run(daemon, job, to, request.mode, events)
                .await
                .map(Reply::Moved)
        }
    }
}

/// Moves a job of this node: for users and for the balancer alike.
///
/// # Errors
/// Why it stayed.
pub(crate) async fn run(
    daemon: &Daemon,
    job: JobId,
    to: NodeName,
    mode: MoveMode,
    events: &Events,
) -> Result<MoveReport, Failure> {
    check(daemon, &to, || format!("job {job}"))?;
    let span = info_span!("move", %job, %to, role = "source");
    let name = format!("out {job}");
    let events = events.clone();
    let moved = mover(daemon, &name, move |daemon| {
        moves::start(daemon, &job, &to, mode, &events)
    });
    moved.instrument(span).await
}

/// Moves the tree of a process that is part of no job, which makes it one.
async fn adopt(
    daemon: &Daemon,
    (process, caller): (HostPid, u32),
    to: NodeName,
    mode: MoveMode,
    events: &Events,
) -> Result<MoveReport, Failure> {
    check(daemon, &to, || format!("process {process}"))?;
    let span = info_span!("move", %process, %to, role = "source");
    let name = format!("out {process}");
    let events = events.clone();
    let moved = mover(daemon, &name, move |daemon| {
        moves::foreign::start(daemon, (process, caller), &to, mode, &events)
    });
    moved.instrument(span).await
}

/// Whether anything can be moved to `to` now.
fn check(daemon: &Daemon, to: &NodeName, what: impl Fn() -> String) -> Result<(), Failure> {
    if to == daemon.node() {
        let said = format!("{} is on node `{to}` already", what());
        return Err(Failure::new(Code::Usage, said));
    }
    if daemon.config.peer(to).is_none() {
        return Err(
            Failure::new(Code::NotFound, format!("there is no node `{to}`"))
                .hint("`mig nodes` lists the nodes"),
        );
    }
    if daemon.draining() {
        return Err(Failure::new(Code::Busy, "the daemon is about to stop"));
    }
    Ok(())
}

/// Moves on a thread of its own, which runs to its end even if nobody waits any more.
async fn mover(
    daemon: &Daemon,
    name: &str,
    work: impl FnOnce(&Daemon) -> Result<MoveReport, Failure> + Send + 'static,
) -> Result<MoveReport, Failure> {
    let (done, result) = oneshot::channel();
    let mine = daemon.clone();
    let run = move || drop(done.send(work(&mine)));
    daemon
        .spawn_mover(name, run)
        .map_err(|error| Failure::from_error(Code::Busy, "the move cannot be started", &error))?;
    let moved = result
        .await
        .unwrap_or_else(|_| Err(Failure::new(Code::Failed, "the mover panicked")))?;
    daemon.balance.moved(daemon.meters.now(), &moved);
    Ok(moved)
}

/// That which was named, or the best.
fn destination(daemon: &Daemon, named: Option<NodeName>) -> Result<NodeName, Failure> {
    named.map_or_else(|| least_loaded(daemon), Ok)
}

/// The peer with the least runnable work per core.
fn least_loaded(daemon: &Daemon) -> Result<NodeName, Failure> {
    let states = daemon.peers.states();
    let loads = states
        .iter()
        .filter(|(_, state)| state.up)
        .filter_map(|(node, state)| {
            let (load, _) = state.load.as_ref()?;
            Some((node, load.pressure(load.demand(0.0), 1.0)))
        });
    let least = loads.min_by(|a, b| a.1.total_cmp(&b.1));
    least.map(|(node, _)| node.clone()).ok_or_else(|| {
        Failure::new(Code::PeerLost, "no other node is up").hint("`mig nodes` says why")
    })
}
