//! Locks that only their process can take, taken by it while it stands still.

use std::io;

use nix::sys::signal::{Signal, kill};

use super::{CaptureError, Frozen, freeze::FrozenProcess};
use crate::{
    image::FileLock,
    inspect::maps,
    sys::{
        lock::{self, Access},
        ptrace::Options,
        remote::{Batch, Injector, Outcome},
        survivor::Shield,
    },
};

impl Frozen {
    /// From now on every thread dies when the tracer does (PTRACE_O_EXITKILL): for
    /// a tree that must never run again here.
    ///
    /// # Errors
    /// When a thread was killed meanwhile.
    pub fn doom(&mut self) -> Result<(), CaptureError> {
        let threads = self.processes.iter_mut().flat_map(|p| &mut p.threads);
        for thread in threads {
            let options = thread.confinement.options();
            thread
                .stopped
                .set_options(options | Options::PTRACE_O_EXITKILL)?;
        }
        Ok(())
    }

    /// SIGKILL for every process.
    pub fn kill(&self) {
        for process in &self.processes {
            // One that is gone is what is wanted.
            let _ = kill(process.host.into(), Signal::SIGKILL);
        }
    }

    /// Has the processes of the tree set these locks, each that to which it
    /// belongs, without waiting. False for those that somebody else has.
    ///
    /// # Errors
    /// A process that is not there, or a lock that cannot be had at all; the
    /// tree stays frozen, and some may have been set.
    pub fn set_locks(&mut self, locks: &[(FileLock, Access)]) -> Result<Vec<bool>, CaptureError> {
        let mut set = vec![false; locks.len()];
        for process in &mut self.processes {
            let own = |(_, (lock, _)): &(usize, &(FileLock, Access))| lock.pid == process.pid;
            let own: Vec<_> = locks.iter().enumerate().filter(own).collect();
            if own.is_empty() {
                continue;
            }
            let asked: Vec<_> = own.iter().map(|(_, asked)| **asked).collect();
            for ((place, _), answer) in own.iter().zip(set_own(process, &asked)?) {
                set[*place] = answer;
            }
        }
        Ok(set)
    }
}

fn set_own(
    process: &mut FrozenProcess,
    locks: &[(FileLock, Access)],
) -> Result<Vec<bool>, CaptureError> {
    let failed = || CaptureError::proc(process.host, "locks");
    let site = maps::injection_site(process.host).map_err(failed())?;
    let gone = || failed()(io::ErrorKind::NotFound.into());
    let leader = process.threads.first_mut().ok_or_else(gone)?;
    let leader = &mut leader.stopped;
    let mut batch = Batch::new();
    let mut slots = Vec::with_capacity(locks.len());
    for (lock, access) in locks {
        let range = batch.data(&lock::argument(lock, *access));
        let set = [lock.number.into(), libc::F_SETLK.into(), range.into()];
        slots.push(batch.attempt(libc::SYS_fcntl, &set));
    }
    let _shield = Shield::raise();
    let injector = Injector::install(leader, &site)?;
    let results = injector.run(leader, &batch);
    let removed = injector.remove(leader, site.foothold);
    let results = results?;
    removed?;
    let answer = |slot| match results.outcome(slot) {
        Outcome::Value(_) => Ok(true),
        Outcome::Failed(errno) if lock::is_taken(errno) => Ok(false),
        Outcome::Failed(errno) => Err(failed()(io::Error::from_raw_os_error(errno))),
        Outcome::NotRun => Err(failed()(io::ErrorKind::Interrupted.into())),
    };
    slots.into_iter().map(answer).collect()
}
