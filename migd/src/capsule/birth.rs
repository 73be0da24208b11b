//! `migd capsule --fd N`: from a process that the daemon has spawned to pid 1 of a capsule.
//!
//! Three processes: the daemon's child reads the order and enters the current
//! directory (the new mount namespace then has its own idea of it, even if it
//! has no name), clones the init into new namespaces and its cgroup, and ends,
//! so that the init is no child of the daemon.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use libmig::{
    api::JobId,
    sys::clone::{self, CloneOptions, Forked},
};
use nix::{
    sched::CloneFlags,
    unistd::{dup2_stdin, setsid},
};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use super::{fdstream::FdStream, init::Init, program::Program, view};

/// The daemon's order for a new capsule, with its descriptors: the ctl and attach listeners,
/// both cgroup leaves and, with a program, [`libmig::api::exec`]'s four and
/// a pidfd of `mig exec`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) job: JobId,
    /// Where `status` is written.
    pub(crate) folder: PathBuf,
    /// Whose terminal it is.
    pub(crate) owner: u32,
    /// None for a job that arrives.
    pub(crate) program: Option<Program>,
    /// No `mig exec` will connect.
    pub(crate) detached: bool,
}

/// How many descriptors come with an order, without and with a program.
const ORDER_FDS: [usize; 2] = [4, 9];

/// The init's word to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Born {
    /// It serves its sockets, and the program has been forked.
    Ready,
    /// It could not be done.
    Failed(String),
}

/// An order's descriptors by name.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) ctl: UnixListener,
    pub(crate) attach: UnixListener,
    pub(crate) init_cgroup: File,
    pub(crate) job_cgroup: File,
    pub(crate) start: Option<StartParts>,
}

/// What only a program needs.
#[derive(Debug)]
pub(crate) struct StartParts {
    pub(crate) cwd: OwnedFd,
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) caller: OwnedFd,
}

/// Runs the capsule if that is what this process was started for. To be called
/// first in `main`, before any thread exists.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new("capsule")) {
        return None;
    }
    if args.next().as_deref() != Some(OsStr::new("--fd"))
        || args.next().as_deref() != Some(OsStr::new("0"))
    {
        eprintln!("migd capsule is for migd alone");
        return Some(ExitCode::from(2));
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("capsule: {e:#}");
            ExitCode::FAILURE
        }
    })
}

fn run() -> Result<()> {
    // Whatever the daemon was started with is no business of a job.
    libmig::sys::close_range::mark_all_close_on_exec()?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut daemon = FdStream::new(socket);
    let (order, fds) = daemon
        .receive::<Order>()
        .context("the order cannot be read")?;
    let parts = Parts::sort(fds, order.program.is_some())?;
    match clone_init(&parts) {
        Ok(Forked::Parent { .. }) => Ok(()),
        Ok(Forked::Child) => match set_up(order, parts) {
            Ok(mut init) => {
                daemon.send(&Born::Ready, vec![])?;
                drop(daemon);
                init.serve()
            }
            Err(e) => {
                daemon.send(&Born::Failed(format!("{e:#}")), vec![])?;
                Err(e)
            }
        },
        Err(e) => {
            daemon.send(&Born::Failed(format!("{e:#}")), vec![])?;
            Err(e)
        }
    }
}

impl Parts {
    fn sort(fds: Vec<OwnedFd>, program: bool) -> Result<Parts> {
        let count = fds.len();
        ensure!(
            count == ORDER_FDS[usize::from(program)],
            "{count} descriptors with the order"
        );
        let mut fds = fds.into_iter();
        let mut next = || fds.next().expect("counted above");
        Ok(Parts {
            ctl: next().into(),
            attach: next().into(),
            init_cgroup: next().into(),
            job_cgroup: next().into(),
            start: program.then(|| StartParts {
                cwd: next(),
                stdio: [next(), next(), next()],
                caller: next(),
            }),
        })
    }
}

fn clone_init(parts: &Parts) -> Result<Forked> {
    if let Some(start) = &parts.start {
        rustix::process::fchdir(&start.cwd).context("the current directory cannot be entered")?;
    }
    let namespaces = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let options = CloneOptions {
        namespaces: u64::from(namespaces.bits().cast_unsigned()),
        cgroup: Some(parts.init_cgroup.as_fd()),
        ..CloneOptions::default()
    };
    clone::fork(&options).context("the capsule's namespaces cannot be made")
}

/// In pid 1: a session of its own, no trace of the daemon's descriptors, the
/// capsule's mounts, and the program.
fn set_up(order: Order, parts: Parts) -> Result<Init> {
    setsid()?;
    dup2_stdin(File::open("/dev/null")?)?;
    nix::sys::prctl::set_name(c"mig-init")?;
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        },
    )?;
    // Ours from here on: SO_PEERCRED of these sockets is that of who listened.
    rustix::net::listen(&parts.ctl, 16)?;
    rustix::net::listen(&parts.attach, 16)?;
    view::make()?;
    let init = Init::new(order, parts)?;
    std::env::set_current_dir("/")?;
    Ok(init)
}
