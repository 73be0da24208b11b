//! A tree that nobody started with `mig exec`, as a job that is about to leave.
//!
//! It has a record and a capsule, empty, whose init is its deputy from the
//! commit on. Until then its processes stay where they are: only a tree that is
//! held goes into the control group of its job, and a file in the job's folder
//! says where each process was, so that this daemon or the next one puts it back.
//! After the commit the first process is made the job's `mig`, in its own place.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libmig::api::{Failure, JobId, termios};
use libmig::capture::{CaptureError, Frozen, succeed};
use libmig::image::{INIT, JobImage, ProcessKind, SigInfo};
use libmig::inspect::process::{self, Scope};
use libmig::inspect::stdio::CapsuleStdio;
use libmig::sys::cgroup::JobGroup;
use libmig::sys::{HostPid, signal};
use nix::libc;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tracing::warn;

use migd::capsule::{Adopt, Handle, Launcher, PipeId};

use super::local::{broken, host};
use super::silence::{mend, silence};
use super::ties;
use crate::daemon::Daemon;
use crate::jobs::record::NewJob;
use crate::jobs::watch;

/// The file in the folder of such a job, until it has left.
const FILE: &str = "adopted";
const SIGKILL: i32 = 9;
/// How long the kernel may take to end a process.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of such a tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Adopted {
    job: JobId,
    /// The first process.
    root: i32,
    /// Who asked for the move.
    pub(super) caller: u32,
    /// The control group of the job.
    group: PathBuf,
    /// Where the processes were before they were held.
    groups: Vec<(i32, PathBuf)>,
    /// The first process was stopped when it was captured.
    stopped: bool,
    /// Signals that the job has taken along, or that its timers raised since.
    taken: u64,
}

/// Where the job's folder says that it is such a job.
fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

impl Adopted {
    /// Makes record and capsule for the tree of `root`, which notices nothing.
    ///
    /// # Errors
    /// When there is no room; nothing is left then.
    pub(super) fn begin(
        daemon: &Daemon,
        root: HostPid,
        (owner, user): (u32, String),
        caller: u32,
    ) -> Result<JobId, Failure> {
        let new = NewJob {
            uid: owner,
            user,
            command: command(root),
            ..NewJob::default()
        };
        let job = daemon.jobs.create_blocking(new)?.id;
        let launcher = Launcher {
            program: "/proc/self/exe".into(),
            jobs: daemon.config.jobs_dir(),
        };
        let made = launcher.spawn_guest(&job, owner).and_then(|capsule| {
            let adopted = Adopted {
                job: job.clone(),
                root: root.raw(),
                caller,
                group: capsule.job_cgroup()?,
                groups: Vec::new(),
                stopped: false,
                taken: 0,
            };
            Ok(adopted.write(&launcher.folder(&job))?)
        });
        if let Err(error) = made {
            dissolve(daemon, &job);
            return Err(broken(&job, &error));
        }
        Ok(job)
    }

    /// What the folder of a job says.
    pub(super) fn read(folder: &Path) -> Option<Adopted> {
        let bytes = fs::read(file(folder)).ok()?;
        postcard::from_bytes(&bytes).ok()
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let fresh = folder.join("adopted.new");
        let bytes = postcard::to_stdvec(self).map_err(io::Error::other)?;
        fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, file(folder)))
    }

    /// The first process.
    pub(super) fn root(&self) -> HostPid {
        HostPid::new(self.root)
    }

    /// Its processes.
    pub(super) fn scope(&self) -> Scope {
        Scope::From(self.root())
    }

    /// Its pipes towards others and its terminal.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn stdio(&self) -> io::Result<CapsuleStdio> {
        ties::of(self.root())
    }

    /// Its standard streams that are pipes towards others.
    pub(super) fn pipes(&self) -> [Option<PipeId>; 3] {
        ties::pipes(&CapsuleStdio {
            streams: ties::streams(self.root()),
            ..CapsuleStdio::default()
        })
    }

    /// Tells the deputy what it has to know before the job departs.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn introduce(
        &mut self,
        capsule: &mut Handle,
        frozen: &Frozen,
        stdio: &CapsuleStdio,
    ) -> anyhow::Result<()> {
        let stopped = frozen.stop_signal(self.root());
        self.stopped = stopped.is_some();
        let adopt = Adopt {
            pipes: ties::pipes(stdio),
            has_terminal: stdio.console.is_some(),
            stopped,
        };
        capsule.adopt(adopt, pidfd(self.root())?)
    }

    /// Makes the image that of a job in a capsule.
    pub(super) fn settle(&mut self, image: &mut JobImage, stdio: &CapsuleStdio) {
        let session = process::stat(self.root()).map_or(0, |stat| stat.session);
        let console = stdio.console.as_ref();
        let outside = console.and_then(|console| console.outside);
        let controlled = outside.is_some_and(|outside| outside.controls);
        for process in &mut image.processes {
            // The terminal of a capsule controls the session of its init; and what cannot be
            // seen from this namespace has no number in any other.
            if process.sid == 0 || controlled && process.sid == session {
                process.sid = INIT;
            }
            if process.pgid == 0 {
                process.pgid = INIT;
            }
            if process.pid == self.root
                && let ProcessKind::Live(live) = &process.kind
            {
                let pending = live.pending.iter();
                let pending = pending.chain(live.threads.iter().flat_map(|t| &t.pending));
                let raised = live.timers.iter().map(|timer| timer.signal);
                let alarms = [libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF];
                let all = pending.filter_map(number).chain(raised).chain(alarms);
                self.taken = all
                    .filter(|number| (1..=64).contains(number))
                    .fold(0, |mask, number| mask | 1 << (number - 1));
            }
        }
        // In the background the modes are those of the shell's line editor.
        if let Some(console) = console
            && outside.is_some_and(|outside| outside.foreground == INIT)
            && let Ok(modes) = rustix::termios::tcgetattr(&console.master)
        {
            let modes = termios::to_bytes(&termios::cooked(modes));
            let own = |tty: &&mut libmig::image::Tty| tty.console;
            image
                .ttys
                .iter_mut()
                .filter(own)
                .for_each(|tty| tty.termios.clone_from(&modes));
        }
    }

    /// Freezes the tree in the control group of its job.
    ///
    /// # Errors
    /// When a process cannot go there: [`Adopted::put_back`] undoes it.
    pub(super) fn hold(
        &mut self,
        folder: &Path,
        frozen: &Frozen,
        group: &JobGroup,
    ) -> Result<(), CaptureError> {
        let processes: Vec<HostPid> = frozen.processes().collect();
        self.gather(folder, &processes, group)
            .map_err(|source| CaptureError::Cgroup {
                path: group.path().to_owned(),
                source,
            })?;
        frozen.hold(group)
    }

    /// Into the control group of the job; those that are in it already stay. On an error
    /// [`Adopted::put_back`] undoes it.
    pub(super) fn gather(
        &mut self,
        folder: &Path,
        processes: &[HostPid],
        group: &JobGroup,
    ) -> io::Result<()> {
        let members = group.members()?;
        let absent = |process: &&HostPid| {
            let live = process::stat(**process).is_ok_and(|stat| !stat.is_dead());
            live && !members.contains(process)
        };
        let live: Vec<HostPid> = processes.iter().filter(absent).copied().collect();
        let groups = live
            .iter()
            .map(|process| Ok((process.raw(), self.group_of(*process)?)));
        let groups = groups.collect::<io::Result<Vec<_>>>()?;
        let held = |pid: &i32| members.contains(&HostPid::new(*pid));
        self.groups.retain(|(pid, _)| held(pid));
        self.groups.extend(groups);
        self.write(folder)?;
        live.into_iter()
            .try_for_each(|process| group.adopt(process))
    }

    /// The directory of a process' control group (v2).
    fn group_of(&self, process: HostPid) -> io::Result<PathBuf> {
        let text = process::small_file(process, "cgroup")?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
        // Three folders down from where the hierarchy is mounted: mig, the job, its leaf.
        let mount = self.group.ancestors().nth(3);
        let found = mount.zip(path).map(|(mount, path)| mount.join(path));
        let found = found.filter(|found| found.join("cgroup.procs").exists());
        found.ok_or_else(|| io::Error::other(format!("process {process} is in no known one")))
    }

    /// Back to the control groups of before, which lets it run.
    ///
    /// # Errors
    /// When one cannot be put back: it is frozen still.
    pub(super) fn put_back(&self) -> io::Result<()> {
        let group = JobGroup::new(self.group.clone());
        let members = match group.members() {
            Ok(members) => members,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for process in members {
            self.put_back_one(process)?;
        }
        group.thaw()
    }

    fn put_back_one(&self, process: HostPid) -> io::Result<()> {
        let place = |pid| self.groups.iter().find(|(known, _)| *known == pid);
        let place = place(process.raw()).or_else(|| place(self.root));
        let (_, path) = place.ok_or_else(|| io::Error::other("nobody knows where it was"))?;
        if !path.exists() {
            // Whoever manages it took it for abandoned while the tree was away.
            fs::create_dir_all(path)?;
        }
        match JobGroup::new(path.clone()).adopt(process) {
            // It was killed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// The job runs elsewhere: ends the copy, but for the first process, which goes on as
    /// the job's `mig`. Repeatable.
    ///
    /// # Errors
    /// When something is left; it is frozen.
    pub(super) fn leave_place(&self, daemon: &Daemon) -> Result<(), Failure> {
        let group = JobGroup::new(self.group.clone());
        let failed = |error: io::Error| host(&self.job, "its copy cannot be ended", &error);
        let members = match group.members() {
            Ok(members) => members,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if members.contains(&self.root()) {
            silence(&self.job, self.scope());
            for other in members.iter().filter(|other| **other != self.root()) {
                // It may have been killed before.
                signal::send(*other, SIGKILL).ok();
            }
            let deadline = Instant::now() + PATIENCE;
            while group.members().map_err(failed)?.len() > 1 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(100));
            }
            let arguments = self.arguments(daemon);
            match program().map(|mig| succeed(self.root(), &mig, &arguments)) {
                Ok(Ok(())) => self.put_back_one(self.root()).map_err(failed)?,
                Ok(Err(error)) => self.give_up_place(daemon, &error),
                Err(error) => self.give_up_place(daemon, &error),
            }
        }
        let folder = watch::folder(daemon, &self.job);
        if let Err(error) = remember(&folder, self.root()) {
            warn!(job = %self.job, %error, "its process will not be known for it");
        }
        let ended = group
            .kill()
            .and_then(|()| group.wait_empty())
            .and_then(|()| group.thaw());
        ended.map_err(failed)?;
        if let Err(error) = fs::remove_file(file(&folder)) {
            return Err(failed(error));
        }
        watch::start(daemon, &self.job);
        Ok(())
    }

    /// The place is lost; that must not be the end of the job.
    fn give_up_place(&self, daemon: &Daemon, error: &(dyn std::error::Error + 'static)) {
        warn!(job = %self.job, error, "nobody can take the place of its first process: the job runs detached");
        let folder = watch::folder(daemon, &self.job);
        if let Err(error) = Handle::connect(&folder).and_then(|mut capsule| capsule.orphan()) {
            warn!(job = %self.job, reason = %format!("{error:#}"), "its deputy does not know");
        }
    }

    fn arguments(&self, daemon: &Daemon) -> Vec<String> {
        let attach = watch::folder(daemon, &self.job).join("attach");
        let mut arguments = vec![
            "mig".to_owned(),
            "internal-adopted".to_owned(),
            format!("--taken={}", self.taken),
        ];
        if self.stopped {
            arguments.push("--stopped".to_owned());
        }
        arguments.extend([attach.display().to_string(), self.job.to_string()]);
        arguments
    }
}

/// The file in a job's folder that names the process in the place of its first one.
fn place(folder: &Path) -> PathBuf {
    folder.join("place")
}

/// Tells a process from another one with the same number: when it was started.
fn identity(process: HostPid) -> io::Result<String> {
    Ok(format!("{process} {}", process::stat(process)?.started))
}

fn remember(folder: &Path, process: HostPid) -> io::Result<()> {
    fs::write(place(folder), identity(process)?)
}

/// Whether a process is in the place of the first one of the job with this folder.
pub(super) fn stands_for(folder: &Path, process: HostPid) -> bool {
    let known = fs::read_to_string(place(folder));
    known.is_ok_and(|known| identity(process).is_ok_and(|this| this == known))
}

/// The job is none after all: its processes run where they were. Repeatable.
///
/// # Errors
/// When one of them is frozen still.
pub(super) fn undo(daemon: &Daemon, adopted: &Adopted) -> Result<(), Failure> {
    if JobGroup::new(adopted.group.clone())
        .is_frozen()
        .unwrap_or(false)
    {
        mend(&adopted.job, adopted.scope());
    }
    let put_back = adopted.put_back();
    put_back.map_err(|error| host(&adopted.job, "it cannot be put back where it was", &error))?;
    dissolve(daemon, &adopted.job);
    Ok(())
}

/// Record and capsule of what is no job.
fn dissolve(daemon: &Daemon, job: &JobId) {
    if let Err(failure) = daemon.jobs.forget_blocking(job) {
        warn!(%job, %failure, "a process that stayed is still listed");
    }
    let folder = watch::folder(daemon, job);
    let gone = || -> anyhow::Result<()> {
        if let Ok(mut capsule) = Handle::connect(&folder) {
            let init = capsule.info()?.init;
            pidfd_send_signal(&init, rustix::process::Signal::KILL)?;
            let mut set = [rustix::event::PollFd::new(
                &init,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut set, None)?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Handle::remove_folder(&folder) {
                // EBUSY: it is on its way out.
                Err(_) if folder.exists() && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if folder.exists() => return Err(error),
                _ => return Ok(()),
            }
        }
    };
    if let Err(error) = gone() {
        warn!(%job, reason = %format!("{error:#}"), "the capsule of a process that stayed is left");
    }
}

/// `si_signo`.
fn number(info: &SigInfo) -> Option<i32> {
    let bytes = info.0.get(..4)?.try_into().ok()?;
    Some(i32::from_ne_bytes(bytes))
}

/// The `mig` that belongs to this daemon.
///
/// # Errors
/// When nobody knows where that is.
pub(super) fn program() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("mig"))
}

fn pidfd(process: HostPid) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(process.raw()).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Its command line, for people.
fn command(process: HostPid) -> String {
    let bytes = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    words.join(" ").chars().take(1000).collect()
}
