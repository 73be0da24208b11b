//! From what a user points at to a job, and from a job to the node that can
//! act on it.

use libmig::api::{Code, Failure, JobId, NodeName, Reply, Request, Target, WhereReport};
use libmig::sys::HostPid;
use tokio::task::JoinSet;

use super::Caller;
use crate::daemon::Daemon;
use crate::jobs::record::Place;
use crate::jobs::registry::{JobView, no_such};
use crate::moves;
use crate::peer::answer::FORWARD_MAX;
use crate::peer::message::{Answer, Question};

/// Home forwards to the host; a job that moves meanwhile costs another round.
const HOPS_MAX: u8 = 4;

/// The job that `target` means for `caller`.
///
/// # Errors
/// When there is none.
pub(crate) async fn resolve(
    daemon: &Daemon,
    caller: Caller,
    target: &Target,
) -> Result<JobId, Failure> {
    let name = match target {
        Target::Job(job) if daemon.jobs.view(job.clone()).await.is_some() => {
            return Ok(job.clone());
        }
        Target::Job(job) if caller.hops > 0 => return Ok(job.clone()),
        Target::Job(job) => match anywhere(daemon, caller.uid, &job.to_string()).await {
            Some(found) => return Ok(found),
            None => return Ok(job.clone()),
        },
        Target::Pid(pid) => {
            return of_process(daemon, *pid)?.ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("process {pid} is not part of a job"),
                )
                .hint("`mig move` makes it one")
            });
        }
        Target::Name(name) => name,
    };
    anywhere(daemon, caller.uid, name).await.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("you have no job named `{name}`"))
            .hint("`mig ps` lists your jobs")
    })
}

/// A process of this node that is part of no job, if that is what `target` means.
///
/// # Errors
/// There is no such process.
pub(crate) fn foreign(daemon: &Daemon, target: &Target) -> Result<Option<HostPid>, Failure> {
    match target {
        Target::Pid(pid) => Ok(match of_process(daemon, *pid)? {
            Some(_) => None,
            None => Some(HostPid::new(*pid)),
        }),
        Target::Job(_) | Target::Name(_) => Ok(None),
    }
}

/// Which job of this node has this name for this user. For root: of any user,
/// if only one has it.
pub(crate) async fn named(daemon: &Daemon, uid: u32, name: &str) -> Option<WhereReport> {
    let views = daemon.jobs.views().await;
    let has = |view: &&JobView| view.record.name.as_deref() == Some(name);
    let own = views.iter().filter(has).find(|view| view.record.uid == uid);
    let mut any = views.iter().filter(has);
    let found = match (own, any.next(), any.next()) {
        (Some(own), ..) => own,
        (None, Some(only), None) if uid == 0 => only,
        _ => return None,
    };
    let node = match &found.record.place {
        Place::Here => daemon.node().clone(),
        Place::Away { node } => node.clone(),
    };
    Some(WhereReport {
        job: found.record.id.clone(),
        node,
        epoch: found.record.epoch,
    })
}

/// Looks here first, then asks the other nodes.
async fn anywhere(daemon: &Daemon, uid: u32, name: &str) -> Option<JobId> {
    if let Some(found) = named(daemon, uid, name).await {
        return Some(found.job);
    }
    let mut asked = JoinSet::new();
    for node in daemon.peers.up() {
        let (daemon, name) = (daemon.clone(), name.to_owned());
        asked.spawn(async move {
            let limit = daemon.config.peer_timeout();
            daemon
                .peers
                .ask(&node, Question::Resolve { uid, name }, limit)
                .await
        });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Ok(Answer::Resolved(Some(found)))) = answer {
            return Some(found.job);
        }
    }
    None
}

/// The job whose capsule the process is in, by its cgroup: `.../mig/<job>/job`;
/// or the one in whose first process' place it is.
fn of_process(daemon: &Daemon, pid: i32) -> Result<Option<JobId>, Failure> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(path).map_err(|_| {
        Failure::new(
            Code::NotFound,
            format!("there is no process {pid} on this node"),
        )
    })?;
    for line in text.lines() {
        let mut parts = line.rsplit('/');
        let (leaf, job, root) = (parts.next(), parts.next(), parts.next());
        if leaf == Some("job")
            && root == Some("mig")
            && let Some(job) = job.and_then(|job| job.parse().ok())
        {
            return Ok(Some(job));
        }
    }
    Ok(moves::foreign::stands_for(daemon, HostPid::new(pid)))
}

/// Where a request about a job is to be worked on.
#[derive(Debug)]
pub(crate) enum Route {
    /// Here; the caller may act on it.
    Here(Box<JobView>),
    /// There.
    Node(NodeName),
}

/// Finds the node that hosts `job`: this one, the one that our record names,
/// or home, which knows.
///
/// # Errors
/// When it is unknown, somebody else's, or moves too fast to be caught.
pub(crate) async fn route(daemon: &Daemon, caller: Caller, job: &JobId) -> Result<Route, Failure> {
    let Some(view) = daemon.jobs.view(job.clone()).await else {
        return if &job.home == daemon.node() || caller.hops >= HOPS_MAX {
            Err(no_such(job))
        } else {
            Ok(Route::Node(job.home.clone()))
        };
    };
    caller.check(&view.record)?;
    match &view.record.place {
        Place::Here => Ok(Route::Here(Box::new(view))),
        Place::Away { .. } if caller.hops >= HOPS_MAX => {
            let said = format!("job {job} moves faster than it can be found");
            Err(Failure::new(Code::Busy, said).hint("try again"))
        }
        Place::Away { node } => Ok(Route::Node(node.clone())),
    }
}

/// Lets `node` work on the request in the caller's name.
///
/// # Errors
/// When it cannot be asked, or what it answered.
pub(crate) async fn forward(
    daemon: &Daemon,
    caller: Caller,
    node: &NodeName,
    request: Request,
) -> Result<Reply, Failure> {
    let question = Question::Forward {
        uid: caller.uid,
        hops: caller.hops + 1,
        request,
    };
    match daemon.peers.ask(node, question, FORWARD_MAX).await {
        Ok(Answer::Reply(reply)) => Ok(reply),
        Ok(_) => {
            let said = format!("node `{node}` answered with something else");
            Err(Failure::new(Code::Protocol, said))
        }
        Err(error) => Err(error.failure(node)),
    }
}
