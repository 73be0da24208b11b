//! Stops every thread of a tree.
//!
//! Two phases, since a thread takes 25 to 500 us to stop: all are asked, then
//! all are waited for; repeated until a look at `/proc` finds nobody new.
//! Children that are born meanwhile arrive attached (PTRACE_O_TRACEFORK and its
//! like). A parent in vfork(2) cannot stop before its child lets go of the address
//! space that they share: the child runs until it does. Never PTRACE_O_EXITKILL: when this process dies, the kernel detaches
//! and the tree runs on.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use super::{
    CaptureError, assemble,
    freeze::FrozenProcess,
    hindrance::{self, obstacle},
    sample::Watch,
    seccomp,
};
use crate::{
    inspect::process::{self, Scope, is_gone},
    sys::{
        HostPid,
        ptrace::{self, Event, Options, PtraceError, Stopped, Waited},
        sched::{self, Shared},
    },
};

/// How long a thread may take to stop before the freeze is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long before it is asked why.
const HURRY: Duration = Duration::from_millis(5);

/// Threads in ptrace stops, and the signal of a job control stop.
pub(super) type Caught = BTreeMap<HostPid, (Stopped, Option<i32>)>;

/// Processes of a scope, parents before children.
pub(super) fn members(scope: Scope) -> Result<Vec<HostPid>, CaptureError> {
    let init = scope.top();
    let mut found = vec![init];
    let mut seen: BTreeSet<HostPid> = found.iter().copied().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        match process::children(parent) {
            Ok(children) => found.extend(children.into_iter().filter(|child| seen.insert(*child))),
            // It has ended since; its children are the init's now: the next look finds them.
            Err(error) if is_gone(&error) && parent != init => {}
            Err(error) if is_gone(&error) => return Err(CaptureError::Ended),
            Err(source) => return Err(CaptureError::proc(parent, "children")(source)),
        }
    }
    Ok(scope.without_init(found))
}

/// How every thread is traced.
pub(super) const OPTIONS: Options = Options::PTRACE_O_TRACECLONE
    .union(Options::PTRACE_O_TRACEFORK)
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_TRACEEXEC)
    .union(Options::PTRACE_O_TRACESYSGOOD);

/// Threads on their way into ptrace stops.
#[derive(Default)]
pub(super) struct Gathering {
    /// Attached, not yet seen to stop.
    seized: BTreeSet<HostPid>,
    stopped: Caught,
    /// Children of vfork, on their way to execve or their end.
    borrowers: BTreeSet<HostPid>,
    /// Ended while we looked, or had before.
    dead: BTreeSet<HostPid>,
}

impl Gathering {
    /// Stops these processes, before the others.
    pub(super) fn stop(&mut self, processes: &[HostPid]) -> Result<(), CaptureError> {
        for process in processes {
            self.seize_process(*process)?;
        }
        for thread in self.seized.clone() {
            self.settle(thread)?;
        }
        Ok(())
    }

    /// Stops all of the tree.
    pub(super) fn complete(
        &mut self,
        scope: Scope,
        watch: &Watch,
    ) -> Result<Vec<FrozenProcess>, CaptureError> {
        let level = process::level(scope.keeper());
        loop {
            let tree = members(scope)?;
            let mut fresh = false;
            for pid in &tree {
                fresh |= self.seize_process(*pid)?;
            }
            for thread in self.seized.clone() {
                self.settle(thread)?;
            }
            if !fresh && self.seized.is_empty() {
                return assemble::assemble(&mut self.stopped, &tree, watch, level);
            }
        }
    }

    /// Attaches to the threads of a process that are new, and asks them to stop.
    fn seize_process(&mut self, pid: HostPid) -> Result<bool, CaptureError> {
        let threads = match process::threads(pid) {
            Ok(threads) => threads,
            Err(error) if is_gone(&error) => return Ok(true),
            Err(source) => return Err(CaptureError::proc(pid, "threads")(source)),
        };
        let mut fresh = false;
        for thread in threads {
            if !self.seized.contains(&thread)
                && !self.stopped.contains_key(&thread)
                && !self.dead.contains(&thread)
            {
                fresh |= self.seize(pid, thread)?;
            }
        }
        Ok(fresh)
    }

    fn seize(&mut self, pid: HostPid, thread: HostPid) -> Result<bool, CaptureError> {
        match ptrace::seize(thread, OPTIONS) {
            Ok(()) => {
                // A task that dies right now is found out when it is waited for.
                drop(ptrace::interrupt(thread));
                self.seized.insert(thread);
                Ok(true)
            }
            // Gone since the look, or a zombie: those can be seized by nobody.
            Err(PtraceError::Gone { .. }) => Ok(true),
            Err(error) => match process::status(thread) {
                // Born attached: it is in a stop or on its way there.
                Ok(status) if status.tracer == nix::unistd::gettid().as_raw() => {
                    self.seized.insert(thread);
                    Ok(true)
                }
                Ok(status) if status.tracer != 0 => {
                    Err(obstacle(hindrance::traced(pid, status.tracer)))
                }
                _ => match process::stat(thread) {
                    // Children that it had are the init's now: worth another look.
                    Ok(stat) if stat.is_dead() => Ok(self.dead.insert(thread)),
                    Err(gone) if is_gone(&gone) => Ok(true),
                    _ => Err(error.into()),
                },
            },
        }
    }

    /// Waits until a thread is in the stop that we asked for.
    fn settle(&mut self, thread: HostPid) -> Result<(), CaptureError> {
        if !self.seized.contains(&thread) {
            return Ok(()); // it was, with its parent
        }
        loop {
            let (mut stopped, event) = match self.wait(thread)? {
                Waited::Stopped(stopped, event) => (stopped, event),
                Waited::Exited(_) => {
                    self.seized.remove(&thread);
                    self.borrowers.remove(&thread);
                    self.dead.insert(thread);
                    return Ok(());
                }
            };
            stopped.detach_on_drop();
            let borrows = self.borrowers.contains(&thread) && event != Event::Exec;
            match event {
                Event::Stop if borrows => {}
                Event::Stop | Event::GroupStop(_) => {
                    let signal = if let Event::GroupStop(signal) = event {
                        Some(signal)
                    } else {
                        None
                    };
                    self.seized.remove(&thread);
                    self.stopped.insert(thread, (stopped, signal));
                    return Ok(());
                }
                Event::Exec => _ = self.borrowers.remove(&thread),
                Event::Fork(child) | Event::Clone(child) => _ = self.seized.insert(child),
                _ => {}
            }
            if !borrows {
                // Whatever trapped it took the place of the stop that was asked for.
                ptrace::interrupt(thread)?;
            }
            stopped.cont(match event {
                // Still to be delivered, as if we were not here; our stop follows.
                Event::Signal(signal) => signal,
                _ => 0,
            })?;
            if let Event::Vfork(child) = event {
                self.let_borrow(child)?;
            }
        }
    }

    /// Waits until the child of a vfork has let go of its parent's address space.
    fn let_borrow(&mut self, child: HostPid) -> Result<(), CaptureError> {
        self.borrowers.insert(child);
        self.seized.insert(child);
        // It was quicker to stop than its parent.
        if let Some((stopped, signal)) = self.stopped.remove(&child) {
            if signal.is_some() {
                self.stopped.insert(child, (stopped, signal));
                self.borrowers.remove(&child);
                self.seized.remove(&child);
                return Err(obstacle(hindrance::vfork(child)));
            }
            stopped.cont(0)?;
        }
        self.settle(child)
    }

    fn wait(&mut self, thread: HostPid) -> Result<Waited, CaptureError> {
        let begin = Instant::now();
        match ptrace::wait_until(thread, begin + HURRY) {
            Err(PtraceError::Stuck { .. }) => {}
            other => return Ok(other?),
        }
        for child in sharers(thread) {
            if !self.borrowers.contains(&child) && !self.dead.contains(&child) {
                self.let_borrow(child)?;
            }
        }
        match ptrace::wait_until(thread, begin + PATIENCE) {
            Err(PtraceError::Stuck { .. }) if self.borrowers.contains(&thread) => {
                Err(obstacle(hindrance::vfork(thread)))
            }
            Err(PtraceError::Stuck { .. }) => Err(obstacle(hindrance::stuck(thread))),
            other => Ok(other?),
        }
    }

    /// Lets everything go that was caught so far.
    pub(super) fn abandon(&mut self) {
        for (thread, (mut stopped, _)) in mem::take(&mut self.stopped) {
            let mode = process::status(thread).map_or(0, |status| status.seccomp);
            // Nothing was changed; a thread that is gone needs no detaching.
            drop(seccomp::spare(&mut stopped, mode).and_then(|()| stopped.detach()));
        }
        // Those that had not stopped yet do so now that the others run.
        let deadline = Instant::now() + PATIENCE;
        for thread in mem::take(&mut self.borrowers) {
            // It is running; one that has ended needs no detaching.
            drop(ptrace::interrupt(thread));
        }
        for thread in mem::take(&mut self.seized) {
            if let Ok(Waited::Stopped(stopped, event)) = ptrace::wait_until(thread, deadline) {
                match event {
                    Event::Signal(signal) => drop(stopped.detach_with(signal)),
                    _ => drop(stopped.detach()),
                }
            }
        }
    }
}

pub(super) fn is_zombie(pid: HostPid) -> bool {
    process::stat(pid).is_ok_and(|stat| stat.is_dead())
}

/// The children for which threads of a process wait in vfork(2), uninterruptibly: those
/// with which it shares the address space.
fn sharers(thread: HostPid) -> Vec<HostPid> {
    let shares = |child: &HostPid| sched::share(thread, *child, Shared::Memory).unwrap_or(false);
    let mut children = process::children(thread).unwrap_or_default();
    children.retain(shares);
    children
}
