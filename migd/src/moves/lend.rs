//! Write locks of a copy that has been given up, made read locks: so the
//! destination can have them too before they end here, and nobody else gets a
//! write lock in between.

use std::os::fd::AsFd;

use libmig::capture::{self, CaptureError, Frozen};
use libmig::image::{FileLock, JobImage, LockKind};
use libmig::inspect;
use libmig::sys::cgroup::JobGroup;
use libmig::sys::lock::{self, Access};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::{error, warn};

use super::local::Local;

/// Shares the write locks of the frozen job, as far as that can be done. The
/// destination owns it: it must never run here again.
pub(super) fn lend(local: &Local, image: &JobImage) {
    // A read lock needs a descriptor for reading.
    let readable = |lock: &&FileLock| {
        let file = image.files.get(lock.file as usize);
        file.is_some_and(|file| {
            let flags = OFlags::from_bits_retain(file.flags.cast_unsigned());
            flags & OFlags::RWMODE == OFlags::RDWR
        })
    };
    let locks = image.locks.iter().filter(|lock| lock.exclusive);
    let (own, of_descriptions): (Vec<FileLock>, Vec<FileLock>) = locks
        .filter(readable)
        .partition(|lock| lock.kind == LockKind::Process);
    for lock in of_descriptions {
        if lend_description(local, &lock).is_none() {
            warn!(job = %local.job, %lock, "a lock cannot be shared before it is handed over");
        }
    }
    // A process that is to go on as another program must not die with this daemon:
    // its locks are free for a moment.
    if !own.is_empty()
        && local.adopted.is_none()
        && let Err(error) = lend_own(local, &own)
    {
        warn!(job = %local.job, %error, "locks cannot be shared before they are handed over");
    }
}

fn lend_description(local: &Local, lock: &FileLock) -> Option<()> {
    let tree = inspect::process::tree(local.scope());
    let (host, _) = tree.iter().find(|(_, pid)| *pid == lock.pid)?;
    let pidfd = pidfd_open(Pid::from_raw(host.raw())?, PidfdFlags::empty()).ok()?;
    let file = pidfd_getfd(pidfd.as_fd(), lock.number, PidfdGetfdFlags::empty()).ok()?;
    lock::set(file, lock, Access::Shared).ok()?.then_some(())
}

/// Only the processes themselves can do it: each thread is stopped before the
/// freezer lets go, and dies if this daemon does.
fn lend_own(local: &Local, locks: &[FileLock]) -> Result<(), CaptureError> {
    let mut doomed = Doomed {
        frozen: Some(capture::freeze(local.init)?),
        group: &local.group,
    };
    let frozen = doomed.frozen.as_mut().expect("just put there");
    frozen.doom()?;
    local.group.thaw().map_err(|source| CaptureError::Cgroup {
        path: local.group.path().to_owned(),
        source,
    })?;
    let shared: Vec<_> = locks.iter().map(|lock| (*lock, Access::Shared)).collect();
    frozen.set_locks(&shared).map(drop)
}

/// A stopped tree that never runs again: back into the freezer, or killed.
struct Doomed<'a> {
    frozen: Option<Frozen>,
    group: &'a JobGroup,
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        let Some(frozen) = self.frozen.take() else {
            return;
        };
        if let Err(error) = frozen.hold(self.group) {
            error!(%error, "a copy that was given up does not freeze again: it is killed");
            if let Err(error) = self.group.kill() {
                error!(%error, "nor can its control group be killed: its processes are");
                frozen.kill();
            }
        }
        // Whoever has been killed in its stop is no error here.
        drop(frozen.release_tracing());
    }
}
