//! `mig move`: finds where the job is, chooses a destination if none was
//! named, and runs the move on a thread of its own.

use libmig::api::{Code, Failure, JobId, MoveMode, MoveReport, MoveRequest, NodeName};
use libmig::api::{Reply, Request, Target};
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
            let to = match request.to {
                Some(to) => to,
                None => least_loaded(daemon)?,
            };
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
    if &to == daemon.node() {
        return Err(Failure::new(
            Code::Usage,
            format!("job {job} is on node `{to}` already"),
        ));
    }
    if daemon.config.peer(&to).is_none() {
        return Err(
            Failure::new(Code::NotFound, format!("there is no node `{to}`"))
                .hint("`mig nodes` lists the nodes"),
        );
    }
    if daemon.draining() {
        return Err(Failure::new(Code::Busy, "the daemon is about to stop"));
    }
    let span = info_span!("move", %job, %to, role = "source");
    let work = async {
        let (done, result) = oneshot::channel();
        let (mover, events, name) = (daemon.clone(), events.clone(), format!("out {job}"));
        let run = move || drop(done.send(moves::start(&mover, &job, &to, mode, &events)));
        daemon.spawn_mover(&name, run).map_err(|error| {
            Failure::from_error(Code::Busy, "the move cannot be started", &error)
        })?;
        // The thread runs to its end even if nobody waits any more.
        let moved = result
            .await
            .unwrap_or_else(|_| Err(Failure::new(Code::Failed, "the mover panicked")))?;
        daemon.balance.moved(daemon.meters.now(), &moved);
        Ok(moved)
    };
    work.instrument(span).await
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
