//! The source's end of a move.
//!
//! Invariant: until [`SourceJob::commit`] has returned, dropping this lets the job run on
//! here; afterwards nothing here lets it run again.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use libmig::api::{Event, Failure, JobId, MoveMode, NodeName, Obstacle, Phase};
use libmig::capture::files::{self, CapsuleStdio, FileSource, Hold, HoldError, UnlinkedContents};
use libmig::capture::{
    self, BulkSink, CaptureError, Captured, Frozen, LiveSource, SharedRegistry, Tables, Tracker,
};
use libmig::image::{Draft, JobImage, NeededFile};
use libmig::inspect::backlog::Backlogs;
use libmig::inspect::{fd, manifest};
use libmig::migration::{JobError, SourceJob, failpoint};
use libmig::sys::HostPid;
use libmig::transfer::{Offer, Proposal};
use tracing::{error, warn};

use super::foreign;
use super::lend::lend;
use super::local::Local;
use super::look::{self, Look};
use super::names;
use crate::control::Events;
use crate::daemon::Daemon;
use crate::jobs::record::{Committed, JobRecord};
use crate::jobs::{settle, watch};

/// Every so many tries a job is frozen although something was in the way that passes.
const INSISTING: u32 = 4;

/// A job of this node that is to leave it.
pub(super) struct Outgoing<'a> {
    daemon: &'a Daemon,
    events: &'a Events,
    local: Option<Local>,
    record: JobRecord,
    epoch: u64,
    to: NodeName,
    mode: MoveMode,
    frozen: Option<Frozen>,
    captured: Option<Captured>,
    ahead: Option<Ahead>,
    unlinked: UnlinkedContents,
    departing: bool,
    held: bool,
    insists: bool,
}

impl<'a> Outgoing<'a> {
    /// Nothing has been done to the job yet.
    pub(super) fn new(
        daemon: &'a Daemon,
        local: Local,
        record: JobRecord,
        epoch: u64,
        (to, mode): (&NodeName, MoveMode),
        events: &'a Events,
    ) -> Result<Self, Failure> {
        Ok(Self {
            daemon,
            events,
            local: Some(local),
            record,
            epoch,
            to: to.clone(),
            mode,
            frozen: None,
            captured: None,
            ahead: None,
            unlinked: UnlinkedContents::default(),
            departing: false,
            held: false,
            insists: false,
        })
    }

    /// It has been tried so often, for what stands in the way passes and comes back: now and then
    /// it is frozen all the same, those who make connections before those who take them.
    pub(super) fn after(mut self, tries: u32) -> Self {
        self.insists = tries.is_multiple_of(INSISTING);
        self
    }

    /// The job.
    pub(super) fn id(&self) -> &JobId {
        &self.record.id
    }

    /// It has been given up to a file: ends it.
    pub(super) fn end_in_file(mut self) -> Result<(), Failure> {
        // Duplicates of the job's descriptions.
        self.captured = None;
        self.unlinked = UnlinkedContents::default();
        self.departing = false;
        self.local.take().map_or(Ok(()), Local::end_in_file)
    }

    fn local(&mut self) -> &mut Local {
        self.local
            .as_mut()
            .expect("taken only when the job is reaped")
    }

    /// Only where it is asked for: see docs/guide.md.
    fn is_worth_a_draft(&mut self) -> bool {
        self.mode == MoveMode::Precopy && self.local().adopted.is_none()
    }

    /// Duplicates of the pipes of `mig exec` as the frozen job holds them.
    fn originals(&mut self) -> [Option<OwnedFd>; 3] {
        let pipes = self.local().pipes();
        let frozen = self.frozen.as_ref().expect("captured while frozen");
        pipes.map(|pipe| {
            let pipe = pipe?;
            frozen.find_open(pipe.device, pipe.inode)
        })
    }
}

/// What the destination has been told and sent while the job runs.
struct Ahead {
    draft: Draft,
    tracker: Tracker,
}

fn tables(
    live: &[LiveSource<'_>],
    stdio: &CapsuleStdio,
    shared: &mut SharedRegistry,
    contents: &mut UnlinkedContents,
    hold: &mut dyn Hold,
) -> Result<Tables, files::FilesError> {
    let sources: Vec<FileSource<'_>> = live
        .iter()
        .map(|source| FileSource {
            pid: source.pid,
            host: source.host,
            pidfd: source.pidfd,
        })
        .collect();
    let files::FileTables {
        files,
        pipes,
        ttys,
        descriptors,
        locks,
        unlinked,
    } = files::capture(&sources, stdio, shared, hold)?;
    *contents = unlinked;
    Ok(Tables {
        files,
        pipes,
        ttys,
        descriptors,
        locks,
    })
}

/// Holds the job by the freezer for a moment before its copy is complete.
struct Grip<'a> {
    local: &'a mut Local,
    folder: PathBuf,
    processes: Vec<HostPid>,
    held: &'a mut bool,
}

impl Hold for Grip<'_> {
    fn hold(&mut self) -> Result<(), HoldError> {
        *self.held = true;
        let group = &self.local.group;
        match &mut self.local.adopted {
            Some(adopted) => adopted.gather(&self.folder, &self.processes, group)?,
            None => {
                let members = group.members()?;
                if self.processes.iter().any(|one| !members.contains(one)) {
                    return Err("a process has left the control group of its job".into());
                }
            }
        }
        Ok(group.freeze()?)
    }

    fn release(&mut self) -> Result<(), HoldError> {
        failpoint::hit("source.peeked").map_err(|failed| failed.error)?;
        // Stopped by us as before; an adopted tree goes back when the move is over.
        Ok(self.local.group.thaw()?)
    }
}

fn capturing(error: CaptureError) -> JobError {
    JobError {
        obstacles: error.obstacles().to_vec(),
        error: error.into(),
    }
}

impl SourceJob for Outgoing<'_> {
    fn entered(&mut self, phase: Phase) {
        self.daemon.jobs.leaving_phase(&self.record.id, phase);
        self.events.send(Event::Phase {
            job: self.record.id.clone(),
            to: self.to.clone(),
            phase,
        });
    }

    fn propose(&mut self) -> Result<Proposal, JobError> {
        let node = self.daemon.node().to_string();
        let cpu = self.daemon.cpu.clone();
        let (record, epoch, insists) = (self.record.clone(), self.epoch, self.insists);
        let local = self.local();
        let Look {
            obstacles,
            files,
            addresses,
            demand,
        } = look::at(local)?;
        let passing = insists && obstacles.iter().all(|obstacle| obstacle.transient);
        if !obstacles.is_empty() && !passing {
            return Err(JobError {
                error: "something of the job cannot move".into(),
                obstacles,
            });
        }
        let main = local.main().ok_or("the job has ended")?;
        let offer = Offer {
            job: record.id.to_string(),
            epoch,
            home: record.id.home.to_string(),
            source: node,
            name: record.name,
            command: record.command,
            uid: record.uid,
            user: record.user,
            pinned: record.pinned,
            started: record.started_unix,
            cpu_ms: record.cpu_ms_elsewhere,
            main,
            console: local.stdio()?.console.map(|console| console.index),
            processes: demand.processes,
            highest_tid: demand.highest_tid,
            memory_bytes: demand.memory_bytes,
            limits: demand.limits,
            cpu: postcard::to_stdvec(&cpu)?,
            cpu_level: record.cpu_level,
            addresses,
            files: 0,
        };
        Ok(Proposal { offer, files })
    }

    fn gone(&mut self, files: &[NeededFile]) -> Vec<Obstacle> {
        let root = fd::root(self.local().scope().keeper());
        root.map_or_else(|_| Vec::new(), |root| manifest::outdated(&root, files))
    }

    fn draft(&mut self) -> Result<Option<Draft>, JobError> {
        if !self.is_worth_a_draft() {
            return Ok(None);
        }
        let console = self.local().stdio()?.console.map(|console| console.index);
        let mut frozen = capture::freeze(self.local().scope()).map_err(capturing)?;
        let draft = frozen.draft().map_err(capturing)?;
        let of_capsule =
            |draft: &Draft| draft.console.is_none_or(|seat| Some(seat.index) == console);
        let Some(draft) = draft.filter(of_capsule) else {
            return Ok(None);
        };
        let tracker = frozen.follow(&draft).map_err(capturing)?;
        frozen.thaw();
        if tracker.is_empty() {
            return Ok(None);
        }
        self.ahead = Some(Ahead {
            draft: draft.clone(),
            tracker,
        });
        Ok(Some(draft))
    }

    fn forget_draft(&mut self) {
        self.ahead = None;
    }

    fn round(&mut self, sink: &mut dyn BulkSink) -> Result<u64, JobError> {
        let ahead = self.ahead.as_mut().ok_or("there is no draft")?;
        ahead.tracker.round(sink).map_err(capturing)
    }

    fn outgrew_draft(&self) -> bool {
        let image = self.captured.as_ref().map(|captured| &captured.image);
        let fits = |ahead: &Ahead| {
            !ahead.tracker.has_lost() && image.is_some_and(|image| ahead.draft.fits(image))
        };
        self.ahead.as_ref().is_some_and(|ahead| !fits(ahead))
    }

    fn freeze(&mut self) -> Result<(), JobError> {
        let scope = self.local().scope();
        let backlogs = match self.insists {
            true => look::backlogs(scope),
            false => Backlogs::default(),
        };
        let rest = || backlogs.are_empty();
        let frozen = capture::freeze_after(scope, &backlogs.callers, &rest);
        let mut frozen = frozen.map_err(capturing)?;
        if let Some(ahead) = &mut self.ahead {
            ahead.tracker.stopped(&mut frozen);
        }
        self.frozen = Some(frozen);
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<u8>, JobError> {
        let stdio = self.local().stdio()?;
        let originals = self.originals();
        let frozen = self.frozen.as_ref().expect("captured while frozen");
        let local = self
            .local
            .as_mut()
            .expect("taken only when the job is reaped");
        if let Some(adopted) = &mut local.adopted {
            foreign::owner(adopted.scope(), adopted.caller)?;
            adopted.introduce(&mut local.capsule, frozen, &stdio)?;
        }
        let state = self.local().capsule.depart_prepare(originals)?;
        self.departing = true;
        let frozen = self.frozen.as_mut().expect("captured while frozen");
        let unlinked = &mut self.unlinked;
        let local = self.local.as_mut();
        let mut grip = Grip {
            local: local.expect("taken only when the job is reaped"),
            folder: watch::folder(self.daemon, &self.record.id),
            processes: frozen.processes().collect(),
            held: &mut self.held,
        };
        let captured =
            frozen.capture(|live, shared| tables(live, &stdio, shared, unlinked, &mut grip));
        let mut captured = captured.map_err(capturing)?;
        if let Some(adopted) = &mut self.local().adopted {
            adopted.settle(&mut captured.image, &stdio);
        }
        self.captured = Some(captured);
        Ok(state)
    }

    fn image(&self) -> Result<&JobImage, JobError> {
        let captured = self.captured.as_ref();
        captured
            .map(|captured| &captured.image)
            .ok_or_else(|| "nothing has been captured".into())
    }

    fn send_bulk(&mut self, sink: &mut dyn BulkSink) -> Result<(), JobError> {
        let outgrew = self.outgrew_draft();
        let frozen = self.frozen.as_mut().expect("sent while frozen");
        let captured = self.captured.as_ref().expect("captured before it is sent");
        let ahead = self.ahead.as_mut().filter(|_| !outgrew);
        let tracker = ahead.map(|ahead| &mut ahead.tracker);
        frozen
            .send_memory(captured, tracker, sink)
            .map_err(capturing)?;
        self.unlinked.send(sink)?;
        Ok(())
    }

    fn hold(&mut self) -> Result<(), JobError> {
        self.held = true;
        let local = self
            .local
            .as_mut()
            .expect("taken only when the job is reaped");
        let frozen = self.frozen.as_ref().expect("held while frozen");
        let held = match &mut local.adopted {
            Some(adopted) => {
                let folder = watch::folder(self.daemon, &self.record.id);
                adopted.hold(&folder, frozen, &local.group)
            }
            None => frozen.hold(&local.group),
        };
        held.map_err(capturing)
    }

    fn thaw(&mut self) {
        let local = self
            .local
            .as_mut()
            .expect("taken only when the job is reaped");
        let thaw = || match &local.adopted {
            Some(adopted) => adopted.put_back(),
            None => local.group.thaw(),
        };
        if self.held
            && let Err(error) = thaw()
        {
            error!(job = %self.record.id, %error, "a job that was not moved cannot be thawed");
        }
        self.held = false;
        if let Some(frozen) = self.frozen.take() {
            frozen.thaw();
        }
        if std::mem::take(&mut self.departing)
            && let Err(error) = local.capsule.depart_abort()
        {
            error!(job = %self.record.id, %error, "the capsule's init does not take up its work");
        }
    }

    fn commit(&mut self, epoch: u64) -> Result<(), JobError> {
        if self.daemon.draining() {
            return Err("the daemon is about to stop".into());
        }
        // Detached, the tasks stay in the freezer whatever becomes of this daemon.
        if let Some(frozen) = self.frozen.take() {
            frozen.release_tracing()?;
        }
        if let (Some(local), Some(captured)) = (&self.local, &self.captured) {
            names::note_left(local, &captured.image)?;
        }
        self.daemon.jobs.journal_committed(&self.record.id, epoch)?;
        Ok(())
    }

    fn lend(&mut self) {
        if let (Some(local), Some(captured)) = (&self.local, &self.captured) {
            lend(local, &captured.image);
        }
    }

    fn surrender(&mut self, epoch: u64) -> Result<(), JobError> {
        // Duplicates of the job's descriptions, which may be locked.
        self.captured = None;
        self.unlinked = UnlinkedContents::default();
        let local = self.local.take().ok_or("it has been reaped before")?;
        Ok(local.reap(self.daemon, epoch)?)
    }

    fn reap(&mut self, epoch: u64) {
        let job = self.record.id.clone();
        let local = self.local.take();
        let reaped = failpoint::hit("source.released")
            .map_err(|JobError { error, .. }| {
                Failure::new(libmig::api::Code::Failed, error.to_string())
            })
            .and_then(|()| local.map_or(Ok(()), |local| local.reap(self.daemon, epoch)))
            .and_then(|()| self.daemon.jobs.journal_gone(&job, epoch));
        if let Err(failure) = reaped {
            warn!(%job, %failure, causes = ?failure.causes, "the copy of a job that has left is not gone yet");
            let destination = self.to.clone();
            let entry = Committed {
                job,
                epoch,
                destination,
            };
            settle::committed(self.daemon, entry);
        }
    }
}

impl Drop for Outgoing<'_> {
    fn drop(&mut self) {
        if self.frozen.is_some() {
            self.thaw();
        }
    }
}
