//! Namespaces that the job has made inside of its capsule.

use serde::{Deserialize, Serialize};

use super::{Mount, Pid, SystemV};

/// Index into [`super::JobImage::namespaces`].
pub type NamespaceId = u32;

/// A namespace other than the capsule's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The user namespace that owns it; of a user namespace: its parent. `None`
    /// for the capsule's. Always an index below its own.
    pub owner: Option<NamespaceId>,
    /// What it is, and what is in it.
    pub kind: NamespaceKind,
}

/// What a namespace is, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// CLONE_NEWUSER.
    User(UserNamespace),
    /// CLONE_NEWUTS.
    Uts {
        /// utsname nodename.
        hostname: String,
        /// utsname domainname.
        domainname: String,
    },
    /// CLONE_NEWIPC.
    Ipc(SystemV),
    /// CLONE_NEWNET, with a loopback device and no other.
    Net {
        /// Whether `lo` is up.
        loopback_up: bool,
    },
    /// CLONE_NEWCGROUP; its root is the control group of the job.
    Cgroup,
    /// CLONE_NEWNS: its mounts, each after the one that it is on. The first is the root.
    Mount(Vec<Mount>),
    /// CLONE_NEWTIME.
    Time(ClockShift),
}

/// By how much the clocks of a time namespace differ from [`super::CapsuleImage::clocks`], which
/// are those of the job's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockShift {
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: i64,
    /// CLOCK_BOOTTIME.
    pub boottime_ns: i64,
}

/// Who is who in a user namespace. IDs outside are those of the capsule's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Who made it and has all rights over it in its parent.
    pub owner_uid: u32,
    /// /proc/PID/uid_map.
    pub uids: Vec<IdRange>,
    /// /proc/PID/gid_map.
    pub gids: Vec<IdRange>,
    /// /proc/PID/setgroups: whether setgroups(2) is allowed.
    pub setgroups: bool,
}

/// A line of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First ID inside.
    pub inside: u32,
    /// The ID that it is in the capsule's user namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// In which namespaces a process is; `None` for the capsule's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    /// /proc/PID/ns/user.
    pub user: Option<NamespaceId>,
    /// /proc/PID/ns/uts.
    pub uts: Option<NamespaceId>,
    /// /proc/PID/ns/ipc.
    pub ipc: Option<NamespaceId>,
    /// /proc/PID/ns/net.
    pub net: Option<NamespaceId>,
    /// /proc/PID/ns/cgroup.
    pub cgroup: Option<NamespaceId>,
    /// /proc/PID/ns/mnt.
    pub mount: Option<NamespaceId>,
    /// /proc/PID/ns/time; `None` for that of the job's first process.
    pub time: Option<NamespaceId>,
}

/// How the clocks of a process differ from the job's.
#[must_use]
pub fn clock_shift(membership: &Membership, namespaces: &[Namespace]) -> ClockShift {
    let found = membership.time.and_then(|id| namespaces.get(id as usize));
    match found.map(|namespace| &namespace.kind) {
        Some(NamespaceKind::Time(shift)) => *shift,
        _ => ClockShift::default(),
    }
}

/// A pid namespace below the capsule's, by number. They are no objects: the
/// first process in one has the ID 1 there, and makes it by being born.
pub type PidSpace = u32;

/// IDs in the pid namespaces below the capsule's, the outermost first; empty where
/// there are none. An ID whose owner cannot be seen from in there is 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InnerIds {
    /// The innermost.
    pub space: Option<PidSpace>,
    /// Process IDs.
    pub pid: Vec<Pid>,
    /// Those of its process group.
    pub group: Vec<Pid>,
    /// Those of its session.
    pub session: Vec<Pid>,
}

/// The pid namespace that the next child of a process is born in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ChildSpace {
    /// Its own.
    #[default]
    Own,
    /// One that nobody is in yet: the child will be pid 1.
    Fresh,
    /// One that children of it are in.
    Of(PidSpace),
}
