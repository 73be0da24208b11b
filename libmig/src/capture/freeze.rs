//! A tree that stands still, and how it goes on.

use std::{
    collections::BTreeSet,
    mem, thread,
    time::{Duration, Instant},
};

use super::{
    CaptureError,
    gather::{self, Gathering},
    sample::{Sample, Watch},
    seccomp::Confinement,
    timed::TimedWait,
};
use crate::{
    image::Pid,
    inspect::process::{self, Scope, Status},
    sys::{
        HostPid,
        ptrace::{self, PtraceError, RseqConfiguration, Stopped},
        survivor::Shield,
    },
};

/// How long a process may take back into its job control stop: it has but to be scheduled. It
/// may have been continued meanwhile.
const SETTLING: Duration = Duration::from_millis(100);

/// How long some processes of a tree may run on while the others stand still.
pub const REST: Duration = Duration::from_millis(30);

/// A tree whose threads are all in ptrace stops. Dropped, it runs on as if nothing had been.
#[derive(Debug)]
pub struct Frozen {
    /// By whose root directory its names are looked up.
    pub(super) keeper: HostPid,
    /// Parents before children.
    pub(super) processes: Vec<FrozenProcess>,
    /// Whose writes we note: their mappings show that.
    pub(super) followed: BTreeSet<HostPid>,
}

/// A process of the tree.
#[derive(Debug)]
pub(super) struct FrozenProcess {
    pub(super) host: HostPid,
    pub(super) pid: Pid,
    /// Index of the capsule's pid namespace in its lists of IDs.
    pub(super) level: usize,
    pub(super) ppid: Pid,
    /// Empty for a zombie; else the leader first.
    pub(super) threads: Vec<FrozenThread>,
    /// The signal of a job control stop.
    pub(super) stopped: Option<i32>,
}

/// A thread of the tree.
#[derive(Debug)]
pub(super) struct FrozenThread {
    pub(super) stopped: Stopped,
    pub(super) tid: Pid,
    /// In the pid namespaces below the capsule's.
    pub(super) inner: Vec<Pid>,
    /// As it was when all had stopped.
    pub(super) status: Status,
    pub(super) rseq: RseqConfiguration,
    pub(super) sample: Sample,
    pub(super) wait: Option<TimedWait>,
    pub(super) confinement: Confinement,
}

impl FrozenThread {
    /// Lets it run on as if nothing had been.
    fn release(mut self) -> Result<(), PtraceError> {
        if let Some(wait) = self.wait {
            wait.resume(&mut self.stopped)?;
        }
        self.stopped.release()
    }
}

/// Stops all processes of a scope. A capsule's init itself runs on.
///
/// Afterwards: on `Ok` every thread is in a ptrace stop of the calling OS
/// thread, which must be the one that captures; on `Err` all run.
///
/// # Errors
/// Obstacles (transient ones, say a vfork in progress, are worth another try).
pub fn freeze(scope: impl Into<Scope>) -> Result<Frozen, CaptureError> {
    freeze_after(scope, &[], &|| true)
}

/// As [`freeze`], but these of its processes are stopped first, and the others run on until
/// `rest` says that they have done what they are to do, or for [`REST`].
///
/// # Errors
/// As [`freeze`].
pub fn freeze_after(
    scope: impl Into<Scope>,
    first: &[HostPid],
    rest: &dyn Fn() -> bool,
) -> Result<Frozen, CaptureError> {
    let scope = scope.into();
    // An interrupted sleep of a confined thread may be one that its filters do not
    // let it go on with, until that has been seen to.
    let _shield = Shield::raise();
    let mut gathering = Gathering::default();
    let mut complete = || {
        let members = gather::members(scope)?;
        // Being stopped is to run: a sleeper's last run must be read before.
        let (early, late): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|host| first.contains(host));
        let watch = match early.is_empty() {
            true => Watch::of(&late),
            false => {
                let watch = Watch::of(&early);
                let began = Instant::now();
                gathering.stop(&early)?;
                while !rest() && began.elapsed() < REST {
                    thread::sleep(Duration::from_micros(100));
                }
                watch.and_later(began.elapsed(), Watch::of(&late))
            }
        };
        let processes = gathering.complete(scope, &watch)?;
        Ok((watch, processes))
    };
    match complete() {
        Ok((_, processes)) => Ok(Frozen {
            keeper: scope.keeper(),
            processes,
            followed: BTreeSet::new(),
        }),
        Err(error) => {
            gathering.abandon();
            Err(error)
        }
    }
}

impl Frozen {
    /// The processes, as the daemon sees them.
    pub fn processes(&self) -> impl Iterator<Item = HostPid> {
        self.processes.iter().map(|process| process.host)
    }

    /// The signal of the job control stop that a process is in.
    #[must_use]
    pub fn stop_signal(&self, process: HostPid) -> Option<i32> {
        let found = self.processes.iter().find(|one| one.host == process);
        found.and_then(|found| found.stopped)
    }

    /// Lets all run on as before.
    pub fn thaw(self) {
        drop(self);
    }

    /// Ends the tracing after the cgroup has been frozen ([`Frozen::hold`]):
    /// the tasks stay where they are, in the freezer.
    ///
    /// # Errors
    /// When a thread was killed meanwhile.
    pub fn release_tracing(mut self) -> Result<(), CaptureError> {
        self.let_go(|_| ()).map_err(CaptureError::from)
    }

    /// Puts every thread back and detaches; the first failure, after all. Those in job control
    /// stops come first, and are `settled` before anybody runs who could look at them.
    fn let_go(&mut self, settled: impl Fn(HostPid)) -> Result<(), PtraceError> {
        let _shield = Shield::raise();
        let mut outcome = Ok(());
        let (stopped, running): (Vec<_>, Vec<_>) = mem::take(&mut self.processes)
            .into_iter()
            .partition(|process| process.stopped.is_some());
        let hosts: Vec<HostPid> = stopped.iter().map(|process| process.host).collect();
        let first_to_run = stopped.len();
        let mut dead = Vec::new();
        for (at, process) in stopped.into_iter().chain(running).enumerate() {
            if at == first_to_run {
                hosts.iter().copied().for_each(&settled);
            }
            // The leader last: of a killed process it can be reaped only then.
            let mut gone = Vec::new();
            for thread in process.threads.into_iter().rev() {
                let id = thread.stopped.thread();
                if let Err(error) = thread.release() {
                    gone.push(id);
                    outcome = outcome.and(Err(error));
                }
            }
            dead.push(gone);
        }
        // Killed in its stop: a zombie that its parent cannot reap, nor its pid namespace end,
        // before we have. The first process of a namespace ends after all others: children first.
        dead.into_iter().rev().flatten().for_each(ptrace::reap);
        outcome
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.let_go(wait_stopped) {
            tracing::debug!(%error, "a thread died while the tree was frozen");
        }
    }
}

/// Waits until a process is back in its job control stop: let go of, it runs for a moment on its
/// way there, which its parent must not see.
fn wait_stopped(host: HostPid) {
    let deadline = Instant::now() + SETTLING;
    let on_its_way = || process::stat(host).is_ok_and(|stat| !stat.is_dead() && stat.state != b'T');
    while on_its_way() && Instant::now() < deadline {
        thread::yield_now();
    }
}
