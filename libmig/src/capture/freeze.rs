//! Stops every thread of a tree, and lets it go again.
//!
//! Two phases, since a thread takes 25 to 500 us to stop: all are asked, then
//! all are waited for; repeated until a look at `/proc` finds nobody new.
//! Children that are born meanwhile arrive attached (PTRACE_O_TRACEFORK and its
//! like). Never PTRACE_O_EXITKILL: when this process dies, the kernel detaches
//! and the tree runs on.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use super::{CaptureError, interrupted, sleep};
use crate::{
    api::Obstacle,
    image::{INIT, Pid},
    inspect::process::{self, is_gone},
    sys::{
        HostPid,
        ptrace::{
            self, Event, Options, PtraceError, RseqConfiguration, SignalState, Stopped, Waited, reg,
        },
        sched::{self, Shared},
    },
};

/// How long a thread may take to stop before the freeze is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long before it is asked why.
const HURRY: Duration = Duration::from_millis(20);
/// Code segment of 64-bit programs; anything else is 32-bit code or an LDT.
const USER_CS: u64 = 0x33;

/// A tree whose threads are all in ptrace stops. Dropped, it runs on as if nothing had been.
#[derive(Debug)]
pub struct Frozen {
    pub(super) init: HostPid,
    /// Parents before children.
    pub(super) processes: Vec<FrozenProcess>,
    pub(super) sleeps: sleep::Samples,
}

/// A process of the tree.
#[derive(Debug)]
pub(super) struct FrozenProcess {
    pub(super) host: HostPid,
    pub(super) pid: Pid,
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
    pub(super) rseq: RseqConfiguration,
}

/// Stops all processes below the capsule's init. The init itself runs on.
///
/// Afterwards: on `Ok` every thread is in a ptrace stop of the calling OS
/// thread, which must be the one that captures; on `Err` all run.
///
/// # Errors
/// Obstacles (transient ones, say a vfork in progress, are worth another try).
pub fn freeze(init: HostPid) -> Result<Frozen, CaptureError> {
    // Being stopped is to run: a sleeper's last run must be read before.
    let sleeps = sleep::sample(&descendants(init)?);
    let mut gathering = Gathering::default();
    match gathering.complete(init) {
        Ok(processes) => Ok(Frozen {
            init,
            processes,
            sleeps,
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

    /// Lets all run on as before.
    pub fn thaw(self) {
        drop(self);
    }

    /// Ends the tracing after the cgroup has been frozen ([`super::hold()`]):
    /// the tasks stay where they are, in the freezer.
    ///
    /// # Errors
    /// When a thread was killed meanwhile.
    pub fn release_tracing(mut self) -> Result<(), CaptureError> {
        self.let_go().map_err(CaptureError::from)
    }

    /// Puts every thread back and detaches; the first failure, after all.
    fn let_go(&mut self) -> Result<(), PtraceError> {
        let mut outcome = Ok(());
        for process in mem::take(&mut self.processes) {
            // The leader last: of a killed process it can be reaped only then.
            for thread in process.threads.into_iter().rev() {
                let id = thread.stopped.thread();
                if let Err(error) = thread.stopped.release() {
                    // Killed in its stop: a zombie that its parent cannot
                    // reap, nor its pid namespace end, before we have.
                    ptrace::reap(id);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::debug!(%error, "a thread died while the tree was frozen");
        }
    }
}

/// Processes below `init`, parents before children.
fn descendants(init: HostPid) -> Result<Vec<HostPid>, CaptureError> {
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
    found.remove(0);
    Ok(found)
}

/// Threads on their way into ptrace stops.
#[derive(Default)]
struct Gathering {
    /// Attached, not yet seen to stop.
    seized: BTreeSet<HostPid>,
    stopped: BTreeMap<HostPid, (Stopped, Option<i32>)>,
    /// Ended while we looked, or had before.
    dead: BTreeSet<HostPid>,
}

impl Gathering {
    fn complete(&mut self, init: HostPid) -> Result<Vec<FrozenProcess>, CaptureError> {
        loop {
            let tree = descendants(init)?;
            let mut fresh = false;
            for pid in &tree {
                fresh |= self.seize_process(*pid)?;
            }
            for thread in self.seized.clone() {
                self.settle(thread)?;
            }
            if !fresh && self.seized.is_empty() {
                return self.assemble(&tree);
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
        let options = Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACESYSGOOD;
        match ptrace::seize(thread, options) {
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
                Ok(status) if status.tracer != 0 => Err(obstacle(traced(pid, status.tracer))),
                // Children that it had are the init's now: worth another look.
                _ if is_zombie(thread) => Ok(self.dead.insert(thread)),
                Err(gone) if is_gone(&gone) => Ok(true),
                _ => Err(error.into()),
            },
        }
    }

    /// Waits until a thread is in the stop that we asked for.
    fn settle(&mut self, thread: HostPid) -> Result<(), CaptureError> {
        loop {
            let (mut stopped, event) = match self.wait(thread)? {
                Waited::Stopped(stopped, event) => (stopped, event),
                Waited::Exited(_) => {
                    self.seized.remove(&thread);
                    self.dead.insert(thread);
                    return Ok(());
                }
            };
            stopped.detach_on_drop();
            match event {
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
                // Still to be delivered, as if we were not here; our stop follows.
                Event::Signal(signal) => _ = stopped.cont(signal)?,
                Event::Fork(child) | Event::Clone(child) => {
                    self.seized.insert(child);
                    stopped.cont(0)?;
                }
                Event::Vfork(child) => {
                    self.seized.insert(child);
                    self.stopped.insert(thread, (stopped, None));
                    self.seized.remove(&thread);
                    return Err(obstacle(vfork(thread)));
                }
                _ => _ = stopped.cont(0)?,
            }
        }
    }

    fn wait(&self, thread: HostPid) -> Result<Waited, CaptureError> {
        let begin = Instant::now();
        match ptrace::wait_until(thread, begin + HURRY) {
            Err(PtraceError::Stuck { .. }) => {}
            other => return Ok(other?),
        }
        if waits_for_vfork(thread) {
            return Err(obstacle(vfork(thread)));
        }
        match ptrace::wait_until(thread, begin + PATIENCE) {
            Err(PtraceError::Stuck { .. }) => Err(obstacle(stuck(thread))),
            other => Ok(other?),
        }
    }

    /// All have stopped: who is what, parents before children.
    fn assemble(&mut self, tree: &[HostPid]) -> Result<Vec<FrozenProcess>, CaptureError> {
        let mut processes: Vec<FrozenProcess> = Vec::new();
        let mut pids = BTreeMap::new();
        for host in tree {
            let status = process::status(*host).map_err(CaptureError::proc(*host, "status"))?;
            let stat = process::stat(*host).map_err(CaptureError::proc(*host, "stat"))?;
            let pid = status.own_id().unwrap_or(host.raw());
            pids.insert(*host, pid);
            let ppid = pids.get(&stat.ppid).copied().unwrap_or(INIT);
            let (threads, stopped) = self.take_threads(*host, pid)?;
            if let Some(parent) = processes.iter().find(|process| process.pid == ppid) {
                refuse_sharing(parent, *host, pid, threads.is_empty())?;
            }
            processes.push(FrozenProcess {
                host: *host,
                pid,
                ppid,
                threads,
                stopped,
            });
        }
        // Whoever is left belongs to nobody in the tree any more: dead by now.
        self.stopped.clear();
        Ok(processes)
    }

    fn take_threads(
        &mut self,
        host: HostPid,
        pid: Pid,
    ) -> Result<(Vec<FrozenThread>, Option<i32>), CaptureError> {
        let listed = process::threads(host).map_err(CaptureError::proc(host, "threads"))?;
        let mut threads = Vec::new();
        let mut group_stop = None;
        for thread in listed {
            let Some((stopped, signal)) = self.stopped.remove(&thread) else {
                if thread == host && is_zombie(host) {
                    continue;
                }
                return Err(obstacle(changing(pid)));
            };
            group_stop = group_stop.or(signal);
            threads.push(settle_state(stopped, pid)?);
        }
        if threads
            .first()
            .is_some_and(|first| first.stopped.thread() != host)
        {
            return Err(obstacle(dead_leader(pid)));
        }
        Ok((threads, group_stop))
    }

    /// Lets everything go that was caught so far.
    fn abandon(&mut self) {
        for (_, (stopped, _)) in mem::take(&mut self.stopped) {
            // Nothing was changed; a thread that is gone needs no detaching.
            drop(stopped.detach());
        }
        // Those that had not stopped yet do so now that the others run.
        let deadline = Instant::now() + PATIENCE;
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

/// From here on the thread is guarded, and what the stop itself did to it is
/// made good: an aborted restartable sequence, an EINTR that nobody asked for.
fn settle_state(mut stopped: Stopped, pid: Pid) -> Result<FrozenThread, CaptureError> {
    let thread = stopped.thread();
    let status = process::status(thread).map_err(CaptureError::proc(thread, "status"))?;
    let [pending, shared, _, _, caught] = status.signals;
    stopped.guard(SignalState {
        caught,
        pending: pending | shared,
    })?;
    let tid = status.own_id().unwrap_or(thread.raw());
    if status.seccomp != 0 {
        // Not one injected call could be made, nor would the filters travel.
        return Err(obstacle(sandboxed(pid, tid)));
    }
    let rseq = stopped.rseq()?;
    let registers = stopped.registers()?;
    if registers[reg::CS] != USER_CS {
        return Err(obstacle(not_64_bit(pid, tid)));
    }
    let amended = interrupted::amended(&registers, || {
        interrupted::rseq_abort(thread, &rseq, &registers)
    });
    if amended != registers {
        stopped.amend_registers(&amended)?;
    }
    Ok(FrozenThread { stopped, tid, rseq })
}

fn is_zombie(pid: HostPid) -> bool {
    process::stat(pid).is_ok_and(|stat| matches!(stat.state, b'Z' | b'X'))
}

/// Whether a thread is in vfork(2): the kernel lets it wait uninterruptibly
/// until the child lets go of the address space that they share.
fn waits_for_vfork(thread: HostPid) -> bool {
    process::children(thread)
        .or_else(|_| process::stat(thread).map(|_| Vec::new()))
        .is_ok_and(|children| {
            children
                .into_iter()
                .any(|child| sched::share(thread, child, Shared::Memory).unwrap_or(false))
        })
}

fn refuse_sharing(
    parent: &FrozenProcess,
    host: HostPid,
    pid: Pid,
    zombie: bool,
) -> Result<(), CaptureError> {
    if zombie || parent.threads.is_empty() {
        return Ok(());
    }
    for (what, name) in [
        (Shared::Memory, "the address space"),
        (Shared::Files, "the descriptor table"),
        (Shared::Fs, "the current directory and umask"),
        (Shared::Actions, "the signal handlers"),
    ] {
        let shared = sched::share(parent.host, host, what)
            .map_err(CaptureError::proc(host, "what it shares"))?;
        if shared {
            return Err(obstacle(Obstacle {
                pid: Some(pid),
                object: format!("process {pid}"),
                reason: format!("it shares {name} with its parent, process {}", parent.pid),
                remedy: "it passes when the child calls exec; wait or try again".to_owned(),
                transient: true,
            }));
        }
    }
    Ok(())
}

pub(super) fn obstacle(obstacle: Obstacle) -> CaptureError {
    CaptureError::Obstacles(vec![obstacle])
}

fn own_id(thread: HostPid) -> Pid {
    process::status(thread)
        .ok()
        .and_then(|status| status.own_id())
        .unwrap_or(thread.raw())
}

fn vfork(thread: HostPid) -> Obstacle {
    let pid = own_id(thread);
    Obstacle {
        pid: Some(pid),
        object: format!("thread {pid}"),
        reason: "it waits in vfork for its child to call exec".to_owned(),
        remedy: "it passes within milliseconds; try again".to_owned(),
        transient: true,
    }
}

fn stuck(thread: HostPid) -> Obstacle {
    let pid = own_id(thread);
    Obstacle {
        pid: Some(pid),
        object: format!("thread {pid}"),
        reason: "it is in an uninterruptible sleep, usually for a disk or a network file system"
            .to_owned(),
        remedy: "try again when the device answers".to_owned(),
        transient: true,
    }
}

fn traced(pid: HostPid, tracer: i32) -> Obstacle {
    let own = own_id(pid);
    Obstacle {
        pid: Some(own),
        object: format!("process {own}"),
        reason: format!("it is traced by process {tracer} (a debugger, or strace)"),
        remedy: "end the tracer, then move".to_owned(),
        transient: false,
    }
}

fn not_64_bit(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason: "it runs in a code segment of its own (32-bit code, or modify_ldt)".to_owned(),
        remedy: "use a 64-bit build of the program".to_owned(),
        transient: false,
    }
}

fn sandboxed(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason: "it has a seccomp filter".to_owned(),
        remedy: "start the program without its sandbox".to_owned(),
        transient: false,
    }
}

fn changing(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "its threads come and go faster than they can be stopped".to_owned(),
        remedy: "try again".to_owned(),
        transient: true,
    }
}

fn dead_leader(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "its main thread has ended while others live".to_owned(),
        remedy: "let the main thread wait for the others (pthread_join)".to_owned(),
        transient: false,
    }
}
