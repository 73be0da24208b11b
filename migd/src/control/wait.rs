//! `mig wait`: answers when the job has ended, from home, which remembers.

use libmig::api::{Failure, Reply, Request, Target};

use super::{Caller, not_yours, target};
use crate::daemon::Daemon;

/// Waits for as long as it takes.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asked: Target,
) -> Result<Reply, Failure> {
    let job = target::resolve(daemon, caller, &asked).await?;
    if let Some(view) = daemon.jobs.view(job.clone()).await {
        caller.check(&view.record)?;
    } else if let Some(exit) = daemon.jobs.exit_of(job.clone()).await {
        if !caller.may(exit.uid) {
            return Err(not_yours(&job));
        }
        return Ok(Reply::Exited(exit));
    }
    if &job.home != daemon.node() && caller.hops == 0 {
        let home = job.home.clone();
        return target::forward(
            daemon,
            caller,
            &home,
            Request::Wait {
                target: Target::Job(job),
            },
        )
        .await;
    }
    daemon.jobs.wait(job).await.map(Reply::Exited)
}
