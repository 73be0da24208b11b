//! The namespaces that the job has made, with what is in them.

use std::collections::BTreeMap;

use super::{
    CaptureError, SharedRegistry, freeze::FrozenProcess, hindrance::obstacle, names, system_v,
};
use crate::{
    api::Obstacle,
    image::{Membership, Namespace, NamespaceKind, Pid},
    inspect::nest::{Kind, Nest, Space},
    sys::HostPid,
};

/// The namespaces of a tree, and who is where.
pub(super) struct Nested {
    pub(super) spaces: Vec<Namespace>,
    memberships: BTreeMap<Pid, Membership>,
}

impl Nested {
    /// Where a live process is.
    pub(super) fn of(&self, pid: Pid) -> Membership {
        self.memberships.get(&pid).copied().unwrap_or_default()
    }
}

pub(super) fn capture(
    keeper: HostPid,
    processes: &[FrozenProcess],
) -> Result<Nested, CaptureError> {
    let mut nest = Nest::new(keeper);
    let mut memberships = BTreeMap::new();
    for process in processes {
        for (index, thread) in process.threads.iter().enumerate() {
            let host = thread.stopped.thread();
            let membership = nest.add(host);
            let membership = membership.map_err(CaptureError::proc(host, "namespaces"))?;
            if index == 0 {
                memberships.insert(process.pid, membership);
            } else if memberships.get(&process.pid) != Some(&membership) {
                return Err(obstacle(apart(process.pid, thread.tid)));
            }
            let leader = &process.threads[0].status;
            let ids = |status: &crate::inspect::process::Status| {
                (status.uids, status.gids, status.groups.clone())
            };
            if membership.user.is_some() && ids(leader) != ids(&thread.status) {
                return Err(obstacle(other_user(process.pid, thread.tid)));
            }
        }
    }
    let pid_of = |host| {
        let holder = processes.iter().find(|one| one.host == host);
        holder.map_or(host.raw(), |one| one.pid)
    };
    let mut spaces = Vec::new();
    for space in &nest.spaces {
        let witness = space.witness.unwrap_or(keeper);
        let failed = |what| CaptureError::proc(witness, what);
        if let Some(misfit) = space.judge().map_err(failed("namespaces"))? {
            return Err(obstacle(Obstacle {
                pid: Some(pid_of(witness)),
                object: format!("{} namespace", space.kind.name()),
                reason: misfit.reason,
                remedy: misfit.remedy.to_owned(),
                transient: false,
            }));
        }
        spaces.push(Namespace {
            owner: space.owner,
            kind: contents(space, witness, processes)?,
        });
    }
    Ok(Nested {
        spaces,
        memberships,
    })
}

fn contents(
    space: &Space,
    witness: HostPid,
    processes: &[FrozenProcess],
) -> Result<NamespaceKind, CaptureError> {
    let failed = |what| CaptureError::proc(witness, what);
    Ok(match space.kind {
        Kind::User => NamespaceKind::User(space.user().map_err(failed("the user namespace"))?),
        Kind::Uts => {
            let names = names::of(witness).map_err(failed("the uts namespace"))?;
            NamespaceKind::Uts {
                hostname: names.0,
                domainname: names.1,
            }
        }
        Kind::Ipc => {
            let live = processes.iter().filter(|one| !one.threads.is_empty());
            let live: Vec<_> = live.map(|one| (one.pid, one.host)).collect();
            // There are no segments: judged before.
            let mut none = SharedRegistry::new();
            NamespaceKind::Ipc(system_v::capture(witness, &live, &live, &mut none)?)
        }
        Kind::Net => NamespaceKind::Net {
            loopback_up: space
                .loopback_is_up()
                .map_err(failed("the network namespace"))?,
        },
        Kind::Cgroup => NamespaceKind::Cgroup,
    })
}

fn apart(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason: "it is in other namespaces than its process".to_owned(),
        remedy: "let the program unshare before it starts threads".to_owned(),
        transient: false,
    }
}

fn other_user(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason: "in a user namespace of the job it has other user or group IDs than its process"
            .to_owned(),
        remedy: "let all threads of the program have the same IDs".to_owned(),
        transient: false,
    }
}
