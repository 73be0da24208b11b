//! Carries out the steps of [`super::tree`]: from the zygote to a tree of
//! husks with the right parents, sessions and groups.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    error::{RestoreError, remote},
    files::{self, ControllingTerminal},
    numbers::Numbers,
    remains::Remains,
    task::Task,
    thread::clone3,
    tree::{self, Member, Step},
};
use crate::{
    api::Obstacle,
    image::{ChildSpace, INIT, Pid, Process, ProcessKind},
    sys::remote::{Batch, Injector},
};

/// The husks of a tree by pid; the zygote is apart.
pub(super) type Husks = BTreeMap<Pid, Task>;

/// Plans the tree of an image.
pub(super) fn plan(
    processes: &[Process],
    zygote: Pid,
    zygote_group: Pid,
) -> Result<Vec<Step>, RestoreError> {
    let members: Vec<Member> = processes
        .iter()
        .map(|p| Member {
            pid: p.pid,
            ppid: p.ppid,
            pgid: p.pgid,
            sid: p.sid,
            space: p.inner.space,
            first: p.inner.pid.last() == Some(&1),
            blind: p.inner.group.last() == Some(&0),
            child_space: match &p.kind {
                ProcessKind::Live(live) => match live.child_space {
                    ChildSpace::Of(space) => Some(space),
                    ChildSpace::Own | ChildSpace::Fresh => None,
                },
                ProcessKind::Zombie { .. } => None,
            },
        })
        .collect();
    let mut taken = BTreeSet::new();
    for process in processes {
        if let ProcessKind::Live(live) = &process.kind {
            taken.extend(live.threads.iter().map(|thread| thread.tid));
        }
    }
    Ok(tree::plan(&members, zygote, zygote_group, &taken)?)
}

/// Carries the plan out.
pub(super) fn grow(
    zygote: &mut Task,
    injector: Injector,
    steps: &[Step],
    seat: &Seat<'_>,
    remains: &mut Remains,
) -> Result<Husks, RestoreError> {
    let mut growth = Growth {
        zygote,
        injector,
        seat,
        husks: BTreeMap::new(),
        remains,
        run: Run::default(),
        unshared: BTreeSet::new(),
    };
    for step in steps {
        growth.step(*step)?;
    }
    growth.flush()?;
    Ok(growth.husks)
}

/// What processes need to find each other, and session leaders to take their terminals.
pub(super) struct Seat<'a> {
    pub(super) terminals: &'a [ControllingTerminal],
    /// What they call each other.
    pub(super) numbers: &'a Numbers,
    /// The husks' descriptor that stands for the daemon.
    pub(super) daemon: i32,
}

/// Consecutive calls of one process: one batch.
#[derive(Default)]
struct Run {
    actor: Pid,
    batch: Batch,
    born: Vec<Pid>,
}

struct Growth<'a> {
    seat: &'a Seat<'a>,
    zygote: &'a mut Task,
    injector: Injector,
    husks: Husks,
    remains: &'a mut Remains,
    run: Run,
    /// Whose children are born in another pid namespace.
    unshared: BTreeSet<Pid>,
}

impl Growth<'_> {
    fn step(&mut self, step: Step) -> Result<(), RestoreError> {
        match step {
            Step::Spawn {
                creator,
                pid,
                sibling,
                helper,
                apart,
            } => {
                let numbers = self.seat.numbers;
                let deeper = usize::from(apart);
                if numbers.depth(pid) != numbers.depth(creator) + deeper
                    && !self.unshared.contains(&creator)
                {
                    return Err(nowhere(pid).into());
                }
                // With CLONE_PARENT the kernel takes over the creator's exit signal,
                // and refuses another. A helper dies in silence.
                let mut flags = if sibling { libc::CLONE_PARENT } else { 0 };
                if apart {
                    flags |= libc::CLONE_NEWPID;
                }
                let signal = if sibling || helper { 0 } else { libc::SIGCHLD };
                clone3(self.batch_of(creator)?, flags, signal, &numbers.birth(pid));
                self.run.born.push(pid);
            }
            Step::Unshare { pid } => {
                self.unshared.insert(pid);
                let flags = u64::from(libc::CLONE_NEWPID.cast_unsigned());
                let batch = self.batch_of(pid)?;
                batch.call(libc::SYS_unshare, &[flags.into()]);
            }
            Step::LeadSession { pid } => {
                let seat = self.seat;
                let batch = self.batch_of(pid)?;
                batch.call(libc::SYS_setsid, &[]);
                // Before there are children: they inherit the terminal, and only so.
                files::take_terminal(pid, seat.terminals, seat.daemon, batch);
            }
            Step::JoinGroup { pid, group } => {
                let seen = self.seat.numbers.seen_by(pid, group);
                let group = seen.ok_or_else(|| nowhere(group))?;
                self.batch_of(pid)?
                    .call(libc::SYS_setpgid, &[0.into(), group.into()]);
            }
            Step::Dismiss { pid, reaper } => {
                self.flush()?;
                let mut helper = self
                    .husks
                    .remove(&pid)
                    .expect("the plan dismisses only whom it spawned");
                helper.exit(self.injector, Batch::new(), 0)?;
                self.remains.forget(helper.host());
                if reaper != INIT {
                    let seen = self.seat.numbers.seen_by(reaper, pid);
                    let pid = seen.ok_or_else(|| nowhere(pid))?;
                    super::thread::wait_for(self.batch_of(reaper)?, pid);
                }
            }
        }
        Ok(())
    }

    /// The batch of `actor`; what another one had to do is done first.
    fn batch_of(&mut self, actor: Pid) -> Result<&mut Batch, RestoreError> {
        if self.run.actor != actor {
            self.flush()?;
            self.run.actor = actor;
        }
        Ok(&mut self.run.batch)
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        let Run { actor, batch, born } = std::mem::take(&mut self.run);
        if batch.is_empty() {
            return Ok(());
        }
        let task = if actor == self.zygote.id {
            &mut *self.zygote
        } else {
            self.husks
                .get_mut(&actor)
                .expect("the plan lets only existing processes act")
        };
        const STEP: &str = "take its place in the process tree";
        let results = self
            .injector
            .run(&mut task.stopped, &batch)
            .map_err(remote(actor, STEP))?;
        // Who was born is to be ended, even when a later sibling could not be.
        for (pid, host) in born.iter().zip(results.children()) {
            self.remains.add(*host);
            self.husks.insert(*pid, Task::born(*pid, *host)?);
        }
        let blamed = born.get(results.children().len()).copied().unwrap_or(actor);
        results.complete().map_err(remote(blamed, STEP))
    }
}

/// Who stands for a process that is dead has IDs in the capsule alone.
fn nowhere(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "it cannot be born in its pid namespace, which the job has made".into(),
        remedy: "let the programs that share this session end first".into(),
        transient: false,
    }
}
