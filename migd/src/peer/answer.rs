//! Answers to what peers ask on a control connection.

use std::time::Duration;

use libmig::api::{Code, Failure, NodeName};

use super::message::{Answer, Question};
use crate::control::{self, Caller};
use crate::daemon::Daemon;
use crate::jobs::settle;
use crate::moves::admission;

/// Longest that a forwarded request may take: a wait for a job's end.
pub(crate) const FORWARD_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Works on one question of `peer`.
///
/// # Errors
/// What the peer is told instead of an answer.
pub(super) async fn answer(
    daemon: &Daemon,
    peer: &NodeName,
    question: Question,
) -> Result<Answer, Failure> {
    match question {
        Question::Load(_) => Ok(Answer::Load(daemon.meters.exported())),
        Question::Ps => Ok(Answer::Jobs(control::ps::local(daemon).await)),
        Question::Forward { uid, hops, request } => {
            let caller = Caller { uid, hops };
            control::handle(daemon, caller, request, &control::Events::none())
                .await
                .map(Answer::Reply)
        }
        Question::Resolve { uid, name } => Ok(Answer::Resolved(
            control::target::named(daemon, uid, &name).await,
        )),
        Question::Located { job, epoch } => {
            daemon.jobs.located(job, epoch, peer.clone()).await?;
            Ok(Answer::Noted)
        }
        Question::Exited { exit, epoch } => {
            if &exit.job.home != daemon.node() {
                let said = format!("node {} is not home of job {}", daemon.node(), exit.job);
                return Err(Failure::new(Code::Protocol, said));
            }
            daemon.jobs.exited_elsewhere(exit, epoch).await?;
            Ok(Answer::Noted)
        }
        Question::Reserve(asked) => Ok(Answer::Reserved(daemon.balance.reserve(daemon, &asked))),
        Question::CommitState { job, epoch } => Ok(Answer::Verdict(
            daemon.jobs.commit_state(peer.clone(), job, epoch).await,
        )),
        Question::Admit(candidate) => {
            let daemon = daemon.clone();
            let judge = move || admission::obstacles(&daemon, &candidate);
            let judged = tokio::task::spawn_blocking(judge).await;
            let judged = judged.map_err(|error| {
                Failure::from_error(Code::Failed, "the look at it failed", &error)
            })?;
            judged.map(Answer::Obstacles)
        }
        Question::Commit { job, epoch } => Ok(Answer::Verdict(
            settle::told_committed(daemon, peer, &job, epoch).await,
        )),
    }
}
