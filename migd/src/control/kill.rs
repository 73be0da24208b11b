//! `mig kill`: a signal to the main program of a job, wherever it is.

use libmig::api::{Code, Failure, JobId, Reply, Request, Target};
use migd::capsule::Handle;

use super::Caller;
use super::target::{self, Route};
use crate::daemon::Daemon;
use crate::jobs::watch;

/// Highest signal of the kernel.
const SIGRTMAX: i32 = 64;

/// Delivers it on the node that hosts the job.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asked: Target,
    number: i32,
) -> Result<Reply, Failure> {
    if !(1..=SIGRTMAX).contains(&number) {
        return Err(Failure::new(
            Code::Usage,
            format!("there is no signal {number}"),
        ));
    }
    let job = target::resolve(daemon, caller, &asked).await?;
    match target::route(daemon, caller, &job).await? {
        Route::Here(_) => {
            signal(daemon, &job, number).await?;
            Ok(Reply::Killed(job))
        }
        Route::Node(node) => {
            let request = Request::Kill {
                target: Target::Job(job),
                signal: number,
            };
            target::forward(daemon, caller, &node, request).await
        }
    }
}

/// Signals the main program of a job of this node.
///
/// # Errors
/// When its capsule does not answer.
pub(super) async fn signal(daemon: &Daemon, job: &JobId, number: i32) -> Result<(), Failure> {
    let folder = watch::folder(daemon, job);
    let sent = tokio::task::spawn_blocking(move || Handle::connect(&folder)?.signal(number));
    match sent.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let said = format!("job {job} cannot be signalled");
            Err(Failure::from_error(Code::Host, said, error.as_ref()))
        }
        Err(error) => Err(Failure::from_error(
            Code::Failed,
            "the signal failed",
            &error,
        )),
    }
}
