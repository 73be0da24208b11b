//! Tells the homes of foreign jobs where these live and how they ended.
//!
//! Invariant: a report is on disk until its home has answered that it is on
//! its disk too.

use std::time::Duration;

use libmig::api::JobId;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::record::Report;
use crate::daemon::Daemon;
use crate::peer::message::{Answer, Question};

/// Tried again at least so often, for homes that are down.
const AGAIN: Duration = Duration::from_secs(2);

/// Reports for ever.
pub(crate) async fn run(daemon: Daemon) {
    loop {
        for (job, report) in daemon.jobs.reports().await {
            tell(&daemon, job, report).await;
        }
        // Either something new, or time to try again: both mean another round.
        drop(timeout(AGAIN, daemon.jobs.to_report.notified()).await);
    }
}

async fn tell(daemon: &Daemon, job: JobId, report: Report) {
    let question = match &report {
        Report::Located { epoch } => Question::Located {
            job: job.clone(),
            epoch: *epoch,
        },
        Report::Exited(exit) => Question::Exited {
            exit: exit.clone(),
            epoch: u64::MAX,
        },
        Report::Ended { exit, epoch } => Question::Exited {
            exit: exit.clone(),
            epoch: *epoch,
        },
    };
    match daemon
        .peers
        .ask(&job.home, question, daemon.config.peer_timeout())
        .await
    {
        Ok(Answer::Noted) => {
            if let Err(failure) = daemon.jobs.reported(job, report).await {
                warn!(%failure, "a report that arrived will be repeated");
            }
        }
        Ok(_) => warn!(%job, "home answered a report with something else"),
        Err(error) => debug!(%job, %error, "home cannot be told yet"),
    }
}
