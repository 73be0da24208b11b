//! Terminal and pipes of a job that is away: a byte pipe between the init that
//! hosts it and its deputy at home, as long as the job is away.
//!
//! The node that hosts the job dials, and dials again. What had been on its
//! way when a connection broke the two inits say again (capsule/relay).
//!
//! Invariant: the daemon only copies; it keeps no byte that would be lost with it.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use libmig::api::{JobId, NodeName};
use migd::capsule::Handle;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::{PeerError, Purpose, dial};
use crate::daemon::Daemon;
use crate::jobs::record;
use crate::jobs::watch;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_LAST: Duration = Duration::from_secs(1);

/// Host's side: keeps a carrier to `job`'s home until the capsule ends here.
pub(crate) fn host(daemon: &Daemon, job: &JobId) {
    let (daemon, job) = (daemon.clone(), job.clone());
    daemon.runtime.clone().spawn(async move {
        let mut backoff = BACKOFF_FIRST;
        // Nothing to carry before the job lives here, nor after its init has ended.
        while let Some(epoch) = lives_here(&daemon, &job).await {
            match carry(&daemon, &job, epoch).await {
                Ok(()) => backoff = BACKOFF_FIRST,
                Err(error) => {
                    debug!(%job, reason = %super::link::chain(&error), "no carrier");
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                }
            }
            sleep(backoff).await;
        }
    });
}

/// The epoch with which `job` lives here, once it does, or lived when it ended: its last
/// words are still to go home. Nothing when its capsule is gone. A capsule is there before
/// its job is.
async fn lives_here(daemon: &Daemon, job: &JobId) -> Option<u64> {
    let folder = watch::folder(daemon, job);
    while folder.exists() {
        match daemon.jobs.view(job.clone()).await {
            Some(view) if view.record.is_here() => return Some(view.record.epoch),
            Some(_) => {}
            None => {
                if let Some(epoch) = daemon.jobs.ended_here(job.clone()).await {
                    return Some(epoch);
                }
            }
        }
        sleep(BACKOFF_FIRST).await;
    }
    None
}

async fn carry(daemon: &Daemon, job: &JobId, epoch: u64) -> Result<(), PeerError> {
    let purpose = Purpose::Carrier {
        job: job.clone(),
        epoch,
    };
    let limit = daemon.config.peer_timeout();
    let dialled = timeout(limit, dial::dial(daemon, &job.home, purpose)).await;
    let (peer, _) = dialled.map_err(|_| PeerError::Timeout(limit))??;
    let local = plug(daemon, job).await?;
    pump(peer, local).await
}

/// Home's side: connects what `node` sends with the deputy of `job`.
pub(super) async fn serve(
    daemon: &Daemon,
    peer: TlsStream<TcpStream>,
    node: &NodeName,
    job: &JobId,
    epoch: u64,
) -> Result<(), PeerError> {
    if &job.home != daemon.node() {
        return Err(PeerError::OutOfPhase(
            "this node is not home of the carrier's job",
        ));
    }
    // Whoever brings a carrier says where the job is; the higher epoch wins.
    if let Err(failure) = daemon.jobs.located(job.clone(), epoch, node.clone()).await {
        return Err(PeerError::Refused(failure));
    }
    if let Some(view) = daemon.jobs.view(job.clone()).await {
        let there = record::Place::Away { node: node.clone() };
        if view.record.place != there && !view.committed {
            return Err(PeerError::OutOfPhase("the carrier's job is not there"));
        }
    }
    let local = plug(daemon, job).await?;
    pump(peer, local).await
}

/// Gives the init one end of a socket pair and returns the other.
async fn plug(daemon: &Daemon, job: &JobId) -> Result<UnixStream, PeerError> {
    let folder = watch::folder(daemon, job);
    let plugged = tokio::task::spawn_blocking(move || {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Handle::connect(&folder)?.carrier(theirs)?;
        anyhow::Ok(ours)
    });
    match plugged.await {
        Ok(Ok(ours)) => Ok(UnixStream::from_std(ours)?),
        Ok(Err(error)) => {
            warn!(%job, reason = %format!("{error:#}"), "the capsule takes no carrier");
            Err(PeerError::OutOfPhase("the capsule takes no carrier"))
        }
        Err(_) => Err(PeerError::OutOfPhase("the carrier's thread ended")),
    }
}

/// Copies both ways until either end closes.
async fn pump(
    mut peer: impl AsyncRead + AsyncWrite + Unpin,
    mut local: UnixStream,
) -> Result<(), PeerError> {
    copy_bidirectional(&mut peer, &mut local).await?;
    Ok(())
}
