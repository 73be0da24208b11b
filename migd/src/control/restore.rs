//! `mig restore`: from a caller on this machine, with a file, to a job.

use std::fs::File;
use std::os::fd::OwnedFd;

use libmig::api::{
    Code, Failure, MoveMode, NodeName, Reply, RestoreReport, RestoreRequest, valid_alias,
};
use rustix::fs::{FileType, OFlags};
use tokio::sync::oneshot;

use super::exec::{Asker, destination};
use super::{Caller, Events, r#move, why};
use crate::daemon::Daemon;
use crate::moves::revive::{self, Believed, Wanted};

/// Answers when the job runs.
pub(super) async fn handle(
    daemon: &Daemon,
    caller: Caller,
    asker: Asker,
    request: RestoreRequest,
    fds: Vec<OwnedFd>,
    events: &Events,
) -> Result<Reply, Failure> {
    if let Some(name) = request.name.as_deref().filter(|name| !valid_alias(name)) {
        return Err(Failure::new(
            Code::Usage,
            format!("`{name}` is no job name"),
        ));
    }
    let (file, streams, bases) = sort(fds)?;
    if daemon.draining() {
        return Err(Failure::new(Code::Busy, "the daemon is about to stop"));
    }
    let wanted = Wanted {
        new_job: request.new_job,
        name: request.name,
        streams,
        follower: (!request.detach).then(|| asker.into_pidfd()),
    };
    let to = destination(daemon, request.node.as_ref())?;
    let asks = to.is_some();
    let read = on_thread(daemon, "read", move |daemon| {
        let mut believed = Believed::read(daemon, caller, file, bases)?;
        at_home(daemon, &believed, wanted.new_job)?;
        let candidate = asks.then(|| believed.candidate()).transpose()?;
        Ok((believed, candidate, wanted))
    });
    let (believed, candidate, wanted) = read.await?;
    if let (Some(to), Some(candidate)) = (&to, candidate) {
        let obstacles = why::ask(daemon, to, candidate).await?;
        if !obstacles.is_empty() {
            let said = format!("job {} in the file cannot live on {to}", believed.was);
            return Err(Failure::refused(said, obstacles));
        }
    }
    let mut report = on_thread(daemon, "restore", move |daemon| {
        revive::run(daemon, caller, believed, wanted)
    })
    .await?;
    if let Some(to) = to {
        place(daemon, &mut report, to, events).await?;
    }
    Ok(Reply::Restored(report))
}

/// Moves a job that has been restored here to where it was asked for.
async fn place(
    daemon: &Daemon,
    report: &mut RestoreReport,
    to: NodeName,
    events: &Events,
) -> Result<(), Failure> {
    let job = report.job.clone();
    match r#move::run(daemon, job.clone(), to, MoveMode::Auto, events).await {
        Ok(moved) => {
            report.node = moved.to;
            report.lost_locks.extend(moved.lost_locks);
            Ok(())
        }
        Err(mut failure) => {
            failure.causes.insert(0, failure.message);
            failure.message = format!("job {job} has been restored, but not where it was to run");
            Err(failure)
        }
    }
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

/// What came along: a file, three streams, and the files on which it builds.
fn sort(fds: Vec<OwnedFd>) -> Result<(File, [OwnedFd; 3], Vec<File>), Failure> {
    let mut fds = fds.into_iter();
    let (Some(file), Some(stdin), Some(stdout), Some(stderr)) =
        (fds.next(), fds.next(), fds.next(), fds.next())
    else {
        let said = "a restore needs four descriptors: a file, and three streams";
        return Err(Failure::new(Code::Usage, said));
    };
    let bases = fds.map(readable).collect::<Result<_, _>>()?;
    Ok((readable(file)?, [stdin, stdout, stderr], bases))
}

/// A regular file, open for reading.
pub(super) fn readable(file: OwnedFd) -> Result<File, Failure> {
    let failed = |error: rustix::io::Errno| {
        Failure::from_error(Code::Usage, "the file is of no use", &error)
    };
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    let flags = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
        let said = "a checkpoint is a regular file that may be read";
        return Err(Failure::new(Code::Usage, said));
    }
    Ok(File::from(file))
}
