//! From a tree of husks with their memory to the job as it was: descriptors,
//! threads, signals, timers, credentials, registers; then the hold.

use std::collections::BTreeMap;

use super::{
    address_space,
    build::{self, Building, Space, live},
    clocks,
    error::{RestoreError, host, trace},
    files,
    hold::{self, Complete},
    limits,
    locks::Locks,
    namespaces, prepare, process, seccomp, sleep,
    task::{self, Task},
    thread,
    xstate::{self, Component},
};
use crate::{
    api::Obstacle,
    image::{
        self, ChildSpace, Clocks, INIT, JobImage, LiveProcess, Pid, Process, ProcessKind,
        Registers, Thread,
    },
    inspect,
    sys::{
        HostPid,
        ptrace::SUSPEND_SECCOMP,
        remote::{Batch, Foothold},
    },
};

/// The tasks of one process: the leader first.
pub(super) type Threads = Vec<Task>;

impl Building {
    /// Gives every process what is left to give, and holds the tree.
    ///
    /// # Errors
    /// What stands in the way; nothing is left then.
    ///
    /// **Afterwards**: the tree is complete, traced by nobody and frozen. It
    /// stays so when the daemon dies.
    pub fn finish(mut self, image: &JobImage) -> Result<Complete, RestoreError> {
        self.forget_absent()?;
        self.late = files::pidfd::names_threads(image);
        self.shm.settle(image, &self.shared)?;
        self.namespaces.mounts.settle(&image.systems)?;
        self.shared.stop_writing()?;
        let mut tree: BTreeMap<Pid, Threads> = BTreeMap::new();
        for (pid, process) in live(&image.processes) {
            check(pid, process)?;
            let threads = self.furnish(pid, process)?;
            tree.insert(pid, threads);
        }
        self.place_late(image, &mut tree)?;
        self.adjust(image, &mut tree)?;
        self.shared.seal(&image.shared)?;
        let mut locks = Locks::of_descriptions(&image.locks, &self.opened)?;
        let components = xstate::components();
        // Children first: a parent forgets the SIGCHLDs that they caused.
        for (pid, process) in live(&image.processes).collect::<Vec<_>>().into_iter().rev() {
            let threads = tree
                .get_mut(&pid)
                .expect("every live process has been furnished");
            let stopped = stopped_children(image, pid, process);
            let shift = image::clock_shift(&process.namespaces, &image.namespaces);
            let then = &image.capsule.clocks.shifted(shift);
            self.identify(pid, process, threads, (&stopped, then), &mut locks)?;
            outside(pid, process, threads[0].host());
            let stop = process
                .stopped
                .map(|signal| stop_signal(image, pid, process, signal));
            self.depart(pid, process, threads, &components, (then, stop))?;
        }
        self.opened.wind_views(image);
        self.opened.watch(image, self.files.roots())?;
        let now = clocks::job(self.offsets).map_err(host("read the clocks"))?;
        self.opened
            .set_timers(image, &now)
            .map_err(host("set the job's timer descriptors"))?;
        let Self {
            remains,
            group,
            zygote,
            opened,
            files,
            ..
        } = self;
        let names = (files.into_root(), opened.names);
        hold::hold(remains, &group, &zygote, tree, locks.waiting()?, names)
    }

    /// Everything that threads share, and the threads themselves.
    fn furnish(&mut self, pid: Pid, process: &LiveProcess) -> Result<Threads, RestoreError> {
        let space = self
            .spaces
            .get(&pid)
            .expect("every live process has been mapped");
        let mut leader = self
            .husks
            .remove(&pid)
            .expect("the tree has every process of the image");
        let mut batch = Batch::new();
        let own = self.namespaces.time(&process.namespaces);
        if let Some(time) = own.or(self.time.as_ref()) {
            build::enter_time(&mut batch, self.daemon, time);
        }
        address_space::settle(
            &mut batch,
            &space.layout,
            &process.memory,
            space.vdso,
            self.daemon,
            space.exe,
        );
        self.settle_in(&mut batch, pid, process);
        seccomp::confine_all(&mut batch, process);
        let apart = process.namespaces.user.is_some();
        for thread in process.threads[1..].iter().filter(|_| !apart) {
            thread::spawn(&mut batch, &self.numbers.birth(thread.tid));
        }
        const STEP: &str = "take over what its threads share";
        if seccomp::is_confined(process) {
            // Threads inherit it with the tracer.
            leader
                .stopped
                .set_options(prepare::options() | SUSPEND_SECCOMP)
                .map_err(trace(pid, STEP))?;
        }
        let results = self
            .injector
            .run(&mut leader.stopped, &batch)
            .map_err(super::error::remote(pid, STEP))?;
        for child in results.children() {
            self.remains.add(*child);
        }
        let born = process.threads[1..].iter().zip(results.children());
        let others: Vec<Task> = born
            .map(|(thread, host)| Task::born(thread.tid, *host))
            .collect::<Result<_, _>>()?;
        results
            .complete()
            .map_err(super::error::remote(pid, STEP))?;
        let mut threads: Threads = std::iter::once(leader).chain(others).collect();
        for thread in process.threads[1..].iter().filter(|_| apart) {
            let born = self.spawn_apart(&mut threads[0], thread.tid)?;
            threads.push(born);
        }
        Ok(threads)
    }

    /// A thread of a process that is in a user namespace of the job. Nobody but this
    /// restore makes tasks in the capsule now.
    fn spawn_apart(&mut self, leader: &mut Task, tid: Pid) -> Result<Task, RestoreError> {
        const STEP: &str = "make a thread";
        let mut batch = Batch::new();
        namespaces::announce(&mut batch, tid);
        self.zygote.run(self.injector, &batch, STEP)?;
        let mut batch = Batch::new();
        thread::spawn(&mut batch, &[]);
        let results = self
            .injector
            .run(&mut leader.stopped, &batch)
            .map_err(super::error::remote(tid, STEP))?;
        results
            .complete()
            .map_err(super::error::remote(tid, STEP))?;
        let taken = || std::io::Error::other(format!("the ID {tid} is taken"));
        let born = *results
            .children()
            .first()
            .ok_or_else(|| host(STEP)(taken()))?;
        self.remains.add(born);
        let task = Task::born(tid, born)?;
        let status = inspect::process::status(born).map_err(host("look at a new thread"))?;
        if status.own_id() == Some(tid) {
            Ok(task)
        } else {
            Err(host(STEP)(taken()))
        }
    }

    /// Namespaces, descriptors and directories. In a user namespace of the job it has only
    /// rights over what is in it: whatever needs more comes before, users that are not mapped there too.
    fn settle_in(&self, batch: &mut Batch, pid: Pid, process: &LiveProcess) {
        let membership = &process.namespaces;
        let nested = membership.user.is_some();
        self.namespaces.join(batch, membership, self.daemon.into());
        process::attributes(batch, process);
        process::directories(batch, process);
        if nested {
            let leader = &process.threads[0];
            thread::schedule(batch, leader);
            thread::ids(batch, &leader.credentials);
        }
        if process.child_space == ChildSpace::Fresh {
            let flags = u64::from(libc::CLONE_NEWPID.cast_unsigned());
            batch.call(libc::SYS_unshare, &[flags.into()]);
        }
        if nested || !self.late {
            self.place(batch, pid, process);
        }
    }

    /// Its descriptors; with the last of them it enters a user namespace of the job.
    fn place(&self, batch: &mut Batch, pid: Pid, process: &LiveProcess) {
        let seat = files::Seat {
            pid,
            daemon: self.daemon,
            seen: &|id| self.numbers.seen_by(pid, id).unwrap_or(0),
        };
        let enter = |batch: &mut Batch, daemon| {
            let membership = &process.namespaces;
            self.namespaces.join_user(batch, membership, daemon);
        };
        files::place(&seat, &process.descriptors, &self.opened, batch, enter);
    }

    /// Descriptors that name threads, and all beside them, when there are threads.
    fn place_late(
        &mut self,
        image: &JobImage,
        tree: &mut BTreeMap<Pid, Threads>,
    ) -> Result<(), RestoreError> {
        if !self.late {
            return Ok(());
        }
        let threads = tree.values().flatten();
        let hosts: BTreeMap<Pid, HostPid> = threads.map(|task| (task.id, task.host())).collect();
        self.opened
            .open_threads(image, |tid| hosts.get(&tid).copied())?;
        for (pid, process) in live(&image.processes) {
            if process.namespaces.user.is_some() {
                if files::pidfd::has_thread(image, process) {
                    return Err(late_in_user_namespace(pid).into());
                }
                continue;
            }
            let mut batch = Batch::new();
            self.place(&mut batch, pid, process);
            let threads = tree.get_mut(&pid);
            let leader = threads.and_then(|threads| threads.first_mut());
            let leader = leader.expect("every live process has been furnished");
            leader.run(self.injector, &batch, "take its descriptors")?;
        }
        Ok(())
    }

    /// What a thread calls its process and itself.
    fn own(&self, pid: Pid, thread: &Thread) -> (Pid, Pid) {
        let own = |id| self.numbers.seen_by(pid, id).unwrap_or(id);
        (own(pid), own(thread.tid))
    }

    /// What each thread has of its own; the leader last, with what ticks.
    fn identify(
        &self,
        pid: Pid,
        process: &LiveProcess,
        threads: &mut Threads,
        (stopped_children, then): (&[Pid], &Clocks),
        locks: &mut Locks,
    ) -> Result<(), RestoreError> {
        const STEP: &str = "take its identity";
        let pairs = threads.iter_mut().zip(&process.threads);
        for (task, thread) in pairs.skip(1) {
            let mut batch = Batch::new();
            thread::identity(&mut batch, thread, self.own(pid, thread));
            seccomp::confine(&mut batch, process, thread);
            thread::credentials(&mut batch, thread, process);
            task.run(self.injector, &batch, STEP)?;
        }
        let mut batch = Batch::new();
        let leader = &process.threads[0];
        let seen = |child: &Pid| self.numbers.seen_by(pid, *child);
        let stopped: Vec<Pid> = stopped_children.iter().filter_map(seen).collect();
        process::notice_stops(&mut batch, &stopped);
        process::pending(&mut batch, &process.pending);
        thread::identity(&mut batch, leader, self.own(pid, leader));
        let seen = |id| self.numbers.seen_by(pid, id).unwrap_or(0);
        process::make_timers(&mut batch, &process.timers, self.exact_timers, seen);
        limits::set(&mut batch, pid, &process.limits);
        process::confine_memory(&mut batch, process);
        seccomp::confine(&mut batch, process, leader);
        thread::credentials(&mut batch, leader, process);
        let asked = locks.ask(&mut batch, pid);
        let now = clocks::job(self.offsets).map_err(host("read the clocks"))?;
        let now = now.shifted(self.namespaces.shift(&process.namespaces));
        process::arm(&mut batch, process, then, &now);
        let results = threads[0].run(self.injector, &batch, STEP)?;
        locks.answered(pid, &asked, &results)
    }

    /// Sleeps, the end of the injected pages, and the registers.
    fn depart(
        &self,
        pid: Pid,
        process: &LiveProcess,
        threads: &mut Threads,
        components: &[Component],
        (then, stop): (&Clocks, Option<i32>),
    ) -> Result<(), RestoreError> {
        let space = self
            .spaces
            .get(&pid)
            .expect("every live process has been mapped");
        let call = self.call_site(pid, space, threads[0].host())?;
        let mut registers: Vec<Registers> = Vec::new();
        for (task, thread) in threads.iter_mut().zip(&process.threads) {
            registers.push(match &thread.sleep {
                Some(interrupted) => {
                    let now = clocks::job(self.offsets).map_err(host("read the clocks"))?;
                    let now = now.shifted(self.namespaces.shift(&process.namespaces));
                    let sleep = sleep::left(*interrupted, then, &now);
                    if sleep::is_forgotten(sleep) {
                        sleep::wait_again(thread, task.host(), sleep, &now)
                    } else {
                        sleep::resume(task, thread, sleep, self.injector, call)?
                    }
                }
                None => thread.registers,
            });
        }
        sleep::note(pid, threads[0].host(), &process.threads, &registers, then)?;
        self.injector
            .remove(&mut threads[0].stopped, Foothold::Syscall(call))
            .map_err(super::error::remote(pid, "let go of injected code"))?;
        if let Some(signal) = stop {
            task::stop(threads, signal)?;
        }
        for ((task, thread), registers) in threads.iter_mut().zip(&process.threads).zip(registers) {
            load(task, thread, &registers, components)?;
            self.pin.unpin(task.host(), thread);
        }
        Ok(())
    }

    /// A `syscall` instruction of the restored program.
    fn call_site(&self, pid: Pid, space: &Space, process: HostPid) -> Result<u64, RestoreError> {
        if let Some(place) = space.vdso {
            return Ok(self.vdso.syscall_in(place));
        }
        match crate::inspect::maps::foothold(process)
            .map_err(host(format!("find a system call in pid {pid}")))?
        {
            Foothold::Syscall(address) | Foothold::Padding(address) => Ok(address),
        }
    }
}

/// Registers and mask; the thread does not run again before its release.
fn load(
    task: &mut Task,
    thread: &Thread,
    registers: &Registers,
    components: &[Component],
) -> Result<(), RestoreError> {
    const STEP: &str = "given its registers";
    let template = task.stopped.xstate().map_err(trace(thread.tid, STEP))?;
    let area = xstate::area(thread.tid, &thread.xstate, &template, components)?;
    task.stopped
        .set_xstate(&area)
        .map_err(trace(thread.tid, STEP))?;
    task.stopped
        .set_registers(registers)
        .map_err(trace(thread.tid, STEP))?;
    task.stopped
        .set_sigmask(thread.sigmask)
        .map_err(trace(thread.tid, STEP))
}

/// What only files of /proc set. A node that has less to give than the source
/// had gives what it has.
fn outside(pid: Pid, process: &LiveProcess, host: HostPid) {
    hold::write_proc(
        pid,
        host,
        "coredump_filter",
        &format!("{:#x}", process.coredump_filter),
    );
    hold::write_proc(
        pid,
        host,
        "oom_score_adj",
        &process.oom_score_adj.to_string(),
    );
}

/// The signal by which a process is stopped again, so that its parent hears of
/// the same one. But for SIGSTOP they are stopped only by the default action, and
/// not in a group that no shell controls any more.
fn stop_signal(image: &JobImage, pid: Pid, process: &LiveProcess, signal: i32) -> i32 {
    let action = usize::try_from(signal - 1).ok();
    let action = action.and_then(|index| process.actions.get(index));
    let own = image.processes.iter().find(|own| own.pid == pid);
    let group = own.map_or(0, |own| own.pgid);
    let by_default = action.is_some_and(|action| action.handler == 0);
    let stops = matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
    if stops && by_default && is_controlled(image, group) {
        signal
    } else {
        libc::SIGSTOP
    }
}

/// Whether a member of the group has a parent in another group of its session.
fn is_controlled(image: &JobImage, group: Pid) -> bool {
    let alive = |process: &&Process| matches!(process.kind, ProcessKind::Live(_));
    let mut members = image.processes.iter().filter(|member| member.pgid == group);
    members.by_ref().filter(alive).any(|member| {
        let parent = image.processes.iter().find(|one| one.pid == member.ppid);
        // The capsule's init leads its session and its group.
        let (parent_group, parent_session) =
            parent.map_or((INIT, INIT), |parent| (parent.pgid, parent.sid));
        parent_group != group && parent_session == member.sid
    })
}

/// Children whose stop the parent has waited for already. As long as its
/// SIGCHLD is pending, it has not.
fn stopped_children(image: &JobImage, pid: Pid, process: &LiveProcess) -> Vec<Pid> {
    let mut pending = process
        .pending
        .iter()
        .chain(process.threads.iter().flat_map(|thread| &thread.pending));
    if pending.any(|signal| process::signal_number(signal) == libc::SIGCHLD) {
        return Vec::new();
    }
    let children = image.processes.iter().filter(|child| child.ppid == pid);
    let stopped =
        |child: &&Process| matches!(&child.kind, ProcessKind::Live(live) if live.stopped.is_some());
    children.filter(stopped).map(|child| child.pid).collect()
}

/// Its descriptors are given before there are threads: nobody could give them afterwards.
fn late_in_user_namespace(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: "pidfd".into(),
        reason: "it names a thread, and its process is in a user namespace of the job".into(),
        remedy: "let the program close it, or start it without a user namespace".into(),
        transient: false,
    }
}

fn check(pid: Pid, process: &LiveProcess) -> Result<(), Obstacle> {
    let leads = process
        .threads
        .first()
        .is_some_and(|leader| leader.tid == pid);
    if leads && process.actions.len() == 64 {
        return Ok(());
    }
    Err(Obstacle {
        pid: Some(pid),
        object: "process".into(),
        reason: "has no leading thread or not 64 signal actions".into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    })
}
