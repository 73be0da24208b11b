//! `mig exec` and `mig attach`: from a caller on this machine to a job.
//!
//! With `--node` the job is started here and moved before its name is told:
//! home is where it was asked for, as for every job.

use std::os::fd::{AsFd, OwnedFd};

use libmig::api::exec::ExecRequest;
use libmig::api::{Code, ExecReply, Failure, JobId, MoveMode, NodeName, Reply, Target};
use migd::capsule::{self, Launcher, Peer};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;
use tracing::warn;

use super::{Caller, Events, kill, r#move, target};
use crate::cpu;
use crate::daemon::Daemon;
use crate::jobs::record::NewJob;
use crate::jobs::watch;

const SIGKILL: i32 = 9;

/// Most of a command line that is kept for listings.
const COMMAND_MAX: usize = 4096;

/// The other end of a local connection, held so that its pid stays its own.
#[derive(Debug)]
pub(super) struct Asker {
    pid: i32,
    uid: u32,
    gid: u32,
    pidfd: OwnedFd,
}

impl Asker {
    /// Who connected (SO_PEERCRED, SO_PEERPIDFD).
    ///
    /// # Errors
    /// When the process has ended already, or the kernel is older than 6.5.
    pub(super) fn of(stream: &UnixStream) -> std::io::Result<Asker> {
        let peer = getsockopt(stream, PeerCredentials)?;
        let pidfd = getsockopt(stream, PeerPidfd)?;
        Ok(Asker {
            pid: peer.pid(),
            uid: peer.uid(),
            gid: peer.gid(),
            pidfd,
        })
    }
}

impl Asker {
    /// Its pidfd alone.
    pub(super) fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }
}

/// Starts a job.
pub(super) async fn handle(
    daemon: &Daemon,
    asker: Asker,
    mut request: ExecRequest,
    fds: Vec<OwnedFd>,
    events: &Events,
) -> Result<Reply, Failure> {
    request
        .validate()
        .map_err(|error| Failure::from_error(Code::Usage, "the request makes no sense", &error))?;
    let to = destination(daemon, request.node.as_ref())?;
    let chosen = request.cpu.map(|choice| cpu::chosen(daemon, choice));
    let cpu_level = chosen.transpose()?;
    if let Some(level) = cpu_level {
        cpu::confine(&mut request.env, level);
    }
    let new = NewJob {
        uid: asker.uid,
        user: user(asker.uid),
        name: request.name.clone(),
        command: command(&request),
        pinned: request.pin,
        cpu_level,
    };
    let job = daemon.jobs.create(new).await?.id;
    match start(daemon, job.clone(), asker, request, fds).await {
        Ok(attach) => {
            watch::start(daemon, &job);
            if let Some(to) = to {
                place(daemon, &job, to, events).await?;
            }
            Ok(Reply::Exec(ExecReply { job, attach }))
        }
        Err(failure) => {
            if let Err(error) = daemon.jobs.forget(job).await {
                warn!(%error, "a job that never ran is still listed");
            }
            Err(failure)
        }
    }
}

/// Moves a new job to where it was asked for; one that cannot go there was
/// never meant to run here.
async fn place(daemon: &Daemon, job: &JobId, to: NodeName, events: &Events) -> Result<(), Failure> {
    let moved = r#move::run(daemon, job.clone(), to, MoveMode::Auto, events).await;
    match moved {
        Ok(_) => Ok(()),
        // It may run there: that will be settled, and it is listed.
        Err(failure) if failure.code == Code::Undecided => Err(failure),
        Err(failure) => {
            if let Err(error) = kill::signal(daemon, job, SIGKILL).await {
                warn!(%job, %error, "a job that could not be placed runs on here");
            }
            Err(failure)
        }
    }
}

/// Tells where the attach socket of a job is; its mode decides who may.
pub(super) async fn attach(
    daemon: &Daemon,
    caller: Caller,
    asked: &Target,
) -> Result<Reply, Failure> {
    let job = target::resolve(daemon, caller, asked).await?;
    let Some(view) = daemon.jobs.view(job.clone()).await else {
        return Err(crate::jobs::registry::no_such(&job));
    };
    caller.check(&view.record)?;
    if &job.home != daemon.node() {
        let said = format!(
            "the terminal of job {job} is on its home, node {}",
            job.home
        );
        return Err(Failure::new(Code::Usage, said).hint("run `mig attach` there"));
    }
    let attach = watch::folder(daemon, &job)
        .join("attach")
        .display()
        .to_string();
    Ok(Reply::Exec(ExecReply { job, attach }))
}

async fn start(
    daemon: &Daemon,
    job: JobId,
    asker: Asker,
    request: ExecRequest,
    fds: Vec<OwnedFd>,
) -> Result<String, Failure> {
    let launcher = Launcher {
        program: "/proc/self/exe".into(),
        jobs: daemon.config.jobs_dir(),
    };
    let started = tokio::task::spawn_blocking(move || {
        let Asker {
            pid,
            uid,
            gid,
            pidfd,
        } = asker;
        let peer = Peer {
            pid,
            uid,
            gid,
            pidfd: pidfd.as_fd(),
        };
        capsule::exec(&launcher, &job, &request, fds, &peer)
    });
    match started.await {
        Ok(Ok(started)) => Ok(started.attach.display().to_string()),
        Ok(Err(error)) => {
            let said = "the program cannot be started";
            Err(Failure::from_error(Code::Host, said, error.as_ref()))
        }
        Err(error) => Err(Failure::from_error(
            Code::Failed,
            "the start failed",
            &error,
        )),
    }
}

/// `--node`; nothing if that is here.
pub(super) fn destination(
    daemon: &Daemon,
    node: Option<&NodeName>,
) -> Result<Option<NodeName>, Failure> {
    match node {
        None => Ok(None),
        Some(node) if node == daemon.node() => Ok(None),
        Some(node) if daemon.config.peer(node).is_some() => Ok(Some(node.clone())),
        Some(node) => Err(
            Failure::new(Code::NotFound, format!("there is no node `{node}`"))
                .hint("`mig nodes` lists the nodes"),
        ),
    }
}

fn command(request: &ExecRequest) -> String {
    let words = request
        .argv
        .iter()
        .map(|word| String::from_utf8_lossy(word));
    let mut line = words.collect::<Vec<_>>().join(" ");
    let end = (0..=COMMAND_MAX.min(line.len()))
        .rev()
        .find(|at| line.is_char_boundary(*at));
    line.truncate(end.unwrap_or(0));
    line
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}
