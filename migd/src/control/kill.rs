//! `mig kill`: a signal to the main program of a job, wherever it is.

use libmig::api::{Code, Failure, Reply, Request, Target};

use super::Caller;
use super::target::{self, Route};
use crate::daemon::Daemon;

/// Highest signal number.
const SIGRTMAX: i32 = 64;

/// Delivers it on the node that hosts the job.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asked: Target,
    signal: i32,
) -> Result<Reply, Failure> {
    if !(1..=SIGRTMAX).contains(&signal) {
        return Err(Failure::new(
            Code::Usage,
            format!("there is no signal {signal}"),
        ));
    }
    let job = target::resolve(daemon, caller, &asked).await?;
    match target::route(daemon, caller, &job).await? {
        Route::Here(_) => Err(Failure::new(Code::Failed, "this build starts no programs")),
        Route::Node(node) => {
            let request = Request::Kill {
                target: Target::Job(job),
                signal,
            };
            target::forward(daemon, caller, &node, request).await
        }
    }
}
