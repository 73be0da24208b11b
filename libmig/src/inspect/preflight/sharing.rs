//! What kcmp(2) tells: threads that have something of their own, which all
//! threads of a restored process share, and processes that share something,
//! which restored processes do not.

use super::{
    states,
    subject::{Finding, Subject, leaving},
};
use crate::{
    inspect::{
        process,
        sharing::{self, Link, Sharers},
    },
    sys::{
        HostPid,
        sched::{self, Shared},
    },
};

/// What a thread may have of its own, by unshare(2).
const OF_THREADS: [(Shared, &str); 2] = [
    (Shared::Files, "a descriptor table of its own"),
    (Shared::Fs, "a current directory and umask of its own"),
];
/// Compares the threads of a process with its first one.
pub(super) fn within(subject: &mut Subject) {
    let Some(first) = subject.tasks.first().map(|task| task.host) else {
        return;
    };
    let mut found = Vec::new();
    for task in &subject.tasks[1..] {
        for (what, name) in OF_THREADS {
            // A thread that ends gives up its own: look whether it still lives.
            if sched::share(first, task.host, what).is_ok_and(|shared| !shared)
                && lives(first)
                && lives(task.host)
            {
                found.push((task.tid, name));
            }
        }
    }
    for (tid, name) in found {
        let finding = Finding::new(
            format!("it has {name} (unshare)"),
            "none yet: threads of one process share these when they are moved",
        );
        subject.refuse_thread(tid, finding);
    }
}

/// Compares a process with some others.
pub(super) fn between(subject: &mut Subject, others: impl Iterator<Item = HostPid>) {
    if subject.is_dead() {
        return;
    }
    let host = subject.host;
    for other in others.filter(|other| *other != host) {
        for link in sharing::between(host, other) {
            refuse(subject, link);
        }
    }
}

/// Finds the processes of a tree that share something, each pair once.
#[derive(Default)]
pub(super) struct Pairs(Sharers);

impl Pairs {
    /// Compares a process with those that were added before.
    pub(super) fn add(&mut self, subject: &mut Subject) {
        if subject.is_dead() {
            return;
        }
        for link in self.0.add(subject.host) {
            refuse(subject, link);
        }
    }
}

fn refuse(subject: &mut Subject, link: Link) {
    let Link { other, what, .. } = link;
    // The dead have nothing, and kcmp finds that they share it.
    if !lives(subject.host)
        || !lives(other)
        || !sched::share(subject.host, other, what).unwrap_or(false)
    {
        return;
    }
    let parent = |child: HostPid| process::stat(child).map(|stat| stat.ppid).ok();
    let vfork = parent(other) == Some(subject.host) && states::waits_for(subject.host, other)
        || parent(subject.host) == Some(other) && states::waits_for(other, subject.host);
    if vfork && matches!(what, Shared::Memory | Shared::Files | Shared::Actions) {
        subject.refuse_process(states::vfork());
        return;
    }
    let id = process::status(other)
        .ok()
        .and_then(|status| status.own_id());
    let other = id.unwrap_or(other.raw());
    subject.refuse_process(Finding::new(link.reason(other), sharing::REMEDY));
}

fn lives(task: HostPid) -> bool {
    process::stat(task).is_ok_and(|stat| !leaving(&stat))
}
