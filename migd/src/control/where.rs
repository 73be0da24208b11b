//! Where is a job? Answered by the node that hosts it.

use libmig::api::{Failure, Reply, Request, Target, WhereReport};

use super::Caller;
use super::target::{self, Route};
use crate::daemon::Daemon;

/// Finds it.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asked: Target,
) -> Result<Reply, Failure> {
    let job = target::resolve(daemon, caller, &asked).await?;
    match target::route(daemon, caller, &job).await? {
        Route::Here(view) => {
            let node = daemon.node().clone();
            Ok(Reply::Where(WhereReport {
                job,
                node,
                epoch: view.record.epoch,
            }))
        }
        Route::Node(node) => {
            let request = Request::Where {
                target: Target::Job(job),
            };
            target::forward(daemon, caller, &node, request).await
        }
    }
}
