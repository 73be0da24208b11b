//! `mig why`: everything that stands in the way of a move.

use libmig::api::{Code, Failure, JobId, NodeName, Obstacle, Reply, Request, Target, WhyReport};

use libmig::image::NeededFile;
use libmig::inspect::cpu::CpuFeatures;
use libmig::sys::HostPid;

use super::Caller;
use super::target::{self, Route};
use crate::daemon::Daemon;
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
    let (mover, asked) = (daemon.clone(), job.clone());
    let look = tokio::task::spawn_blocking(move || moves::look(&mover, &asked));
    let Look {
        mut obstacles,
        files,
    } = look
        .await
        .map_err(|error| Failure::from_error(Code::Failed, "the look at it failed", &error))??;
    if let Some(to) = &to {
        obstacles.extend(there(daemon, to, &job, view.record.uid, files).await?);
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

/// The same for the tree of a process that is part of no job.
async fn of_process(
    daemon: &Daemon,
    process: HostPid,
    caller: Caller,
    to: Option<NodeName>,
) -> Result<Reply, Failure> {
    let look = tokio::task::spawn_blocking(move || moves::foreign::look(process, caller.uid));
    let looked = look
        .await
        .map_err(|error| Failure::from_error(Code::Failed, "the look at it failed", &error))?;
    let (uid, files, mut obstacles) = match looked {
        Ok((uid, Look { obstacles, files })) => (uid, files, obstacles),
        // What makes it no job at all is an obstacle like others.
        Err(failure) if !failure.obstacles.is_empty() => (caller.uid, vec![], failure.obstacles),
        Err(failure) => return Err(failure),
    };
    if let Some(to) = &to {
        // No job has this number.
        let job = JobId {
            home: daemon.node().clone(),
            number: u64::MAX,
        };
        obstacles.extend(there(daemon, to, &job, uid, files).await?);
    }
    Ok(Reply::Why(WhyReport {
        job: None,
        from: daemon.node().clone(),
        to,
        movable: obstacles.is_empty(),
        obstacles,
    }))
}

/// What is in the way at the destination.
async fn there(
    daemon: &Daemon,
    to: &NodeName,
    job: &JobId,
    uid: u32,
    files: Vec<NeededFile>,
) -> Result<Vec<Obstacle>, Failure> {
    match destination_obstacle(daemon, to) {
        Some(obstacle) => Ok(vec![obstacle]),
        None => ask(daemon, to, job, uid, files).await,
    }
}

/// What the destination has against the job.
async fn ask(
    daemon: &Daemon,
    to: &NodeName,
    job: &JobId,
    uid: u32,
    files: Vec<NeededFile>,
) -> Result<Vec<Obstacle>, Failure> {
    let cpu = postcard::to_stdvec(&CpuFeatures::of_this_machine()).map_err(|error| {
        Failure::from_error(Code::Failed, "this node's CPU cannot be described", &error)
    })?;
    let question = Question::Admit {
        job: job.clone(),
        uid,
        cpu,
        files,
    };
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
