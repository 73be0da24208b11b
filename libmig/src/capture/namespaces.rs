//! The namespaces that the job has made, with what is in them.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd, sync::Arc};

use super::{
    CaptureError, SharedRegistry, clock::JobClock, freeze::FrozenProcess, hindrance::obstacle,
    mounts, names, system_v,
};
use crate::{
    api::Obstacle,
    image::{
        self, ChildSpace, ClockShift, FileSystem, InnerIds, Membership, Namespace, NamespaceKind,
        Pid,
    },
    inspect::{
        atlas::Atlas,
        nest::{Kind, Nest, Space},
        pid_spaces::{self, Resident, misfit_of_threads},
        process::Status,
    },
    sys::HostPid,
};

/// The namespaces of a tree, and who is where.
pub(super) struct Nested {
    pub(super) spaces: Vec<Namespace>,
    memberships: BTreeMap<Pid, Membership>,
    residents: Vec<Resident>,
    /// Where names are looked up.
    pub(super) atlas: Arc<Atlas>,
    /// File systems in mount namespaces.
    pub(super) systems: Vec<FileSystem>,
}

impl Nested {
    /// Where a live process is.
    pub(super) fn of(&self, pid: Pid) -> Membership {
        self.memberships.get(&pid).copied().unwrap_or_default()
    }

    /// How the clocks of a live process differ from the job's.
    pub(super) fn clock_shift(&self, pid: Pid) -> ClockShift {
        image::clock_shift(&self.of(pid), &self.spaces)
    }

    /// What a process is in the pid namespaces below the capsule's.
    pub(super) fn inner(&self, process: &FrozenProcess, status: &Status) -> InnerIds {
        let below = |ids: &[Pid]| ids.get(process.level + 1..).unwrap_or_default().to_vec();
        let resident = self.residents.iter().find(|one| one.pid == process.pid);
        InnerIds {
            space: resident.and_then(|one| one.space),
            pid: below(&status.ns_pid),
            group: below(&status.ns_pgid),
            session: below(&status.ns_sid),
        }
    }

    /// Where the children of a process are born.
    pub(super) fn child_space(&self, pid: Pid) -> ChildSpace {
        let resident = self.residents.iter().find(|one| one.pid == pid);
        resident.map_or(ChildSpace::Own, |one| one.children)
    }
}

pub(super) fn capture(
    keeper: HostPid,
    processes: &[FrozenProcess],
    home: OwnedFd,
    shared: &mut SharedRegistry,
) -> Result<Nested, CaptureError> {
    let mut nest = Nest::new(keeper);
    let mut atlas = Atlas::new(home);
    let mut memberships = BTreeMap::new();
    for process in processes {
        for (index, thread) in process.threads.iter().enumerate() {
            let host = thread.stopped.thread();
            let membership = nest.add(host);
            let membership = membership.map_err(CaptureError::proc(host, "namespaces"))?;
            if time_is_apart(host) {
                return Err(obstacle(apart_in_time(process.pid)));
            }
            let looked = atlas.add(&nest, &membership);
            looked.map_err(CaptureError::proc(host, "mountinfo"))?;
            if index == 0 {
                memberships.insert(process.pid, membership);
            } else if memberships.get(&process.pid) != Some(&membership) {
                return Err(obstacle(apart(process.pid, thread.tid)));
            }
            let leader = &process.threads[0].status;
            let ids = |status: &Status| (status.uids, status.gids, status.groups.clone());
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
    let residents = residents(keeper, processes)?;
    for process in processes.iter().filter(|one| one.threads.len() > 1) {
        let deep = |one: &Resident| one.pid == process.pid && one.space.is_some();
        let user = memberships.get(&process.pid).and_then(|one| one.user);
        if user.is_some() && residents.iter().any(deep) {
            return Err(obstacle(Obstacle {
                pid: Some(process.pid),
                object: format!("process {}", process.pid),
                reason: misfit_of_threads().reason,
                remedy: misfit_of_threads().remedy.to_owned(),
                transient: false,
            }));
        }
    }
    let hosts = residents.iter().map(|one| (one.host, one.space));
    let pid_spaces = mounts::pid_spaces(keeper, hosts);
    let systems = mounts::capture(keeper, &atlas, &pid_spaces, &mut spaces, shared)?;
    let atlas = Arc::new(atlas);
    shared.set_atlas(Arc::clone(&atlas));
    Ok(Nested {
        spaces,
        memberships,
        residents,
        atlas,
        systems,
    })
}

/// Who is in which pid namespace.
fn residents(keeper: HostPid, processes: &[FrozenProcess]) -> Result<Vec<Resident>, CaptureError> {
    let tree: Vec<_> = processes.iter().map(|one| (one.host, one.pid)).collect();
    let residents =
        pid_spaces::survey(keeper, &tree).map_err(CaptureError::proc(keeper, "pid namespaces"))?;
    match pid_spaces::misfits(&residents).into_iter().next() {
        None => Ok(residents),
        Some((pid, misfit)) => Err(obstacle(Obstacle {
            pid: Some(pid),
            object: format!("process {pid}"),
            reason: misfit.reason,
            remedy: misfit.remedy.to_owned(),
            transient: false,
        })),
    }
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
        // Filled when all namespaces are known.
        Kind::Mount => NamespaceKind::Mount(Vec::new()),
        Kind::Time => {
            let mut live = processes.iter().filter(|one| !one.threads.is_empty());
            let base = live.next().map_or(witness, |first| first.host);
            let shift = JobClock::shift(witness, base);
            NamespaceKind::Time(shift.map_err(failed("timens_offsets"))?)
        }
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

/// /proc tells the offsets of the namespace that the children are to be in.
fn time_is_apart(thread: HostPid) -> bool {
    let link = |name| fs::read_link(format!("/proc/{thread}/ns/{name}")).ok();
    link("time") != link("time_for_children")
}

fn apart_in_time(pid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: "its children are to be in another time namespace".to_owned(),
        remedy: "start the program without unshare --fork and --time at once".to_owned(),
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
