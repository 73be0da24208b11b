//! Namespaces that a job has made inside of its capsule: which there are, who
//! owns them, who is in them, and whether what is in them can travel.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
};

use rustix::thread::LinkNameSpaceType;

use super::{system_v, text, visit};
use crate::{
    image::{IdRange, Membership, NamespaceId, UserNamespace},
    sys::{HostPid, namespace},
};

/// A kind of namespace that may be nested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// CLONE_NEWUSER.
    User,
    /// CLONE_NEWUTS.
    Uts,
    /// CLONE_NEWIPC.
    Ipc,
    /// CLONE_NEWNET.
    Net,
    /// CLONE_NEWCGROUP.
    Cgroup,
    /// CLONE_NEWNS.
    Mount,
    /// CLONE_NEWTIME. The job's own is that of its first process, not of the capsule's init.
    Time,
}

/// All of them.
pub const KINDS: [Kind; 7] = [
    Kind::User,
    Kind::Uts,
    Kind::Ipc,
    Kind::Net,
    Kind::Cgroup,
    Kind::Mount,
    Kind::Time,
];

impl Kind {
    /// The name in `/proc/PID/ns`.
    #[must_use]
    pub const fn link(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Net => "net",
            Self::Cgroup => "cgroup",
            Self::Mount => "mnt",
            Self::Time => "time",
        }
    }

    /// The name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Net => "network",
            Self::Mount => "mount",
            other => other.link(),
        }
    }

    const fn seat(self, membership: &mut Membership) -> &mut Option<NamespaceId> {
        match self {
            Self::User => &mut membership.user,
            Self::Uts => &mut membership.uts,
            Self::Ipc => &mut membership.ipc,
            Self::Net => &mut membership.net,
            Self::Cgroup => &mut membership.cgroup,
            Self::Mount => &mut membership.mount,
            Self::Time => &mut membership.time,
        }
    }
}

/// A nested namespace.
#[derive(Debug)]
pub struct Space {
    /// What it is.
    pub kind: Kind,
    /// It, open.
    pub file: File,
    /// The user namespace that owns it; of a user namespace: its parent.
    pub owner: Option<NamespaceId>,
    /// A process in it; `None` where the job has none in it any more.
    pub witness: Option<HostPid>,
    inode: u64,
}

/// The nested namespaces of a tree, owners before what they own. A
/// [`NamespaceId`] is an index.
#[derive(Debug)]
pub struct Nest {
    /// The capsule's, in the order of [`KINDS`]; `None` where there is none, or
    /// the init has ended.
    home: [Option<u64>; KINDS.len()],
    /// The others.
    pub spaces: Vec<Space>,
}

impl Nest {
    /// Nothing is nested yet. `keeper` has the namespaces of the capsule.
    #[must_use]
    pub fn new(keeper: HostPid) -> Self {
        Self {
            home: KINDS.map(|kind| match kind {
                Kind::Time => None,
                _ => inode(keeper, kind).ok(),
            }),
            spaces: Vec::new(),
        }
    }

    /// The first of these that lives says which time namespace is the job's. Without this, the first that is added.
    pub fn take_clocks(&mut self, members: &[HostPid]) {
        let time = |member: &HostPid| inode(*member, Kind::Time).ok();
        if let (Some(home), Some(found)) = (self.home.last_mut(), members.iter().find_map(time)) {
            *home = Some(found);
        }
    }

    /// Notes the namespaces of a thread.
    ///
    /// # Errors
    /// It is gone, or in a user namespace that is not below the capsule's (EPERM).
    pub fn add(&mut self, thread: HostPid) -> io::Result<Membership> {
        let mut membership = Membership::default();
        for (at, kind) in KINDS.into_iter().enumerate() {
            let Some(home) = self.home[at] else {
                if kind == Kind::Time {
                    self.home[at] = inode(thread, kind).ok();
                }
                continue;
            };
            let inode = inode(thread, kind)?;
            if inode == home {
                continue;
            }
            let known = self.find(inode, kind);
            let id = match known {
                Some(id) => id,
                None => self.enter(kind, File::open(path(thread, kind))?)?,
            };
            let space = &mut self.spaces[id as usize];
            space.witness = space.witness.or(Some(thread));
            *kind.seat(&mut membership) = Some(id);
        }
        Ok(membership)
    }

    fn find(&self, inode: u64, kind: Kind) -> Option<NamespaceId> {
        let same = |space: &Space| space.inode == inode && space.kind == kind;
        let index = self.spaces.iter().position(same)?;
        NamespaceId::try_from(index).ok()
    }

    /// A namespace that is new, and the user namespaces above it.
    fn enter(&mut self, kind: Kind, file: File) -> io::Result<NamespaceId> {
        let above = File::from(namespace::owner(&file)?);
        let inode = above.metadata()?.ino();
        let owner = if Some(inode) == self.home[0] {
            None
        } else {
            Some(match self.find(inode, Kind::User) {
                Some(id) => id,
                None => self.enter(Kind::User, above)?,
            })
        };
        self.spaces.push(Space {
            kind,
            inode: file.metadata()?.ino(),
            file,
            owner,
            witness: None,
        });
        Ok(NamespaceId::try_from(self.spaces.len() - 1).unwrap_or(NamespaceId::MAX))
    }
}

fn path(thread: HostPid, kind: Kind) -> String {
    format!("/proc/{thread}/ns/{}", kind.link())
}

fn inode(thread: HostPid, kind: Kind) -> io::Result<u64> {
    Ok(fs::metadata(path(thread, kind))?.ino())
}

/// Why what is in a namespace cannot travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// What is the matter, a lower-case fragment.
    pub reason: String,
    /// What the user can do.
    pub remedy: &'static str,
}

impl Space {
    /// Whether all that is in it travels.
    ///
    /// # Errors
    /// A process in it is gone, or the kernel does not tell.
    pub fn judge(&self) -> io::Result<Option<Misfit>> {
        let misfit = |reason: String, remedy| Ok(Some(Misfit { reason, remedy }));
        // A user namespace that only others are below: bubblewrap leaves one behind.
        let Some(witness) = self.witness else {
            return Ok(None);
        };
        match self.kind {
            // Of mounts, see `mount_tree`.
            Kind::Uts | Kind::User | Kind::Mount | Kind::Time => Ok(None),
            Kind::Net => match self.devices(witness)?.first() {
                Some(device) => misfit(
                    format!(
                        "its network namespace has a device {device}; only a loopback device moves"
                    ),
                    "start the program without a network of its own",
                ),
                None => Ok(None),
            },
            Kind::Cgroup if !self.is_rooted_at(witness)? => misfit(
                "its cgroup namespace is not rooted at the control group of its job".to_owned(),
                "start the program without a cgroup namespace of its own",
            ),
            Kind::Cgroup => Ok(None),
            Kind::Ipc => self.judge_ipc(),
        }
    }

    fn judge_ipc(&self) -> io::Result<Option<Misfit>> {
        let kind = LinkNameSpaceType::InterProcessCommunication;
        let segments = visit::within(&self.file, kind, || system_v::table("shm"));
        // A kernel without System V IPC has nothing of it.
        let segments = segments.unwrap_or_default();
        Ok(segments.first().map(|line| Misfit {
            reason: format!(
                "its ipc namespace has a System V shared memory segment {}, which does not move yet",
                line.object.id
            ),
            remedy: "use POSIX shared memory (shm_open)",
        }))
    }

    /// Devices that a fresh namespace does not have by itself.
    fn devices(&self, witness: HostPid) -> io::Result<Vec<String>> {
        let table = text::string(format!("/proc/{witness}/net/dev"))?;
        Ok(foreign_devices(&table))
    }

    fn is_rooted_at(&self, witness: HostPid) -> io::Result<bool> {
        // As seen from inside: the root is "/".
        let groups = visit::within(&self.file, LinkNameSpaceType::ControlGroup, || {
            text::string(format!("/proc/{witness}/cgroup"))
        })?;
        Ok(groups.lines().any(|line| line == "0::/"))
    }

    /// Whether `lo` is up, in a network namespace.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn loopback_is_up(&self) -> io::Result<bool> {
        visit::within(
            &self.file,
            LinkNameSpaceType::Network,
            namespace::loopback_is_up,
        )
    }

    /// The maps of a user namespace.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn user(&self) -> io::Result<UserNamespace> {
        match self.witness {
            Some(witness) => self.maps(witness),
            None => namespace::with_resident(&self.file, |resident| self.maps(resident))?,
        }
    }

    fn maps(&self, resident: HostPid) -> io::Result<UserNamespace> {
        let read = |name: &str| text::string(format!("/proc/{resident}/{name}"));
        let map = |name: &str| {
            parse_map(&read(name)?).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        Ok(UserNamespace {
            owner_uid: namespace::owner_uid(&self.file)?,
            uids: map("uid_map")?,
            gids: map("gid_map")?,
            setgroups: read("setgroups")?.trim() == "allow",
        })
    }
}

/// Names in `/proc/net/dev` but `lo` and the devices that the kernel puts into every
/// namespace when the modules of its tunnels are loaded.
fn foreign_devices(table: &str) -> Vec<String> {
    const BY_ITSELF: [&str; 10] = [
        "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
        "ip6gre0",
    ];
    let names = table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    names
        .map(|(name, _)| name.trim())
        .filter(|name| !BY_ITSELF.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Lines of three numbers.
fn parse_map(text: &str) -> Option<Vec<IdRange>> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse().ok());
        Some(IdRange {
            inside: numbers.next()??,
            outside: numbers.next()??,
            count: numbers.next()??,
        })
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::image::Membership;

    struct Reaped(Child);

    impl Drop for Reaped {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    /// A shell in namespaces of its own, which says so when it is there.
    fn nested(options: &[&str]) -> (Reaped, HostPid) {
        use std::io::BufRead;
        let mut child = Reaped(
            Command::new("unshare")
                .args(options)
                .args(["sh", "-c", "echo; exec cat"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        io::BufReader::new(child.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let host = HostPid::new(child.0.id().cast_signed());
        (child, host)
    }

    #[test]
    fn owners_come_before_what_they_own() {
        let (_child, host) = nested(&["--map-root-user", "--uts", "--net"]);
        let mut nest = Nest::new(HostPid::own());
        assert_eq!(nest.add(HostPid::own()).unwrap(), Membership::default());
        let membership = nest.add(host).unwrap();
        let expected = Membership {
            user: Some(0),
            uts: Some(1),
            net: Some(2),
            ..Membership::default()
        };
        assert_eq!(membership, expected);
        assert_eq!(nest.add(host).unwrap(), expected);
        let owners: Vec<_> = nest.spaces.iter().map(|space| space.owner).collect();
        assert_eq!(owners, [None, Some(0), Some(0)]);
        for space in &nest.spaces {
            assert_eq!(space.judge().unwrap(), None);
        }
        assert!(!nest.spaces[2].loopback_is_up().unwrap());
        let user = nest.spaces[0].user().unwrap();
        let root = IdRange {
            inside: 0,
            outside: 0,
            count: 1,
        };
        assert_eq!((user.uids.as_slice(), user.setgroups), (&[root][..], false));
    }

    #[test]
    fn a_device_of_its_own_is_named() {
        let table = "Inter-|\n face |bytes\n    lo: 0 0\n  sit0: 0\n veth1: 1 2\n";
        assert_eq!(foreign_devices(table), ["veth1"]);
    }

    #[test]
    fn maps_are_lines_of_three_numbers() {
        let range = IdRange {
            inside: 0,
            outside: 1000,
            count: 1,
        };
        assert_eq!(
            parse_map("         0       1000          1\n"),
            Some(vec![range])
        );
        assert_eq!(parse_map("0 1000\n"), None);
        assert_eq!(parse_map(""), Some(vec![]));
    }
}
