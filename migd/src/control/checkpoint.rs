//! `mig checkpoint`: from a caller on this machine, with a file, to a job of
//! this node.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libmig::api::{Code, Failure, Reply, Target};
use rustix::fs::{FileType, OFlags};
use tokio::sync::oneshot;

use super::restore::readable;
use super::target::{self, Route};
use super::{Caller, Events};
use crate::daemon::Daemon;
use crate::moves;

/// Answers when the file is complete.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    (asked, end): (&Target, bool),
    mut fds: Vec<OwnedFd>,
    events: &Events,
) -> Result<Reply, Failure> {
    let asker = if end && fds.len() > 1 {
        fds.pop().map(UnixStream::from)
    } else {
        None
    };
    if end && asker.is_none() {
        let said = "who keeps the file must say so before the job ends";
        return Err(Failure::new(Code::Usage, said));
    }
    let bases = fds.split_off(fds.len().min(1));
    let file = writable(fds)?;
    let bases = bases.into_iter().map(readable).collect::<Result<_, _>>()?;
    let job = target::resolve(daemon, caller, asked).await?;
    let elsewhere = match target::route(daemon, caller, &job).await? {
        Route::Node(node) => Some(node),
        Route::Here(_) => None,
    };
    if daemon.draining() {
        return Err(Failure::new(Code::Busy, "the daemon is about to stop"));
    }
    let (done, result) = oneshot::channel();
    let (mover, events, name) = (daemon.clone(), events.clone(), format!("disk {job}"));
    let run = move || {
        let known = moves::revive::known(&mover, caller, &job, bases);
        let saved = known.and_then(|known| match elsewhere {
            None => moves::disk::save(&mover, caller, &job, (&file, known), asker, &events),
            Some(node) => moves::fetch::save(&mover, caller, (&job, &node), (&file, known), asker),
        });
        drop(done.send(saved));
    };
    daemon.spawn_mover(&name, run).map_err(|error| {
        Failure::from_error(Code::Busy, "the checkpoint cannot be started", &error)
    })?;
    let saved = result
        .await
        .unwrap_or_else(|_| Err(Failure::new(Code::Failed, "the mover panicked")));
    saved.map(Reply::Saved)
}

/// The first descriptor that came along: an empty regular file, open for writing.
fn writable(mut fds: Vec<OwnedFd>) -> Result<File, Failure> {
    let bad = |what: &str| Failure::new(Code::Usage, what);
    let fd = match (fds.pop(), fds.len()) {
        (Some(fd), 0) => fd,
        _ => return Err(bad("a checkpoint needs one descriptor of a file")),
    };
    let failed = |error: rustix::io::Errno| {
        Failure::from_error(Code::Usage, "the file is of no use", &error)
    };
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(failed)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || stat.st_size != 0 || flags & OFlags::RWMODE == OFlags::RDONLY {
        return Err(bad("a checkpoint needs an empty file that may be written"));
    }
    Ok(File::from(fd))
}
