//! `mig restore`: from a caller on this machine, with a file, to a job.

use std::fs::File;
use std::os::fd::OwnedFd;

use libmig::api::{Code, Failure, Reply, RestoreRequest, valid_alias};
use rustix::fs::{FileType, OFlags};
use tokio::sync::oneshot;

use super::Caller;
use super::exec::Asker;
use crate::daemon::Daemon;
use crate::moves::revive::{self, Believed, Wanted};

/// Answers when the job runs.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asker: Asker,
    request: RestoreRequest,
    fds: Vec<OwnedFd>,
) -> Result<Reply, Failure> {
    if let Some(name) = request.name.as_deref().filter(|name| !valid_alias(name)) {
        return Err(Failure::new(
            Code::Usage,
            format!("`{name}` is no job name"),
        ));
    }
    let (file, streams) = sort(fds)?;
    if daemon.draining() {
        return Err(Failure::new(Code::Busy, "the daemon is about to stop"));
    }
    let wanted = Wanted {
        new_job: request.new_job,
        name: request.name,
        streams,
        follower: (!request.detach).then(|| asker.into_pidfd()),
    };
    let restored = on_thread(daemon, "restore", move |daemon| {
        let believed = Believed::read(daemon, caller, file)?;
        at_home(daemon, &believed, wanted.new_job)?;
        revive::run(daemon, caller, believed, wanted)
    });
    restored.await.map(Reply::Restored)
}

/// A job comes back where it was started: the ID is that node's to give away.
fn at_home(daemon: &Daemon, believed: &Believed, new_job: bool) -> Result<(), Failure> {
    let home = &believed.was.home;
    if new_job || home == daemon.node() {
        return Ok(());
    }
    let said = format!(
        "whether job {} lives is known on its home, node {home}",
        believed.was
    );
    let hint = "run `mig restore` there, or make a new job of it with --new-job";
    Err(Failure::new(Code::Refused, said).hint(hint))
}

/// Runs `work` as a mover does.
async fn on_thread<T: Send + 'static>(
    daemon: &Daemon,
    name: &str,
    work: impl FnOnce(&Daemon) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (done, result) = oneshot::channel();
    let mine = daemon.clone();
    let run = move || drop(done.send(work(&mine)));
    daemon.spawn_mover(name, run).map_err(|error| {
        Failure::from_error(Code::Busy, "the restore cannot be started", &error)
    })?;
    result
        .await
        .unwrap_or_else(|_| Err(Failure::new(Code::Failed, "the mover panicked")))
}

/// What came along: a regular file, open for reading, and three streams.
fn sort(fds: Vec<OwnedFd>) -> Result<(File, [OwnedFd; 3]), Failure> {
    let bad = |what: &str| Failure::new(Code::Usage, what);
    let mut fds = fds.into_iter();
    let (Some(file), Some(stdin), Some(stdout), Some(stderr), None) =
        (fds.next(), fds.next(), fds.next(), fds.next(), fds.next())
    else {
        return Err(bad(
            "a restore needs four descriptors: a file, and three streams",
        ));
    };
    let failed = |error: rustix::io::Errno| {
        Failure::from_error(Code::Usage, "the file is of no use", &error)
    };
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    let flags = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
        return Err(bad("a checkpoint is a regular file that may be read"));
    }
    Ok((File::from(file), [stdin, stdout, stderr]))
}
