//! Namespaces and control groups of a process: those of its capsule, or ones
//! that can be made anew, or it cannot move.

use std::{fs, path::PathBuf};

use super::{
    subject::{Finding, Subject},
    tasks,
};
use crate::{
    api::Obstacle,
    image::Pid,
    inspect::{
        atlas::Atlas,
        mount_tree,
        nest::{self, Misfit, Nest},
        pid_spaces::misfit_of_threads,
        process::{self, Scope},
    },
    sys::HostPid,
};

/// Links of `/proc/TID/ns` that are the init's in every thread of the job,
/// and their names for people. After a move the clocks of a job are in a time
/// namespace of their own, the init's are not.
const OF_CAPSULE: [(&str, &str, &str); 8] = [
    ("pid", "pid", "pid"),
    ("pid_for_children", "pid", "pid (for its children)"),
    ("mnt", "mnt", "mount"),
    ("user", "user", "user"),
    ("uts", "uts", "uts"),
    ("ipc", "ipc", "ipc"),
    ("net", "net", "network"),
    ("cgroup", "cgroup", "cgroup"),
];
/// What the processes of a capsule have in common.
pub(super) struct Home {
    /// Links of the init, in the order of [`OF_CAPSULE`]; `None` where the
    /// kernel has no such namespace.
    namespaces: Vec<Option<PathBuf>>,
    /// Whose namespaces these are.
    keeper: HostPid,
    /// The tree.
    members: Vec<HostPid>,
    /// Whether a process may be in others that can be made anew.
    nests: bool,
    /// Time namespace of the tree's first live process.
    time: Option<PathBuf>,
    /// Labels of the init, in the order of [`tasks::LABELS`].
    pub(super) labels: Vec<Option<String>>,
    /// The control group (v2) of the job, where the init is in one of its own.
    group: Option<String>,
}

impl Home {
    pub(super) fn of(scope: Scope, tree: &[(HostPid, Pid)]) -> Self {
        let init = scope.keeper();
        // Without a capsule any group is as good as another.
        let group = match scope {
            Scope::Below(init) => group(init),
            Scope::From(_) => None,
        };
        Self {
            keeper: init,
            members: tree.iter().map(|(host, _)| *host).collect(),
            nests: matches!(scope, Scope::Below(_)),
            namespaces: OF_CAPSULE
                .iter()
                .map(|(_, own, _)| link(init, own))
                .collect(),
            time: tree.iter().find_map(|(host, _)| link(*host, "time")),
            labels: tasks::LABELS
                .iter()
                .map(|name| tasks::label(init, name))
                .collect(),
            group: group.and_then(|path| Some(format!("{}/job", path.strip_suffix("/init")?))),
        }
    }
}

pub(super) fn check(subject: &mut Subject, home: &Home) {
    let mut found = Vec::new();
    let mut nested = false;
    for task in &subject.tasks {
        let of_capsule = OF_CAPSULE.iter().zip(&home.namespaces);
        let own = link(task.host, "time");
        let of_time = [
            ("time", "time", &home.time),
            ("time_for_children", "time (for its children)", &own),
        ];
        let all = of_capsule.map(|((file, _, name), wanted)| (*file, *name, wanted));
        for (file, name, wanted) in all.chain(of_time) {
            let Some(wanted) = wanted else {
                continue; // the kernel has no such namespace, or the job has ended
            };
            // A pid namespace that is still empty has no link: ENOENT.
            let actual = link(task.host, file);
            let ended = || link(task.host, "pid").is_none();
            if actual.as_ref() == Some(wanted) || (actual.is_none() && ended()) {
                continue;
            }
            if home.nests && name.starts_with("pid") {
                continue; // judged for the whole tree: pid_spaces
            }
            if home.nests && nest::KINDS.iter().any(|kind| kind.link() == file) {
                nested = true;
            } else {
                found.push((task.tid, foreign(name)));
            }
        }
        if let (Some(wanted), Some(actual)) = (&home.group, group(task.host))
            && *wanted != actual
        {
            let reason = format!("it has left the control group of its job for {actual}");
            let remedy = "put it back: write its PID to cgroup.procs of the job's group";
            found.push((task.tid, Finding::new(reason, remedy)));
        }
    }
    for (tid, finding) in found {
        subject.refuse_thread(tid, finding);
    }
    if nested {
        check_nested(subject, home);
    }
}

/// Namespaces that the job has made: the same for all threads, and nothing in them that stays.
fn check_nested(subject: &mut Subject, home: &Home) {
    let mut nest = Nest::new(home.keeper);
    // The first process says which clocks are the job's.
    nest.take_clocks(&home.members);
    let mut of_process = None;
    let threads: Vec<_> = subject
        .tasks
        .iter()
        .map(|one| (one.host, one.tid))
        .collect();
    for (host, tid) in threads {
        let membership = nest.add(host);
        let Some(membership) = subject.read("namespaces", membership) else {
            continue;
        };
        if *of_process.get_or_insert(membership) != membership {
            let reason = "it is in other namespaces than its process";
            let remedy = "let the program unshare before it starts threads";
            subject.refuse_thread(tid, Finding::new(reason, remedy));
        }
    }
    let apart = |name| link(subject.host, name) != link(home.keeper, name);
    if subject.tasks.len() > 1 && apart("user") && apart("pid") {
        let Misfit { reason, remedy } = misfit_of_threads();
        subject.refuse_process(Finding::new(reason, remedy));
    }
    // Others may be in what these are below.
    let own = nest.spaces.len();
    for member in &home.members {
        drop(nest.add(*member));
    }
    for space in nest.spaces.iter().take(own) {
        if let Some(Some(Misfit { reason, remedy })) = subject.read("namespaces", space.judge()) {
            subject.refuse_process(Finding::new(reason, remedy));
        }
    }
}

/// Mount namespaces of the job that cannot be made anew.
pub(super) fn mounts(init: HostPid, atlas: &Atlas) -> Vec<Obstacle> {
    if atlas.lands().is_empty() {
        return Vec::new();
    }
    // An error: the init has ended.
    let misfits = mount_tree::judge(init, atlas).unwrap_or_default();
    let misfits = misfits.into_iter().map(|misfit| Obstacle {
        pid: None,
        object: "mount namespace".to_owned(),
        reason: misfit.reason,
        remedy: misfit.remedy.to_owned(),
        transient: false,
    });
    misfits.collect()
}

/// Its parent is the init or another process of the job.
pub(super) fn check_parent(subject: &mut Subject, scope: Scope, tree: &[(HostPid, Pid)]) {
    let host = subject.host;
    let member = |tree: &[(HostPid, Pid)]| tree.iter().any(|(member, _)| *member == host);
    // It may be younger than the list.
    if member(tree) || member(&process::tree(scope)) || process::stat(host).is_err() {
        return;
    }
    subject.refuse_process(stranger());
}

/// A process that came into the capsule from outside.
pub(super) fn stranger() -> Finding {
    Finding::new(
        "its parent is outside of the job: it came in with nsenter or setns",
        "end it, or start it from a program of the job",
    )
}

fn foreign(name: &str) -> Finding {
    Finding::new(
        format!("it is in another {name} namespace than its job"),
        "start the program without unshare or a container of its own",
    )
}

/// Where a namespace link points to.
pub(super) fn link(task: HostPid, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{task}/ns/{name}")).ok()
}

/// The path in the cgroup v2 hierarchy, if there is one.
fn group(task: HostPid) -> Option<String> {
    let text = process::small_file(task, "cgroup").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}
