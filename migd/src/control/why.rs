//! `mig why`: everything that stands in the way of a move.

use libmig::api::{Code, Failure, NodeName, Obstacle, Reply, Request, Target, WhyReport};
use libmig::sys::HostPid;

use super::Caller;
use super::target::{self, Route};
use crate::daemon::Daemon;
use crate::jobs::record::JobRecord;
use crate::moves::admission::Candidate;
use crate::moves::{self, Look};
use crate::peer::message::{Answer, Question};

/// Asks the node that hosts the job.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asked: Target,
    to: Option<NodeName>,
) -> Result<Reply, Failure> {
    if let Some(process) = target::foreign(daemon, &asked)? {
        return of_process(daemon, process, caller, to).await;
    }
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
    let mover = daemon.clone();
    let look = blocking(move || moves::look(&mover, &job)).await?;
    let mut obstacles = in_the_way(daemon, look, &view.record, to.as_ref()).await?;
    if let Some(leaving) = view.leaving {
        obstacles.push(Obstacle {
            pid: None,
            object: format!("job {}", view.record.id),
            reason: format!(
                "it is being moved to {} (phase {})",
                leaving.to, leaving.phase
            ),
            remedy: "wait until that move has ended".to_owned(),
            transient: true,
        });
    }
    Ok(Reply::Why(WhyReport {
        job: Some(view.record.id),
        cpu_level: view.record.cpu_level,
        from: daemon.node().clone(),
        to,
        movable: obstacles.is_empty(),
        obstacles,
    }))
}

/// The same for the tree of a process that is part of no job.
async fn of_process(
    daemon: &Daemon,
    process: HostPid,
    caller: Caller,
    to: Option<NodeName>,
) -> Result<Reply, Failure> {
    let looked = blocking(move || moves::foreign::look(process, caller.uid)).await;
    let (uid, look) = match looked {
        Ok(looked) => looked,
        // What makes it no job at all is an obstacle like others.
        Err(failure) if !failure.obstacles.is_empty() => {
            (caller.uid, Look::of_obstacles(failure.obstacles))
        }
        Err(failure) => return Err(failure),
    };
    let record = JobRecord::of_no_job(daemon.node(), uid);
    let obstacles = in_the_way(daemon, look, &record, to.as_ref()).await?;
    Ok(Reply::Why(WhyReport {
        job: None,
        cpu_level: None,
        from: daemon.node().clone(),
        to,
        movable: obstacles.is_empty(),
        obstacles,
    }))
}

async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Failure::from_error(Code::Failed, "the look at it failed", &error))?
}

/// What is in the way here, and at `to` if that is asked for.
async fn in_the_way(
    daemon: &Daemon,
    mut look: Look,
    record: &JobRecord,
    to: Option<&NodeName>,
) -> Result<Vec<Obstacle>, Failure> {
    let mut obstacles = std::mem::take(&mut look.obstacles);
    if let Some(to) = to {
        match destination_obstacle(daemon, to) {
            Some(obstacle) => obstacles.push(obstacle),
            None => {
                let candidate = Candidate::from_here(daemon, record, look)?;
                obstacles.extend(ask(daemon, to, candidate).await?);
            }
        }
    }
    Ok(obstacles)
}

/// What the destination has against it.
pub(super) async fn ask(
    daemon: &Daemon,
    to: &NodeName,
    candidate: Candidate,
) -> Result<Vec<Obstacle>, Failure> {
    let question = Question::Admit(Box::new(candidate));
    let limit = daemon.config.peer_timeout();
    match daemon.peers.ask(to, question, limit).await {
        Ok(Answer::Obstacles(obstacles)) => Ok(obstacles),
        Ok(_) => Err(Failure::new(
            Code::Protocol,
            format!("node `{to}` answered something else"),
        )),
        Err(error) => Err(error.failure(to)),
    }
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
