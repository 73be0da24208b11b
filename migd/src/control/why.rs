//! `mig why`: everything that stands in the way of a move.

use libmig::api::{Code, Failure, NodeName, Obstacle, Reply, Request, Target, WhyReport};

use super::Caller;
use super::target::{self, Route};
use crate::daemon::Daemon;
use crate::moves;

/// Asks the node that hosts the job.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asked: Target,
    to: Option<NodeName>,
) -> Result<Reply, Failure> {
    let job = target::resolve(daemon, caller, &asked).await?;
    let view = match target::route(daemon, caller, &job).await? {
        Route::Here(view) => view,
        Route::Node(node) => {
            let request = Request::Why {
                target: Target::Job(job),
                to,
            };
            return target::forward(daemon, caller, &node, request).await;
        }
    };
    let (mover, asked, destination) = (daemon.clone(), job.clone(), to.clone());
    let look = move || moves::obstacles(&mover, &asked, destination.as_ref());
    let mut obstacles = tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| Failure::from_error(Code::Failed, "the look at it failed", &error))??;
    if let Some(to) = &to {
        obstacles.extend(destination_obstacle(daemon, to));
    }
    if let Some(leaving) = view.leaving {
        obstacles.push(Obstacle {
            pid: None,
            object: format!("job {job}"),
            reason: format!(
                "it is being moved to {} (phase {})",
                leaving.to, leaving.phase
            ),
            remedy: "wait until that move has ended".to_owned(),
            transient: true,
        });
    }
    let from = daemon.node().clone();
    let movable = obstacles.is_empty();
    Ok(Reply::Why(WhyReport {
        job: Some(job),
        from,
        to,
        movable,
        obstacles,
    }))
}

/// What is the matter with the destination as a whole.
fn destination_obstacle(daemon: &Daemon, to: &NodeName) -> Option<Obstacle> {
    let object = format!("node {to}");
    let obstacle = |reason: String, remedy: &str, transient| {
        Some(Obstacle {
            pid: None,
            object: object.clone(),
            reason,
            remedy: remedy.to_owned(),
            transient,
        })
    };
    if to == daemon.node() {
        return obstacle(
            "the job is there already".to_owned(),
            "name another node",
            false,
        );
    }
    match daemon.peers.states().get(to) {
        None => obstacle(
            "there is no such node".to_owned(),
            "`mig nodes` lists the nodes",
            false,
        ),
        Some(state) if !state.up => {
            let reason = state.reason.clone().unwrap_or_default();
            obstacle(
                format!("it is not connected: {reason}"),
                "start migd there",
                false,
            )
        }
        Some(_) => None,
    }
}
