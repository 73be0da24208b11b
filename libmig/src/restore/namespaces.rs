//! Namespaces that the job had made: made anew by *makers*, husks that enter the
//! namespace above, unshare, and end when the daemon holds what they have made.
//! A process of the job enters them last of all, when it needs nothing more that
//! only the capsule's rights give (`join`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::{AsRawFd, RawFd},
};

use rustix::thread::LinkNameSpaceType;

use super::{
    clocks::{self, Offsets},
    error::{self, RestoreError, remote},
    mounts::Mounts,
    remains::Remains,
    shm::Files,
    system_v,
    task::Task,
    thread::clone3,
};
use crate::{
    api::Obstacle,
    image::{
        ClockShift, IdRange, JobImage, Membership, Namespace, NamespaceId, NamespaceKind, Pid,
        UserNamespace,
    },
    inspect::visit,
    sys::{
        HostPid, namespace,
        remote::{Arg, Batch, Injector},
    },
};

const CLONE_NEWTIME: u64 = 0x80;
const CLONE_NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
const PR_SET_SECUREBITS: u64 = 28;
/// SECBIT_NO_SETUID_FIXUP: a change of user IDs leaves the capabilities alone.
const NO_SETUID_FIXUP: u64 = 1 << 2;

/// The namespaces of a job, open.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    made: Vec<(u64, File)>,
    pub(super) mounts: Mounts,
    /// Of time namespaces, by their numbers.
    shifts: BTreeMap<NamespaceId, ClockShift>,
}

/// What makers are made of.
pub(super) struct Means<'a> {
    pub(super) zygote: &'a mut Task,
    pub(super) injector: Injector,
    /// The husks' descriptor that stands for the daemon.
    pub(super) daemon: i32,
    pub(super) remains: &'a mut Remains,
    /// Of the job's clocks.
    pub(super) offsets: Offsets,
}

impl Namespaces {
    /// Makes all of an image, owners before what they own.
    pub(super) fn make(
        image: &JobImage,
        means: &mut Means<'_>,
        files: &mut Files,
    ) -> Result<Self, RestoreError> {
        let mut all = Self::default();
        let is_mount = |one: &Namespace| matches!(one.kind, NamespaceKind::Mount(_));
        if image.namespaces.iter().any(is_mount) {
            all.mounts = Mounts::make(means.stage()?, image, files)?;
        }
        for (id, wanted) in (0..).zip(&image.namespaces) {
            check(id, wanted, &image.namespaces)?;
            let pid = means.zygote.id.saturating_add(1);
            let mut maker = means.spawn(pid)?;
            let made = all.one(&mut maker, wanted, image, means);
            means.dismiss(maker)?;
            let (flag, file) = made?;
            if let NamespaceKind::Mount(mounts) = &wanted.kind {
                all.mounts.fill(id, &file, mounts, &image.systems)?;
            }
            if let NamespaceKind::Time(shift) = &wanted.kind {
                all.shifts.insert(id, *shift);
            }
            all.made.push((flag, file));
        }
        all.mounts.reopen(image, files);
        Ok(all)
    }

    fn one(
        &self,
        maker: &mut Task,
        wanted: &Namespace,
        image: &JobImage,
        means: &mut Means<'_>,
    ) -> Result<(u64, File), RestoreError> {
        let (flag, link) = kind(&wanted.kind);
        let mut batch = Batch::new();
        if let NamespaceKind::User(user) = &wanted.kind {
            become_owner(&mut batch, user.owner_uid, group(wanted.owner, image));
        }
        if let (NamespaceKind::Mount(_), Some(stage)) = (&wanted.kind, self.mounts.stage()) {
            enter(&mut batch, (flag, stage), means.daemon.into());
        }
        if let Some(owner) = wanted.owner {
            self.enter(&mut batch, owner, means.daemon.into());
        }
        batch.call(libc::SYS_unshare, &[flag.into()]);
        maker.run(means.injector, &batch, "make a namespace of the job")?;
        let path = format!("/proc/{}/ns/{link}", maker.host());
        let file = File::open(&path).map_err(error::host(format!("open {path}")))?;
        self.fill(maker, wanted, &file, image, means)?;
        Ok((flag, file))
    }

    /// Calls that take a husk into a namespace.
    fn enter(&self, batch: &mut Batch, id: NamespaceId, daemon: Arg) {
        if let Some((flag, file)) = self.made.get(id as usize) {
            enter(batch, (*flag, file), daemon);
        }
    }

    /// A namespace, open.
    pub(super) fn file(&self, id: NamespaceId) -> Option<&File> {
        self.made.get(id as usize).map(|(_, file)| file)
    }

    fn fill(
        &self,
        maker: &Task,
        wanted: &Namespace,
        file: &File,
        image: &JobImage,
        means: &mut Means<'_>,
    ) -> Result<(), RestoreError> {
        let network = |work: fn() -> io::Result<()>| {
            visit::within(file, LinkNameSpaceType::Network, work)
                .map_err(error::host("bring the loopback device of the job up"))
        };
        match &wanted.kind {
            // Of a mount namespace, see `Mounts::fill`.
            NamespaceKind::Cgroup
            | NamespaceKind::Mount(_)
            | NamespaceKind::Net { loopback_up: false } => Ok(()),
            NamespaceKind::Net { loopback_up: true } => network(namespace::raise_loopback),
            NamespaceKind::Time(shift) => {
                clocks::write(maker.host(), means.offsets.shifted(*shift))
                    .map_err(error::host("set the clocks of a time namespace of the job"))
            }
            NamespaceKind::Ipc(objects) => system_v::make_plain(maker.host(), objects),
            NamespaceKind::Uts {
                hostname,
                domainname,
            } => visit::within(file, LinkNameSpaceType::HostNameAndNISDomainName, || {
                rustix::system::sethostname(hostname.as_bytes())?;
                Ok(rustix::system::setdomainname(domainname.as_bytes())?)
            })
            .map_err(error::host("set the host name of the job")),
            NamespaceKind::User(user) => self.map(maker, wanted.owner, user, image, means),
        }
    }

    /// Writes the maps of a user namespace. The kernel takes them from the namespace above
    /// alone: below the capsule's, another husk has to go there.
    fn map(
        &self,
        maker: &Task,
        owner: Option<NamespaceId>,
        user: &UserNamespace,
        image: &JobImage,
        means: &mut Means<'_>,
    ) -> Result<(), RestoreError> {
        let mut files = Vec::new();
        if !user.setgroups {
            files.push(("setgroups", "deny".to_owned()));
        }
        for (name, map, above) in [
            (
                "uid_map",
                &user.uids,
                above(owner, image, |user| &user.uids),
            ),
            (
                "gid_map",
                &user.gids,
                above(owner, image, |user| &user.gids),
            ),
        ] {
            if !map.is_empty() {
                files.push((name, text(map, above)?));
            }
        }
        let Some(owner) = owner else {
            return files.iter().try_for_each(|(name, text)| {
                let path = format!("/proc/{}/{name}", maker.host());
                fs::write(&path, text).map_err(error::host(format!("write {path}")))
            });
        };
        let mut clerk = means.spawn(means.zygote.id.saturating_add(2))?;
        let mut batch = Batch::new();
        self.enter(&mut batch, owner, means.daemon.into());
        for (name, text) in files {
            let path = batch.string(format!("/proc/{}/{name}", maker.id).as_bytes());
            let flags = [
                libc::AT_FDCWD.into(),
                path.into(),
                libc::O_WRONLY.into(),
                0.into(),
            ];
            let fd = Arg::Result(batch.call(libc::SYS_openat, &flags));
            let bytes = batch.data(text.as_bytes());
            let length = text.len() as u64;
            batch.call(libc::SYS_write, &[fd, bytes.into(), length.into()]);
            batch.call(libc::SYS_close, &[fd]);
        }
        let done = clerk.run(means.injector, &batch, "map the users of the job");
        means.dismiss(clerk)?;
        done.map(drop)
    }

    /// Calls that take a process into its namespaces; the user namespace apart.
    pub(super) fn join(&self, batch: &mut Batch, membership: &Membership, daemon: Arg) {
        let Membership {
            user: _,
            uts,
            ipc,
            net,
            cgroup,
            mount,
            time: _,
        } = membership;
        for id in [uts, ipc, net, cgroup, mount].into_iter().flatten() {
            self.enter(batch, *id, daemon);
        }
    }

    /// How the clocks of a process differ from the job's.
    pub(super) fn shift(&self, membership: &Membership) -> ClockShift {
        let found = membership.time.and_then(|id| self.shifts.get(&id));
        found.copied().unwrap_or_default()
    }

    /// The time namespace of a process, if it is not that of the job's first one.
    pub(super) fn time(&self, membership: &Membership) -> Option<&File> {
        self.file(membership.time?)
    }

    /// Calls that take a process into its user namespace. It has all rights there, and
    /// no other right any more.
    pub(super) fn join_user(&self, batch: &mut Batch, membership: &Membership, daemon: Arg) {
        if let Some(user) = membership.user {
            self.enter(batch, user, daemon);
        }
    }
}

impl Means<'_> {
    /// A copy of the capsule's mount namespace.
    fn stage(&mut self) -> Result<File, RestoreError> {
        let mut maker = self.spawn(self.zygote.id.saturating_add(1))?;
        let mut batch = Batch::new();
        let flag = libc::CLONE_NEWNS as u64;
        batch.call(libc::SYS_unshare, &[flag.into()]);
        let made = maker.run(self.injector, &batch, "make a namespace of the job");
        let path = format!("/proc/{}/ns/mnt", maker.host());
        let file = File::open(&path).map_err(error::host(format!("open {path}")));
        self.dismiss(maker)?;
        made?;
        file
    }

    /// A husk that is the init's child, so that nobody has to wait for it.
    fn spawn(&mut self, pid: Pid) -> Result<Task, RestoreError> {
        const STEP: &str = "make a namespace of the job";
        let mut batch = Batch::new();
        clone3(&mut batch, libc::CLONE_PARENT, 0, &[pid]);
        let results = self
            .injector
            .run(&mut self.zygote.stopped, &batch)
            .map_err(remote(self.zygote.id, STEP))?;
        results.complete().map_err(remote(pid, STEP))?;
        let born = *results.children().first().ok_or_else(|| {
            let missing = io::Error::other("no process was born");
            error::host("make a namespace of the job")(missing)
        })?;
        self.remains.add(born);
        Task::born(pid, born)
    }

    fn dismiss(&mut self, mut husk: Task) -> Result<(), RestoreError> {
        husk.exit(self.injector, Batch::new(), 0)?;
        self.remains.forget(husk.host());
        wait_gone(husk.host());
        Ok(())
    }
}

/// Waits until the init has reaped a husk: its number is used again.
fn wait_gone(husk: HostPid) {
    use std::time::{Duration, Instant};
    let deadline = Instant::now() + Duration::from_secs(1);
    while crate::inspect::process::stat(husk).is_ok() && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Calls that take a husk into a namespace of the daemon's.
fn enter(batch: &mut Batch, (flag, file): (u64, &File), daemon: Arg) {
    let fetched = fetch(batch, daemon, file.as_raw_fd());
    batch.call(libc::SYS_setns, &[fetched, flag.into()]);
    batch.call(libc::SYS_close, &[fetched]);
}

fn fetch(batch: &mut Batch, daemon: Arg, fd: RawFd) -> Arg {
    let slot = batch.call(libc::SYS_pidfd_getfd, &[daemon, fd.into(), 0u64.into()]);
    Arg::Result(slot)
}

/// Calls of the zygote after which the next task of the capsule has the ID `id`, whoever makes
/// it: in a user namespace of the job, nobody may choose the IDs of the capsule.
pub(super) fn announce(batch: &mut Batch, id: Pid) {
    let path = batch.string(b"/proc/sys/kernel/ns_last_pid");
    let flags = [
        libc::AT_FDCWD.into(),
        path.into(),
        libc::O_WRONLY.into(),
        0.into(),
    ];
    let fd = Arg::Result(batch.call(libc::SYS_openat, &flags));
    let last = id.saturating_sub(1).to_string();
    let bytes = batch.data(last.as_bytes());
    batch.call(
        libc::SYS_write,
        &[fd, bytes.into(), (last.len() as u64).into()],
    );
    batch.call(libc::SYS_close, &[fd]);
}

const fn kind(kind: &NamespaceKind) -> (u64, &'static str) {
    match kind {
        NamespaceKind::User(_) => (CLONE_NEWUSER, "user"),
        NamespaceKind::Uts { .. } => (libc::CLONE_NEWUTS as u64, "uts"),
        NamespaceKind::Ipc(_) => (libc::CLONE_NEWIPC as u64, "ipc"),
        NamespaceKind::Net { .. } => (libc::CLONE_NEWNET as u64, "net"),
        NamespaceKind::Cgroup => (libc::CLONE_NEWCGROUP as u64, "cgroup"),
        NamespaceKind::Mount(_) => (libc::CLONE_NEWNS as u64, "mnt"),
        NamespaceKind::Time(_) => (CLONE_NEWTIME, "time_for_children"),
    }
}

/// The owner of a user namespace is who unshares it: a user whom the namespace above knows.
fn become_owner(batch: &mut Batch, uid: u32, gid: u32) {
    let five = [PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0].map(Arg::Value);
    batch.call(libc::SYS_prctl, &five);
    batch.call(libc::SYS_setresgid, &[gid.into(), gid.into(), gid.into()]);
    batch.call(libc::SYS_setresuid, &[uid.into(), uid.into(), uid.into()]);
}

/// A group that a user namespace knows.
fn group(namespace: Option<NamespaceId>, image: &JobImage) -> u32 {
    let map = above(namespace, image, |user| &user.gids);
    map.and_then(|map| map.first())
        .map_or(0, |range| range.outside)
}

/// A map of the user namespace `id`; `None` for the capsule's.
fn above(
    id: Option<NamespaceId>,
    image: &JobImage,
    map: fn(&UserNamespace) -> &Vec<IdRange>,
) -> Option<&Vec<IdRange>> {
    match &image.namespaces.get(id? as usize)?.kind {
        NamespaceKind::User(user) => Some(map(user)),
        _ => None,
    }
}

/// A map as it is written: with IDs of the namespace above.
fn text(map: &[IdRange], above: Option<&Vec<IdRange>>) -> Result<String, Obstacle> {
    let mut text = String::new();
    for range in map {
        let outside = match above {
            None => Some(range.outside),
            Some(above) => above.iter().find_map(|known| {
                let offset = range.outside.checked_sub(known.outside)?;
                let within = offset.checked_add(range.count)? <= known.count;
                within.then(|| known.inside.checked_add(offset))?
            }),
        };
        let outside = outside.ok_or_else(|| odd("maps users that the one above does not have"))?;
        text += &format!("{} {outside} {}\n", range.inside, range.count);
    }
    Ok(text)
}

/// An owner is a user namespace that is made before.
fn check(id: NamespaceId, wanted: &Namespace, all: &[Namespace]) -> Result<(), Obstacle> {
    let Some(owner) = wanted.owner else {
        return Ok(());
    };
    let found = all.get(owner as usize).map(|found| &found.kind);
    if owner < id && matches!(found, Some(NamespaceKind::User(_))) {
        Ok(())
    } else {
        Err(odd("has an owner that is none"))
    }
}

fn odd(reason: &str) -> Obstacle {
    Obstacle {
        pid: None,
        object: "namespace".into(),
        reason: reason.into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn maps_are_written_with_the_ids_of_the_namespace_above() {
        let map = [range(0, 1005, 2)];
        assert_eq!(text(&map, None).unwrap(), "0 1005 2\n");
        let above = vec![range(0, 500, 1), range(100, 1000, 10)];
        assert_eq!(text(&map, Some(&above)).unwrap(), "0 105 2\n");
        assert!(text(&[range(0, 1005, 6)], Some(&above)).is_err());
        assert!(text(&[range(0, 2, 1)], Some(&above)).is_err());
    }

    #[test]
    fn an_owner_is_a_user_namespace_made_before() {
        let user = Namespace {
            owner: None,
            kind: NamespaceKind::User(UserNamespace::default()),
        };
        let cgroup = |owner| Namespace {
            owner,
            kind: NamespaceKind::Cgroup,
        };
        let all = [cgroup(None), user, cgroup(Some(1))];
        assert!(check(2, &cgroup(Some(1)), &all).is_ok());
        for owner in [0, 2, 9] {
            assert!(check(2, &cgroup(Some(owner)), &all).is_err());
        }
        assert!(check(0, &cgroup(Some(1)), &all).is_err());
    }
}
