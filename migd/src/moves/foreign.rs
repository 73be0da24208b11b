//! Moves of processes that `mig exec` did not start: whose they are, what stands in
//! the way, and the move itself, which makes such a process a job.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use libmig::api::{Code, Failure, JobId, MoveMode, MoveReport, NodeName, Obstacle};
use libmig::inspect::process::{self, Scope};
use libmig::inspect::{fd, strangers};
use libmig::sys::HostPid;
use nix::unistd::{Uid, User, setfsuid};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use tracing::warn;

use super::adopted::{self, Adopted};
use super::look::{self, Look};
use super::{TRIES, ties};
use crate::control::Events;
use crate::daemon::Daemon;

/// Moves the tree of `root` to `to` as a new job, and waits for the end of it.
///
/// # Errors
/// Why it stayed: it runs on where it was, and is no job.
pub(crate) fn start(
    daemon: &Daemon,
    (root, caller): (HostPid, u32),
    to: &NodeName,
    mode: MoveMode,
    events: &Events,
) -> Result<MoveReport, Failure> {
    let owner = admitted(root, caller).map_err(|failure| Failure {
        message: match failure.code {
            Code::Refused => format!("process {root} did not move to {to}"),
            _ => failure.message,
        },
        ..failure
    })?;
    let job = Adopted::begin(daemon, root, (owner, user(owner)), caller)?;
    let moved = super::start(daemon, &job, to, mode, events);
    match moved {
        Ok(report) => Ok(report),
        // It may run there: that will be settled.
        Err(failure) if failure.code == Code::Undecided => Err(failure),
        Err(failure) => {
            if let Err(error) = super::resume(daemon, &job) {
                warn!(%job, %error, causes = ?error.causes, "a process that stayed is not as it was");
            }
            let message = format!("process {root} did not move to {to}");
            Err(Failure { message, ..failure })
        }
    }
}

/// Whose the tree of `root` is, when nothing stands in the way but what passes by itself
/// within some looks.
fn admitted(root: HostPid, caller: u32) -> Result<u32, Failure> {
    let mut tries = 1;
    loop {
        let (owner, Look { obstacles, .. }) = look(root, caller)?;
        if obstacles.is_empty() {
            return Ok(owner);
        }
        if tries == TRIES || obstacles.iter().any(|obstacle| !obstacle.transient) {
            let said = format!("process {root} cannot become a job");
            return Err(Failure::refused(said, obstacles));
        }
        tries += 1;
    }
}

/// The job in whose first process' place this one is.
pub(crate) fn stands_for(daemon: &Daemon, process: HostPid) -> Option<JobId> {
    let folders = fs::read_dir(daemon.config.jobs_dir()).ok()?;
    let mut folders = folders.flatten().map(|entry| entry.path());
    let folder = folders.find(|folder| adopted::stands_for(folder, process))?;
    folder.file_name()?.to_str()?.parse().ok()
}

/// Whose the tree of `root` is, what stands in the way of a move, and what it needs elsewhere.
///
/// # Errors
/// When it is not the caller's, or there is none.
pub(crate) fn look(root: HostPid, caller: u32) -> Result<(u32, Look), Failure> {
    let scope = Scope::From(root);
    let owner = owner(scope, caller)?;
    let unreadable = |error: std::io::Error| {
        let said = format!("process {root} cannot be looked at");
        Failure::from_error(Code::Host, said, &error)
    };
    let ties = || ties::of(root).map_err(unreadable);
    let mut found = look::of(scope, ties)?;
    let streams: BTreeSet<u64> = ties()?.streams.iter().map(|end| end.inode).collect();
    // A child that is born between two glances looks like a stranger with its parent's pipes.
    let shared = look::lasting(|| {
        let tree = process::tree(scope);
        Ok::<_, Failure>(strangers::obstacles(&tree, &streams))
    })?;
    // A pipe with one end in the tree has been named already.
    let named = |object: &str| {
        let what = object.split_once('(').map_or(object, |(_, what)| what);
        found
            .obstacles
            .iter()
            .any(|known| known.object.ends_with(what))
    };
    let shared: Vec<_> = shared.into_iter().filter(|o| !named(&o.object)).collect();
    found.obstacles.extend(shared);
    found.obstacles.extend(place(root, owner));
    Ok((owner, found))
}

/// The user of all processes of a tree, which the caller may move: as ptrace(2) would
/// have it, what the program was not given by its user is not shown to that user.
///
/// # Errors
/// When they have several users, or the caller may not.
pub(super) fn owner(scope: Scope, caller: u32) -> Result<u32, Failure> {
    let root = scope.top();
    let gone = || {
        let said = format!("there is no process {root} on this node");
        Failure::new(Code::NotFound, said)
    };
    let owner = process::status(root).map_err(|_| gone())?.uids[0];
    let not_yours = |host: HostPid, hint: &str| {
        let said = format!("process {host} is not your process");
        Failure::new(Code::NotYours, said).hint(hint)
    };
    for (host, _) in process::tree(scope) {
        let Ok(status) = process::status(host) else {
            continue; // ended meanwhile
        };
        if caller != 0 && status.uids.iter().any(|uid| *uid != caller) {
            return Err(not_yours(host, "its user, or root, can move it"));
        }
        if status.uids.iter().any(|uid| *uid != owner) {
            let obstacle = Obstacle {
                pid: Some(host.raw()),
                object: format!("process {host}"),
                reason: format!("it has other users than process {root} has (setuid)"),
                remedy: "move the processes of one user only".into(),
                transient: false,
            };
            let said = format!("process {root} cannot become a job");
            return Err(Failure::refused(said, vec![obstacle]));
        }
        let groups = status.gids.iter().all(|gid| *gid == status.gids[0]);
        // Files of a process that may not be dumped belong to root; so do those of one that
        // is about to end, which has no memory any more.
        let maps = format!("/proc/{host}/maps");
        let closed = fs::metadata(&maps).is_ok_and(|maps| maps.uid() != owner)
            && fs::read(&maps).is_ok_and(|maps| !maps.is_empty());
        if caller != 0 && (!groups || status.capabilities[1] != 0 || closed) {
            return Err(not_yours(
                host,
                "it has rights that its user has not: root can move it",
            ));
        }
    }
    Ok(owner)
}

/// What keeps another program from taking the place of the first process.
fn place(root: HostPid, owner: u32) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut refuse = |reason: String, remedy: &str| {
        found.push(Obstacle {
            pid: Some(root.raw()),
            object: format!("process {root}"),
            reason,
            remedy: remedy.into(),
            transient: false,
        });
    };
    let tree = process::tree(Scope::From(root));
    if tree.iter().any(|(host, _)| *host == HostPid::own()) {
        refuse(
            "this node's daemon is below it".into(),
            "move another process",
        );
    }
    let identity = |host| {
        let place = rustix::fs::fstat(fd::root(host).ok()?.as_fd()).ok()?;
        Some((place.st_dev, place.st_ino))
    };
    if identity(root) != identity(HostPid::own()) {
        refuse(
            "it has a root directory of its own, in which there is no mig to take its place".into(),
            "start it with `mig exec`",
        );
    }
    let mut threads = process::threads(root).into_iter().flatten();
    if threads.any(|thread| process::status(thread).is_ok_and(|status| status.seccomp != 0)) {
        refuse(
            "seccomp restricts its system calls, and mig, which would take its place, needs others"
                .into(),
            "start it with `mig exec`",
        );
    }
    match adopted::program() {
        Ok(mig) if may_run(owner, &mig) => {}
        Ok(mig) => refuse(
            format!(
                "its user cannot run {}, which would take its place",
                mig.display()
            ),
            "let everybody run it",
        ),
        Err(error) => refuse(
            format!("the daemon does not find mig: {error}"),
            "report it",
        ),
    }
    found
}

fn may_run(user: u32, program: &std::path::Path) -> bool {
    let program = program.to_owned();
    // setfsuid(2) concerns the calling thread alone: one that ends right after.
    let visitor = std::thread::spawn(move || {
        setfsuid(Uid::from_raw(user));
        accessat(CWD, &program, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    });
    visitor.join().unwrap_or(false)
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}
