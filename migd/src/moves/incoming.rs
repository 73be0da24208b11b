//! The destination's end of a move.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use libmig::api::{Failure, JobId, NodeName, Obstacle};
use libmig::image::{BulkTarget, Draft, JobImage, Pid};
use libmig::migration::{DestinationJob, JobError};
use libmig::restore::{self, Building, CapsuleRef, Complete, Drafted, Prepared, RestoreError};
use libmig::sys::HostPid;
use libmig::transfer::{Offer, Proposal};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tracing::{info, warn};

use super::admission::{self, Candidate};
use super::disk::secrets;
use super::local::{Local, broken};
use super::locks::Claims;
use crate::cpu;
use crate::daemon::Daemon;
use crate::jobs::record::{JobRecord, Place};
use crate::jobs::registry::unix_now;
use migd::capsule::{Handle, Launcher};

/// The zygote's pid in the capsule: above everything that a job has, since
/// the counter of a pid namespace starts low and 4,194,304 is its end.
const ZYGOTE: i32 = 4_100_000;

/// How long the end of an earlier capsule of the job is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// How far the copy has come.
enum Copy {
    None,
    Prepared(Box<Prepared>),
    Drafted(Box<Drafted>),
    Building(Box<Building>, Box<JobImage>),
    Complete(Complete),
    Released,
}

/// What is different about a job that comes from a checkpoint.
pub(super) struct FromFile {
    /// The job that the offer in the file names.
    pub(super) was: String,
    /// The checkpoint's own name.
    pub(super) uuid: String,
    /// The job's own name here.
    pub(super) name: Option<String>,
    /// Whose processes may be in it; anybody's if nothing.
    pub(super) caller: Option<u32>,
    /// 0, 1 and 2 for those of its standard streams that were pipes.
    pub(super) streams: Option<[OwnedFd; 3]>,
    /// Who is about to connect as its `mig exec`.
    pub(super) follower: Option<OwnedFd>,
}

/// A job that is to live on this node.
pub(super) struct Incoming<'a> {
    daemon: &'a Daemon,
    job: JobId,
    epoch: u64,
    source: NodeName,
    file: Option<FromFile>,
    main: i32,
    /// The zygote's ID.
    zygote: i32,
    local: Option<Local>,
    copy: Copy,
    claims: Option<Claims>,
    /// What its CPU may not have left in it.
    state: Option<cpu::State>,
}

impl<'a> Incoming<'a> {
    /// Nothing of it is here yet.
    pub(super) fn new(daemon: &'a Daemon, job: &JobId, epoch: u64, source: &NodeName) -> Self {
        Self {
            daemon,
            job: job.clone(),
            epoch,
            source: source.clone(),
            file: None,
            main: 0,
            zygote: ZYGOTE,
            local: None,
            copy: Copy::None,
            claims: None,
            state: None,
        }
    }

    /// The same, from a checkpoint: this node is its home.
    pub(super) fn from_file(daemon: &'a Daemon, job: &JobId, epoch: u64, file: FromFile) -> Self {
        Self {
            file: Some(file),
            ..Self::new(daemon, job, epoch, daemon.node())
        }
    }

    fn local(&mut self) -> Result<&mut Local, JobError> {
        self.local
            .as_mut()
            .ok_or_else(|| "there is no capsule yet".into())
    }

    /// The offer must be the one that the connection was opened for, and nothing
    /// may stand in its way here.
    fn admit(&self, proposal: &Proposal) -> Result<JobRecord, JobError> {
        let offer = &proposal.offer;
        let expected = match &self.file {
            Some(file) => offer.job == file.was,
            None => offer.job == self.job.to_string() && offer.epoch == self.epoch,
        };
        if !expected {
            return Err("the offer is for another job".into());
        }
        let candidate = Candidate::offered(self.job.clone(), proposal.clone());
        let obstacles = match &self.file {
            Some(_) => admission::at_home(self.daemon, &candidate)?,
            None => admission::obstacles(self.daemon, &candidate)?,
        };
        if !obstacles.is_empty() {
            return Err(self.refused(obstacles));
        }
        Ok(JobRecord {
            id: self.job.clone(),
            name: match &self.file {
                Some(file) => file.name.clone(),
                None => offer.name.clone(),
            },
            uid: offer.uid,
            user: offer.user.clone(),
            command: offer.command.clone(),
            place: Place::Here,
            epoch: self.epoch,
            last_attempt: self.epoch,
            pinned: offer.pinned,
            started_unix: offer.started,
            cpu_ms_elsewhere: offer.cpu_ms,
            cpu_level: offer.cpu_level,
            arrived_unix: unix_now(),
        })
    }

    /// What only the frozen job shows.
    fn passed(&self, obstacles: Option<Vec<Obstacle>>) -> Result<(), JobError> {
        match obstacles {
            Some(obstacles) if !obstacles.is_empty() => Err(self.refused(obstacles)),
            _ => Ok(()),
        }
    }

    fn refused(&self, obstacles: Vec<Obstacle>) -> JobError {
        JobError {
            error: format!("it cannot live on {}", self.daemon.node()).into(),
            obstacles,
        }
    }

    /// Home has its deputy already; elsewhere, and for a job from a file, a capsule is made.
    fn capsule(&mut self, offer: &Offer) -> Result<Local, Failure> {
        if self.file.is_none() && &self.job.home == self.daemon.node() {
            return Local::find(self.daemon, &self.job);
        }
        let launcher = Launcher {
            program: "/proc/self/exe".into(),
            jobs: self.daemon.config.jobs_dir(),
        };
        wait_for_remains(&launcher, &self.job).map_err(|error| broken(&self.job, &error))?;
        let mut handle = launcher
            .spawn_guest(&self.job, offer.uid)
            .map_err(|error| broken(&self.job, &error))?;
        if let Some(file) = &mut self.file
            && let Some(streams) = file.streams.take()
        {
            handle
                .stand(offer.console.is_some(), streams, file.follower.take())
                .map_err(|error| broken(&self.job, &error))?;
        }
        Local::of(handle)
    }
}

/// A capsule of an earlier stay or of an attempt that failed may be on its way out: its
/// init ends, and the folder goes with whoever sees that first.
fn wait_for_remains(launcher: &Launcher, job: &JobId) -> anyhow::Result<()> {
    let folder = launcher.folder(job);
    let deadline = Instant::now() + PATIENCE;
    while folder.exists() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} is still in use",
            folder.display()
        );
        if Handle::connect(&folder).is_err() {
            // EBUSY or gone already: looked at again.
            drop(Handle::remove_folder(&folder));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn restoring(error: RestoreError) -> JobError {
    JobError {
        obstacles: error.obstacles().to_vec(),
        error: error.into(),
    }
}

impl DestinationJob for Incoming<'_> {
    fn reserve(&mut self, proposal: &Proposal) -> Result<(), JobError> {
        let record = self.admit(proposal)?;
        let offer = &proposal.offer;
        self.main = offer.main;
        let source = admission::source_cpu(&offer.cpu)?;
        self.state = cpu::State::of(offer.cpu_level, source, &self.daemon.cpu);
        self.daemon
            .jobs
            .reserve(record, self.epoch, self.source.clone())?;
        self.local = Some(self.capsule(offer)?);
        self.zygote = ZYGOTE.max(offer.highest_tid.saturating_add(1));
        if let Some(index) = offer.console {
            self.local()?.capsule.terminal(index)?;
        }
        self.afresh()
    }

    fn draft(&mut self, draft: Draft) -> Result<bool, JobError> {
        if self.file.is_some() {
            return Err("nothing runs while it is read from a file".into());
        }
        let Copy::Prepared(prepared) = std::mem::replace(&mut self.copy, Copy::None) else {
            return Err("a draft came before the offer was accepted".into());
        };
        match prepared.draft(&draft) {
            Ok(drafted) => {
                self.copy = Copy::Drafted(Box::new(drafted));
                Ok(true)
            }
            Err(error) => {
                info!(job = %self.job, %error, "its processes cannot be made ahead");
                self.afresh()?;
                Ok(false)
            }
        }
    }

    fn afresh(&mut self) -> Result<(), JobError> {
        // A zygote with children that are husks already is of no use.
        self.copy = Copy::None;
        let daemon: OwnedFd = pidfd_open(getpid(), PidfdFlags::empty())?;
        // The one before may not have been waited for yet.
        self.zygote += 1;
        let pid = self.zygote;
        let local = self.local()?;
        let zygote = local.capsule.zygote(pid, daemon.as_fd())?;
        let capsule = CapsuleRef {
            init: local.init,
            zygote: HostPid::of_pidfd(zygote.as_fd())?,
            cgroup_job: local.cgroup.clone(),
        };
        self.copy = Copy::Prepared(Box::new(restore::prepare(&capsule).map_err(restoring)?));
        Ok(())
    }

    fn absent(&mut self, pid: Pid, range: Range<u64>) -> Result<(), JobError> {
        match &mut self.copy {
            Copy::Building(building, _) => building.absent(pid, range).map_err(restoring),
            _ => Err("memory was taken back before the image came".into()),
        }
    }

    fn build(&mut self, state: &[u8], image: JobImage) -> Result<(), JobError> {
        if let Some(uid) = self.file.as_ref().and_then(|file| file.caller) {
            let obstacles = secrets(&image, uid, "ask root to restore it");
            if !obstacles.is_empty() {
                return Err(JobError {
                    error: "it is not all the user's own".into(),
                    obstacles,
                });
            }
        }
        let checked = self.state.as_ref();
        self.passed(checked.map(|state| state.obstacles(&image)))?;
        let copy = std::mem::replace(&mut self.copy, Copy::None);
        let local = self.local()?;
        local.capsule.arrive(state.to_vec())?;
        let building = match copy {
            Copy::Prepared(prepared) => prepared.build(&image, &mut local.capsule),
            Copy::Drafted(drafted) => drafted.build(&image, &mut local.capsule),
            _ => return Err("an image came before the offer was accepted".into()),
        };
        let building = building.map_err(restoring)?;
        self.copy = Copy::Building(Box::new(building), Box::new(image));
        Ok(())
    }

    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> Result<(), JobError> {
        match &mut self.copy {
            Copy::Building(building, _) => building.bulk(target, bytes).map_err(restoring),
            Copy::Drafted(drafted) => drafted.bulk(target, bytes).map_err(restoring),
            _ => Err("memory came before the image".into()),
        }
    }

    fn finish(&mut self, epoch: u64) -> Result<bool, JobError> {
        let Copy::Building(building, image) = std::mem::replace(&mut self.copy, Copy::None) else {
            return Err("the end of the memory came before the image".into());
        };
        let complete = building.finish(&image).map_err(restoring)?;
        let frames = self.state.as_ref();
        let frames = frames.map(|state| state.frames(&image, complete.processes()));
        if let Err(error) = self.passed(frames) {
            complete.destroy().map_err(restoring)?;
            return Err(error);
        }
        let locks = complete.waiting().to_vec();
        let waits = !locks.is_empty();
        self.copy = Copy::Complete(complete);
        let main = self.main;
        self.local()?.capsule.main(main)?;
        self.daemon.jobs.journal_built(&self.job, epoch, locks)?;
        Ok(waits)
    }

    fn own(&mut self, epoch: u64) -> Result<(), JobError> {
        let Copy::Complete(complete) = std::mem::replace(&mut self.copy, Copy::Released) else {
            return Err("a commit came before the copy was complete".into());
        };
        let restored = self.file.as_ref().map(|file| file.uuid.clone());
        self.daemon.jobs.journal_live(&self.job, epoch, restored)?;
        let locks = complete.waiting();
        if !locks.is_empty() {
            let local = self.local.as_ref().ok_or("there is no capsule")?;
            self.claims = Some(Claims::open(local, locks));
        }
        Ok(())
    }

    fn share(&mut self) {
        if let Some(claims) = &mut self.claims {
            claims.share();
        }
    }

    fn release(&mut self, epoch: u64) -> Result<Vec<String>, JobError> {
        let local = self.local.take().ok_or("there is no capsule")?;
        let released = match self.claims.take() {
            Some(claims) => local.release(self.daemon, epoch, Some(claims)),
            None => local.run(self.daemon, epoch, None),
        };
        Ok(released?)
    }

    fn discard(&mut self) {
        // Husks die with their tracer, a complete copy by its cgroup.
        self.copy = Copy::None;
        let discarded = match self.local.take() {
            Some(local) if self.file.is_some() => local.discard_restored(self.daemon),
            Some(local) => local.discard(self.daemon),
            None => Ok(()),
        };
        let gone = discarded.and_then(|()| self.daemon.jobs.arrival_gone(&self.job, self.epoch));
        if let Err(failure) = gone {
            warn!(job = %self.job, %failure, causes = ?failure.causes, "pieces of an arrival are left");
        }
    }
}
