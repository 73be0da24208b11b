//! Locks that the job's copy at the source holds until that is gone.
//!
//! Where both nodes see one file system, the locks of the frozen copy are in
//! the way of those of the new one. When the job is ours for good, the source
//! makes its write locks read locks ([`super::lend`]), the destination gets
//! read locks beside them, the source ends its copy, and the read locks become
//! write locks before the job runs: at no time can anybody else have one.
//!
//! - Locks of open file descriptions (flock, OFD): the daemon takes them, on
//!   duplicates of the job's descriptions.
//! - Locks of processes (POSIX): only the process can have them, and to have it
//!   take one takes a while. The daemon has them first, on descriptions of
//!   its own, and hands them over in the same way.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use libmig::capture::{self, CaptureError, Frozen};
use libmig::image::{FileLock, LockKind};
use libmig::inspect;
use libmig::sys::lock::{self, Access};
use libmig::sys::survivor;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::{debug, warn};

use super::local::Local;

/// How long the job stands still for a lock that somebody else has. A daemon
/// at the source that was killed may be started again meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often that is looked at: at first, and when it takes long.
const SOON: Duration = Duration::from_micros(20);
const LATER: Duration = Duration::from_millis(2);
const LONG: Duration = Duration::from_millis(200);

/// Locks that are waited for.
#[derive(Debug)]
pub(super) struct Claims {
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    lock: FileLock,
    /// The job's description; of a lock of a process, one of our own.
    file: Option<OwnedFd>,
    /// We have a read lock already.
    shared: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Held,
    Impossible,
}

impl Claims {
    /// Gets hold of the files. The job is frozen.
    pub(super) fn open(local: &Local, locks: &[FileLock]) -> Claims {
        let tree = inspect::process::tree(local.init);
        let duplicate = |lock: &FileLock| {
            let (host, _) = tree.iter().find(|(_, pid)| *pid == lock.pid)?;
            let pidfd = pidfd_open(Pid::from_raw(host.raw())?, PidfdFlags::empty()).ok()?;
            pidfd_getfd(pidfd.as_fd(), lock.number, PidfdGetfdFlags::empty()).ok()
        };
        let claim = |lock: &FileLock| {
            let file = duplicate(lock);
            Claim {
                lock: *lock,
                file: match lock.kind {
                    LockKind::Process => file.and_then(|file| another(&file)),
                    LockKind::Description | LockKind::Flock => file,
                },
                shared: false,
                state: State::Waiting,
            }
        };
        Claims {
            claims: locks.iter().map(claim).collect(),
        }
    }

    /// The source shares its write locks: takes read locks, as far as these are to be had.
    pub(super) fn share(&mut self) {
        for claim in &mut self.claims {
            let file = claim.file.as_ref();
            let share = |file| lock::set(file, &claim.lock, Access::Shared).unwrap_or(false);
            claim.shared = file.is_some_and(share);
        }
    }

    /// Takes them and lets the job run; returns the names of those that it
    /// runs without.
    ///
    /// # Errors
    /// When the job cannot be thawed.
    pub(super) fn take(mut self, local: &Local) -> std::io::Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        self.wait(deadline);
        if self.of_processes().next().is_none() {
            local.group.thaw()?;
            return Ok(self.lost());
        }
        survivor::run(|| self.take_inside(local, deadline))??;
        Ok(self.lost())
    }

    /// Has the processes take their own.
    fn take_inside(&mut self, local: &Local, deadline: Instant) -> std::io::Result<()> {
        // Stopped one by one before the freezer lets go: nobody runs yet.
        let frozen = capture::freeze(local.init);
        local.group.thaw()?;
        if let Err(error) = frozen.and_then(|frozen| self.hand_over(frozen, deadline)) {
            warn!(job = %local.job, %error, "a process cannot take its locks");
            let own = self.of_processes();
            own.for_each(|claim| claim.state = State::Impossible);
        }
        Ok(())
    }

    fn of_processes(&mut self) -> impl Iterator<Item = &mut Claim> {
        let claims = self.claims.iter_mut();
        claims.filter(|claim| claim.lock.kind == LockKind::Process)
    }

    /// Until all are held by the daemon, or are not to be had.
    fn wait(&mut self, deadline: Instant) {
        let begin = Instant::now();
        loop {
            self.claims.iter_mut().for_each(Claim::attempt);
            let waiting = |claim: &Claim| claim.state == State::Waiting && claim.file.is_some();
            let now = Instant::now();
            if !self.claims.iter().any(waiting) || now >= deadline {
                debug!(waited = ?begin.elapsed(), "locks");
                return;
            }
            let long = now - begin > LONG;
            thread::sleep(if long { LATER } else { SOON });
        }
    }

    /// From the daemon to the processes, which run afterwards.
    fn hand_over(&mut self, mut frozen: Frozen, deadline: Instant) -> Result<(), CaptureError> {
        let ours = |claim: &&mut Claim| claim.lends();
        let shared: Vec<(FileLock, Access)> = self
            .of_processes()
            .filter(ours)
            .map(|claim| (claim.lock, Access::Shared))
            .collect();
        frozen.set_locks(&shared)?;
        self.of_processes().for_each(|claim| {
            claim.file = None;
            claim.state = State::Waiting;
        });
        loop {
            let mut rest: Vec<&mut Claim> = self
                .of_processes()
                .filter(|claim| claim.state == State::Waiting)
                .collect();
            let wanted = rest
                .iter()
                .map(|claim| (claim.lock, Access::of(&claim.lock)));
            let wanted: Vec<_> = wanted.collect();
            let set = frozen.set_locks(&wanted)?;
            for (claim, set) in rest.iter_mut().zip(set) {
                if set {
                    claim.state = State::Held;
                }
            }
            if rest.iter().all(|claim| claim.state == State::Held) || Instant::now() >= deadline {
                frozen.thaw();
                return Ok(());
            }
            thread::sleep(LATER);
        }
    }

    fn lost(&self) -> Vec<String> {
        let lost = self
            .claims
            .iter()
            .filter(|claim| claim.state != State::Held);
        lost.map(|claim| claim.lock.to_string()).collect()
    }
}

impl Claim {
    fn attempt(&mut self) {
        let Some(file) = &self.file else {
            return;
        };
        if self.state != State::Waiting {
            return;
        }
        match lock::set(file, &self.lock, Access::of(&self.lock)) {
            Ok(true) => self.state = State::Held,
            // A flock that is not to be had is not as it was: the read lock is gone.
            Ok(false) if self.shared => _ = lock::set(file, &self.lock, Access::Shared),
            Ok(false) => {}
            Err(error) => {
                warn!(lock = %self.lock, %error, "a lock cannot be had");
                self.state = State::Impossible;
            }
        }
    }

    /// Makes a lock that we have one that the process can have too.
    fn lends(&self) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        self.state == State::Held
            && lock::set(file, &self.lock, Access::Shared).is_ok_and(|lent| lent)
    }
}

/// Another description of the file behind `file`, with the same rights.
fn another(file: &OwnedFd) -> Option<OwnedFd> {
    let access = rustix::fs::fcntl_getfl(file).ok()? & OFlags::RWMODE;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(link, flags, Mode::empty()).ok()
}
