//! A job's capsule and cgroup on this node, and what can be done to them
//! again and again, by a mover or by a daemon that has just been started.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use libmig::api::{Code, Failure, JobId};
use libmig::image::{Pid, Stdio};
use libmig::inspect::fd;
use libmig::inspect::process::Scope;
use libmig::inspect::stdio::{CapsuleStdio, Console, StdioEnd};
use libmig::restore::RestoreHost;
use libmig::sys::HostPid;
use libmig::sys::cgroup::JobGroup;
use rustix::process::{Signal, pidfd_send_signal};
use tracing::warn;

use migd::capsule::{Handle, Info, PipeId};

use super::adopted::Adopted;
use super::locks::Claims;
use super::names;
use super::silence::{mend, silence};
use crate::daemon::Daemon;
use crate::jobs::registry::Relock;
use crate::jobs::watch;

/// The parts of a job on this node.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) job: JobId,
    pub(super) capsule: Handle,
    pub(super) cgroup: PathBuf,
    pub(super) group: JobGroup,
    pub(super) init: HostPid,
    pub(super) info: Info,
    /// Not yet in this capsule, and never to be.
    pub(super) adopted: Option<Adopted>,
}

impl Local {
    /// Finds the capsule of `job`.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn find(daemon: &Daemon, job: &JobId) -> Result<Local, Failure> {
        let capsule = Handle::connect(&daemon.config.jobs_dir().join(job.to_string()))
            .map_err(|error| broken(job, &error))?;
        Local::of(capsule)
    }

    /// Asks a capsule who it is.
    pub(super) fn of(mut capsule: Handle) -> Result<Local, Failure> {
        let job = capsule.job().clone();
        let known = capsule.info().and_then(|report| {
            let init = HostPid::of_pidfd(report.init.as_fd())?;
            Ok((report.info, init, capsule.job_cgroup()?))
        });
        let (info, init, cgroup) = known.map_err(|error| broken(&job, &error))?;
        let group = JobGroup::new(cgroup.clone());
        let adopted = capsule.attach_path().parent().and_then(Adopted::read);
        Ok(Local {
            adopted,
            job,
            capsule,
            cgroup,
            group,
            init,
            info,
        })
    }

    /// Whether this node is the job's home.
    pub(super) fn is_home(&self, daemon: &Daemon) -> bool {
        &self.job.home == daemon.node()
    }

    /// Its processes here.
    pub(super) fn scope(&self) -> Scope {
        let below = Scope::Below(self.init);
        self.adopted.as_ref().map_or(below, Adopted::scope)
    }

    /// The main program, in the capsule.
    pub(super) fn main(&self) -> Option<Pid> {
        let adopted = self.adopted.as_ref().map(|adopted| adopted.root().raw());
        adopted.or(self.info.main)
    }

    /// Standard streams that are pipes of others.
    pub(super) fn pipes(&self) -> [Option<PipeId>; 3] {
        self.adopted
            .as_ref()
            .map_or(self.info.pipes, Adopted::pipes)
    }

    /// The job's ties to the world outside of its capsule.
    pub(super) fn stdio(&mut self) -> Result<CapsuleStdio, Failure> {
        if let Some(adopted) = &self.adopted {
            let ties = adopted.stdio();
            return ties.map_err(|error| host(&self.job, "it cannot be looked at", &error));
        }
        const STREAMS: [Stdio; 3] = [Stdio::In, Stdio::Out, Stdio::Err];
        let streams = STREAMS.into_iter().zip(self.info.pipes);
        let ends = streams.filter_map(|(stream, pipe)| {
            let pipe = pipe?;
            Some(StdioEnd {
                device: pipe.device,
                inode: pipe.inode,
                stream,
            })
        });
        let streams = ends.collect();
        let console = match self.info.console {
            Some(index) => {
                let master = self
                    .capsule
                    .console_master()
                    .map_err(|error| broken(&self.job, &error.into()))?;
                Some(Console {
                    index,
                    master,
                    outside: None,
                })
            }
            None => None,
        };
        let root = fd::root(self.init);
        let root = root.map_err(|error| broken(&self.job, &error.into()))?;
        Ok(CapsuleStdio {
            streams,
            console,
            root: Some(root),
        })
    }

    /// Destination: the job is ours in the journal; takes what it waits for, unless
    /// that has been done before, and lets it run. Repeatable.
    ///
    /// Returns the names of the locks that it runs without. `claims` are its locks, if
    /// they have been prepared.
    pub(super) fn release(
        self,
        daemon: &Daemon,
        epoch: u64,
        claims: Option<Claims>,
    ) -> Result<Vec<String>, Failure> {
        let job = self.job.clone();
        let locks = match daemon.jobs.relock(&job, epoch) {
            Relock::Nothing => return self.run(daemon, epoch, None),
            Relock::Busy => return Ok(Vec::new()),
            Relock::Locks(locks) => locks,
        };
        let claims = if self.group.is_frozen().unwrap_or(false) {
            Some(claims.unwrap_or_else(|| Claims::open(&self, &locks)))
        } else {
            let locks: Vec<String> = locks.iter().map(ToString::to_string).collect();
            warn!(%job, ?locks, "the daemon was killed while these locks were taken: the job may run without them");
            None
        };
        let released = self.run(daemon, epoch, claims);
        for lock in released.iter().flatten() {
            warn!(%job, %lock, "somebody else has a lock of the job, which runs without it");
        }
        daemon.jobs.relocked(&job, epoch)?;
        released
    }

    /// Destination: the job is ours in the journal, and waits for `claims` alone.
    pub(super) fn run(
        mut self,
        daemon: &Daemon,
        epoch: u64,
        claims: Option<Claims>,
    ) -> Result<Vec<String>, Failure> {
        names::publish(&self);
        let thawed = match claims {
            Some(claims) => claims.take(&self),
            None => self.group.thaw().map(|()| Vec::new()),
        };
        let lost = thawed.map_err(|error| host(&self.job, "it cannot be thawed", &error))?;
        if let Err(error) = self.capsule.arrive_commit(epoch) {
            // Said already, before the daemon that said it was killed.
            warn!(job = %self.job, %error, "the capsule's init takes no news of an arrival");
        }
        if !self.is_home(daemon) {
            watch::start(daemon, &self.job);
        }
        Ok(lost)
    }

    /// Destination: destroys what was built.
    pub(super) fn discard(mut self, daemon: &Daemon) -> Result<(), Failure> {
        self.end_processes()?;
        names::withdraw(&self);
        if let Err(error) = self.capsule.arrive_abort() {
            warn!(job = %self.job, %error, "the capsule's init knows of no arrival");
        }
        if !self.is_home(daemon) {
            // Removes what the capsule leaves when its init has ended.
            watch::start(daemon, &self.job);
        }
        Ok(())
    }

    /// Destroys what was built of a job from a checkpoint, and the deputy that was to have it.
    pub(super) fn discard_restored(mut self, daemon: &Daemon) -> Result<(), Failure> {
        self.end_processes()?;
        names::withdraw(&self);
        let ended = self.capsule.info().map(|report| {
            // Gone already, it is what it was to be.
            pidfd_send_signal(&report.init, Signal::KILL).ok();
        });
        if let Err(error) = ended {
            warn!(job = %self.job, %error, "the capsule of a restore has ended by itself");
        }
        // Removes what the capsule leaves when its init has ended.
        watch::start(daemon, &self.job);
        Ok(())
    }

    /// Source: the destination runs it; destroys the frozen copy.
    pub(super) fn reap(mut self, daemon: &Daemon, epoch: u64) -> Result<(), Failure> {
        names::remove_left(&self);
        // The ID of a guest's init is anybody's once it has ended.
        let root = libmig::inspect::fd::root(self.init).ok();
        let ipc = libmig::inspect::system_v::namespace(self.init)
            .ok()
            .flatten();
        if let Err(error) = self.capsule.depart_commit(epoch) {
            warn!(job = %self.job, %error, "the capsule's init knows of no departure");
        }
        if let Some(adopted) = &self.adopted {
            return adopted.leave_place(daemon);
        }
        self.end_processes()?;
        self.clear(root, ipc);
        Ok(())
    }

    /// Source: the job is in a file; destroys the frozen copy, and that is the job's end.
    pub(super) fn end_in_file(mut self) -> Result<(), Failure> {
        names::remove_left(&self);
        // While its init holds still, for which this is no end yet.
        self.end_processes()?;
        self.capsule
            .checkpointed()
            .map_err(|error| broken(&self.job, &error))
    }

    /// Home keeps the capsule: what was shared in it is at the destination now.
    fn clear(&self, root: Option<OwnedFd>, ipc: Option<File>) {
        let shm = root.map_or(Ok(()), libmig::restore::clear_shm);
        if let Err(error) = shm {
            warn!(job = %self.job, %error, "/dev/shm of a job that has left is not empty");
        }
        let system_v = ipc.map_or(Ok(()), |ipc| libmig::restore::clear_system_v(&ipc));
        if let Err(error) = system_v {
            warn!(job = %self.job, %error, "System V objects of a job that has left are still there");
        }
    }

    /// Source: the job stays; whatever is frozen of it runs.
    pub(super) fn resume(mut self) -> Result<(), Failure> {
        if self.group.is_frozen().unwrap_or(false) {
            mend(&self.job, self.scope());
        }
        self.group
            .thaw()
            .map_err(|error| host(&self.job, "it cannot be thawed", &error))?;
        if self.info.held
            && let Err(error) = self.capsule.depart_abort()
        {
            warn!(job = %self.job, %error, "the capsule's init takes no news of a departure");
        }
        Ok(())
    }

    /// A guest's init that has been told that the job is gone ends, its namespace with
    /// it, and the cgroup may be removed before we come to it.
    fn end_processes(&self) -> Result<(), Failure> {
        silence(&self.job, Scope::Below(self.init));
        let ended = self
            .group
            .kill()
            .and_then(|()| self.group.wait_empty())
            // Empty, but for the next who comes here: a husk could not be told anything.
            .and_then(|()| self.group.thaw());
        match ended {
            Err(error) if !is_gone(&error) => {
                Err(host(&self.job, "its copy cannot be ended", &error))
            }
            _ => Ok(()),
        }
    }
}

/// The cgroup has been removed: NotFound for its folder, ENODEV for a file in it that is open.
fn is_gone(error: &std::io::Error) -> bool {
    const ENODEV: i32 = 19;
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV)
}

/// The capsule's init does not answer.
pub(super) fn broken(job: &JobId, error: &anyhow::Error) -> Failure {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    Failure::from_error(
        Code::Host,
        format!("the capsule of job {job} does not answer"),
        error,
    )
}

pub(super) fn host(job: &JobId, what: &str, error: &std::io::Error) -> Failure {
    Failure::from_error(Code::Host, format!("job {job}: {what}"), error)
}
