//! The preflight of descriptors: looks at every open file of a running tree,
//! changes nothing, and names what cannot travel.

use std::{
    collections::BTreeMap,
    os::fd::{BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::PidfdGetfdFlags,
};

use super::{
    atlas::Atlas,
    fd::{self, Kind, Seen},
    inet_socket::{self, Inets},
    inotify, mqueue,
    pidfd::{self, Target},
    proc_file::About,
    refusal::{self, Refusal},
    stdio::CapsuleStdio,
    unix_socket,
};
use crate::{
    api::Obstacle,
    image::Pid,
    sys::{HostPid, socket, tty},
};

/// A process whose descriptors are looked at.
#[derive(Debug, Clone, Copy)]
pub struct FileSource<'a> {
    /// Its ID in the capsule.
    pub pid: Pid,
    /// Its ID here.
    pub host: HostPid,
    /// pidfd of the process (its thread-group leader).
    pub pidfd: BorrowedFd<'a>,
}

impl FileSource<'_> {
    /// A duplicate of a descriptor: the same open file description, so that
    /// whoever holds it must leave its offset and its flags alone.
    ///
    /// # Errors
    /// EBADF when it is closed, ESRCH when the process is gone.
    pub fn duplicate(&self, number: i32) -> std::io::Result<OwnedFd> {
        let flags = PidfdGetfdFlags::empty();
        Ok(rustix::process::pidfd_getfd(self.pidfd, number, flags)?)
    }
}

/// Where the names of a job are looked up.
///
/// # Errors
/// There is no process, or it is gone.
pub fn root(processes: &[FileSource<'_>], stdio: &CapsuleStdio) -> std::io::Result<OwnedFd> {
    match (&stdio.root, processes.first()) {
        (Some(root), _) => root.try_clone(),
        (None, Some(first)) => fd::root(first.host),
        (None, None) => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// Every descriptor of the tree that cannot travel. What appears or goes away
/// while this looks is left to the capture, which judges again.
#[must_use]
pub fn preflight(processes: &[FileSource<'_>], stdio: &CapsuleStdio) -> Vec<Obstacle> {
    let mut survey = Survey::new(processes, stdio);
    for source in processes {
        survey.process(source);
    }
    survey.finish()
}

/// One holder of an end of something that has two.
#[derive(Debug, Clone)]
struct Holder {
    process: usize,
    seen: Seen,
}

struct Survey<'a> {
    processes: &'a [FileSource<'a>],
    stdio: &'a CapsuleStdio,
    atlas: Option<Atlas>,
    devpts: Option<u64>,
    obstacles: Vec<Obstacle>,
    /// Pipes and FIFOs by (device, inode).
    pipes: BTreeMap<(u64, u64), Vec<Holder>>,
    masters: Vec<u32>,
    slaves: BTreeMap<u32, Holder>,
    /// Unix sockets by inode.
    sockets: BTreeMap<u32, unix_socket::Socket>,
    socket_holders: BTreeMap<u32, Holder>,
    /// TCP and UDP sockets by inode.
    inets: Inets,
}

impl<'a> Survey<'a> {
    fn new(processes: &'a [FileSource<'a>], stdio: &'a CapsuleStdio) -> Self {
        let root = root(processes, stdio).ok();
        Self {
            processes,
            stdio,
            devpts: root.as_ref().and_then(fd::devpts),
            atlas: root.map(|root| Atlas::near(root, processes.iter().map(|one| one.host))),
            obstacles: Vec::new(),
            pipes: BTreeMap::new(),
            masters: Vec::new(),
            slaves: BTreeMap::new(),
            sockets: BTreeMap::new(),
            socket_holders: BTreeMap::new(),
            inets: Inets::default(),
        }
    }

    fn root(&self) -> Option<&OwnedFd> {
        self.atlas.as_ref().map(Atlas::home)
    }

    fn process(&mut self, source: &FileSource<'_>) {
        let index = self
            .processes
            .iter()
            .position(|other| other.host == source.host)
            .unwrap_or_default();
        for number in fd::numbers(source.host).unwrap_or_default() {
            match Seen::look(source.host, number) {
                Ok(seen) => self.descriptor(index, seen),
                Err(fd::SeeError::Look { .. }) => {}
                Err(fd::SeeError::Info { source: error, .. }) => {
                    let refusal = refusal::unknown(&error.to_string());
                    self.obstacles.push(refusal.obstacle(source.pid, number));
                }
            }
        }
    }

    fn descriptor(&mut self, process: usize, seen: Seen) {
        match seen.kind(self.stdio, self.devpts) {
            Err(refusal) => self.refuse(process, &seen, &refusal),
            Ok(Kind::Named) => {
                let named = self.atlas.as_ref().map(|atlas| {
                    let link = format!("/proc/{}/fd/{}", self.processes[process].host, seen.number);
                    seen.clone().find_name(atlas.place(Path::new(&link)).root)
                });
                if let Some(Err(refusal)) = named {
                    self.refuse(process, &seen, &refusal);
                }
            }
            Ok(Kind::Proc(about)) if self.is_view(process, &seen, about) => {
                self.refuse(process, &seen, &refusal::view(&seen.name()));
            }
            Ok(Kind::Proc(about)) if !moves(self.processes, about) || !self.reachable(&seen) => {
                self.refuse(process, &seen, &refusal::foreign_process(&seen.name()));
            }
            Ok(Kind::Pipe | Kind::Fifo) => {
                let key = (seen.stat.st_dev, seen.stat.st_ino);
                let holder = Holder { process, seen };
                self.pipes.entry(key).or_default().push(holder);
            }
            Ok(Kind::TtyMaster(index)) => self.masters.push(index),
            Ok(Kind::TtySlave(index)) => {
                self.slaves.entry(index).or_insert(Holder { process, seen });
            }
            Ok(Kind::ControllingTty) => self.controlling_tty(process, seen),
            Ok(Kind::Socket) => self.socket(process, seen),
            Ok(Kind::Pid) if pidfd::target(&seen.info, self.processes) == Target::Outside => {
                self.refuse(process, &seen, &refusal::foreign_pidfd());
            }
            Ok(Kind::Queue) if !self.has_queue(&seen) => {
                self.refuse(process, &seen, &refusal::foreign_queue(&seen.name()));
            }
            Ok(Kind::Inotify) => self.watches(process, &seen),
            Ok(_) => {}
        }
    }

    fn has_queue(&self, seen: &Seen) -> bool {
        let identity = (seen.stat.st_dev, seen.stat.st_ino);
        let named = self.processes.first();
        let named = named.map(|first| mqueue::name_of(first.host, identity));
        // An error: the job ends.
        named.is_none_or(|named| named.map_or(true, |name| name.is_some()))
    }

    fn is_view(&self, process: usize, seen: &Seen, about: About) -> bool {
        let link = format!("/proc/{}/fd/{}", self.processes[process].host, seen.number);
        let place = self
            .atlas
            .as_ref()
            .map(|atlas| atlas.place(Path::new(&link)));
        let elsewhere = place.is_some_and(|place| place.space.is_some());
        elsewhere
            || self
                .atlas
                .as_ref()
                .is_some_and(|atlas| is_view(self.processes, seen, about, atlas))
    }

    fn watches(&mut self, process: usize, seen: &Seen) {
        let host = self.processes[process].host;
        let watches = &seen.info.inotify;
        let root = format!("/proc/{host}/root");
        let place = self
            .atlas
            .as_ref()
            .map(|atlas| atlas.place(Path::new(&root)));
        let found = place.map(|place| inotify::locate(watches, host, place));
        let found = found.unwrap_or_else(|| vec![None; watches.len()]);
        for (watch, _) in watches
            .iter()
            .zip(found)
            .filter(|(_, found)| found.is_none())
        {
            self.refuse(process, seen, &refusal::unnamed_watch(watch.wd));
        }
    }

    /// By its name in the capsule, also for a process with another root
    /// directory: names in /proc are relative to the reader's root.
    fn reachable(&self, seen: &Seen) -> bool {
        self.root().is_some_and(|root| seen.leads_here(root))
    }

    fn controlling_tty(&mut self, process: usize, seen: Seen) {
        let Ok(copy) = self.processes[process].duplicate(seen.number) else {
            return;
        };
        match tty::device(copy) {
            Ok((136..=143, index)) => {
                self.slaves.entry(index).or_insert(Holder { process, seen });
            }
            _ => self.refuse(process, &seen, &refusal::foreign_terminal(&seen.name())),
        }
    }

    fn socket(&mut self, process: usize, seen: Seen) {
        let inode = u32::try_from(seen.stat.st_ino).unwrap_or_default();
        if self.socket_holders.contains_key(&inode) {
            return;
        }
        let Ok(copy) = self.processes[process].duplicate(seen.number) else {
            return;
        };
        if socket::option(&copy, libc::SO_DOMAIN).is_ok_and(|domain| domain != libc::AF_UNIX) {
            match inet_socket::look(&copy) {
                Ok(found) => self.inets.insert(inode, found),
                Err(refusal) => self.refuse(process, &seen, &refusal),
            }
            self.socket_holders.insert(inode, Holder { process, seen });
            return;
        }
        match unix_socket::look(&copy, seen.stat.st_ino, self.root()) {
            Ok(found) => {
                self.sockets.insert(inode, found);
            }
            Err(refusal) => self.refuse(process, &seen, &refusal),
        }
        self.socket_holders.insert(inode, Holder { process, seen });
    }

    fn refuse(&mut self, process: usize, seen: &Seen, refusal: &Refusal) {
        let pid = self.processes[process].pid;
        self.obstacles.push(refusal.obstacle(pid, seen.number));
    }

    fn finish(mut self) -> Vec<Obstacle> {
        let console = self.stdio.console.as_ref().map(|console| console.index);
        for (index, holder) in std::mem::take(&mut self.slaves) {
            if console != Some(index) && !self.masters.contains(&index) {
                let refusal = refusal::foreign_terminal(&holder.seen.name());
                self.refuse(holder.process, &holder.seen, &refusal);
            }
        }
        for holders in std::mem::take(&mut self.pipes).into_values() {
            if let Some(holder) = self.half_outside(&holders) {
                let refusal = refusal::foreign_pipe(&holder.seen.name());
                self.refuse(holder.process, &holder.seen, &refusal);
            }
        }
        self.stray_sockets();
        self.obstacles
    }

    fn stray_sockets(&mut self) {
        let inets = std::mem::take(&mut self.inets);
        for (inode, socket) in inets.iter() {
            if let Some(refusal) = inets.strayed(socket)
                && let Some(holder) = self.socket_holders.get(&inode).cloned()
            {
                // Accepted, or connected, since its process was looked at.
                let stranger = inets.stranger(socket).filter(|_| !refusal.transient);
                let refusal = match stranger.is_some_and(|inode| self.holds(inode)) {
                    true => refusal::socket_busy("its connection has just been made"),
                    false => refusal,
                };
                self.refuse(holder.process, &holder.seen, &refusal);
            }
        }
        let sockets = std::mem::take(&mut self.sockets);
        for (inode, socket) in &sockets {
            let holder = self.socket_holders.get(inode).cloned();
            // A peer that is refused itself is no stranger.
            let refused = socket.peer.is_some_and(|peer| {
                self.socket_holders.contains_key(&peer) && !sockets.contains_key(&peer)
            });
            if let Some(refusal) = unix_socket::strayed(socket, *inode, &sockets)
                && let Some(holder) = holder.filter(|_| !refused)
            {
                self.refuse(holder.process, &holder.seen, &refusal);
            }
        }
    }

    /// Whether a process of the job has this socket by now.
    fn holds(&self, inode: u32) -> bool {
        let name = format!("socket:[{inode}]");
        self.processes.iter().any(|source| {
            let numbers = fd::numbers(source.host).unwrap_or_default();
            numbers.into_iter().any(|number| {
                let link = std::fs::read_link(format!("/proc/{}/fd/{number}", source.host));
                link.is_ok_and(|link| link.as_os_str() == name.as_str())
            })
        })
    }

    /// The holder of one end of a pipe whose other end someone else has: only
    /// one kind of end is in the tree, and yet the kernel does not say that
    /// the other kind is closed.
    fn half_outside<'h>(&self, holders: &'h [Holder]) -> Option<&'h Holder> {
        let mode = |holder: &Holder| holder.seen.info.flags & libc::O_ACCMODE;
        let reads = holders.iter().any(|h| mode(h) != libc::O_WRONLY);
        let writes = holders.iter().any(|h| mode(h) != libc::O_RDONLY);
        if reads && writes {
            return None;
        }
        let holder = holders.first()?;
        let copy = self.processes[holder.process]
            .duplicate(holder.seen.number)
            .ok()?;
        (!other_end_closed(&copy)).then_some(holder)
    }
}

/// Whether what a file of `/proc` is about will be at the destination.
pub(crate) fn moves(processes: &[FileSource<'_>], about: About) -> bool {
    match about {
        About::Machine => true,
        About::Process(pid) => processes.iter().any(|source| source.pid == pid),
    }
}

/// Whether a file of `/proc` has been opened for good in a namespace of the job: such a text
/// tells of the namespaces that its process had then, and its process enters them last.
pub(crate) fn is_view(
    processes: &[FileSource<'_>],
    seen: &Seen,
    about: About,
    atlas: &Atlas,
) -> bool {
    const OF_NAMESPACES: [&[u8]; 8] = [
        b"uid_map",
        b"gid_map",
        b"projid_map",
        b"setgroups",
        b"mounts",
        b"mountinfo",
        b"mountstats",
        b"timens_offsets",
    ];
    let About::Process(pid) = about else {
        return false;
    };
    let mut parts = seen.link.split(|byte| *byte == b'/');
    let last = parts.clone().next_back().unwrap_or_default();
    if !OF_NAMESPACES.contains(&last) && !parts.any(|part| part == b"net") {
        return false;
    }
    let nested = |host: HostPid| {
        let apart = |name| {
            let inode = |host| {
                std::fs::metadata(format!("/proc/{host}/ns/{name}")).map(|found| found.ino())
            };
            inode(host).ok() != inode(HostPid::own()).ok()
        };
        let root = format!("/proc/{host}/root");
        apart("user") || apart("net") || atlas.place(Path::new(&root)).space.is_some()
    };
    let target = processes.iter().find(|one| one.pid == pid);
    target.is_some_and(|target| nested(target.host))
}

/// Whether nobody holds the other end of a pipe any more: no writer for an end
/// open for reading (POLLHUP), no reader for one open for writing (POLLERR).
#[must_use]
pub fn other_end_closed(end: &OwnedFd) -> bool {
    let mut poll = [PollFd::new(end, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = rustix::event::poll(&mut poll, Some(&now));
    polled.is_ok()
        && poll[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use rustix::process::{Pid as RustixPid, PidfdFlags};

    use super::*;
    use crate::{
        image::Stdio,
        inspect::stdio::{Console, StdioEnd},
        sys::lock,
    };

    /// What the preflight says about one descriptor of this very process.
    fn verdict(fd: impl AsFd, stdio: &CapsuleStdio) -> Option<Obstacle> {
        let host = HostPid::own();
        let pid = RustixPid::from_raw(host.raw()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let source = FileSource {
            pid: 7,
            host,
            pidfd: pidfd.as_fd(),
        };
        let object = format!("fd {} (", fd.as_fd().as_raw_fd());
        preflight(&[source], stdio)
            .into_iter()
            .find(|obstacle| obstacle.object.starts_with(&object))
    }

    fn travels(fd: impl AsFd) -> bool {
        verdict(fd, &CapsuleStdio::default()).is_none()
    }

    fn refusal_of(fd: impl AsFd) -> String {
        let obstacle = verdict(fd, &CapsuleStdio::default()).expect("an obstacle");
        assert_eq!(obstacle.pid, Some(7));
        assert!(!obstacle.remedy.is_empty());
        obstacle.to_string()
    }

    #[test]
    fn ordinary_files_travel() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(travels(std::fs::File::create(&path).unwrap()));
        assert!(travels(std::fs::File::open(dir.path()).unwrap()));
        assert!(travels(std::fs::File::open("/dev/null").unwrap()));
        assert!(travels(tempfile::tempfile().unwrap()));
        assert!(travels(crate::sys::descriptor::signalfd(2).unwrap()));
        assert!(travels(crate::sys::descriptor::timerfd(1).unwrap()));
        let memfd = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC);
        assert!(travels(memfd.unwrap()));
    }

    #[test]
    fn files_of_proc_travel_with_their_process() {
        assert!(travels(std::fs::File::open("/proc/meminfo").unwrap()));
        let about = About::Process(HostPid::own().raw());
        let host = HostPid::own();
        let pid = RustixPid::from_raw(host.raw()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let with = |pid| FileSource {
            pid,
            host,
            pidfd: pidfd.as_fd(),
        };
        assert!(moves(&[with(7), with(host.raw())], about));
        assert!(!moves(&[with(7)], about));
        assert!(moves(&[with(7)], About::Machine));
    }

    #[test]
    fn a_pipe_needs_both_ends_or_none_outside() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(travels(&reader));
        drop(writer);
        assert!(travels(&reader), "nobody can write to it any more");
    }

    #[test]
    fn a_pipe_towards_a_stranger_is_named_unless_it_is_a_standard_stream() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(reader)
            .spawn()
            .unwrap();
        assert!(refusal_of(&writer).contains("other end"));
        let stat = rustix::fs::fstat(&writer).unwrap();
        let stdio = CapsuleStdio {
            streams: vec![StdioEnd {
                device: stat.st_dev,
                inode: stat.st_ino,
                stream: Stdio::Out,
            }],
            ..CapsuleStdio::default()
        };
        assert_eq!(verdict(&writer, &stdio), None);
        drop(writer);
        child.wait().unwrap();
    }

    #[test]
    fn a_unix_socket_needs_its_peer_or_none() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(travels(&one));
        drop(other);
        assert!(travels(&one), "nobody can write to it any more");
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(OwnedFd::from(other))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        assert!(refusal_of(&one).contains("other end"));
        drop(one);
        child.wait().unwrap();
    }

    fn socket_of_netlink() -> OwnedFd {
        use rustix::net::{AddressFamily, SocketType};
        rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap()
    }

    /// Those that this kernel has.
    #[test]
    fn every_kind_of_socket_is_refused_by_its_name() {
        use rustix::net::{AddressFamily, Protocol, SocketType};
        let kinds = [
            (libc::AF_INET, libc::SOCK_RAW, 1, "raw socket"),
            (libc::AF_INET6, libc::SOCK_RAW, 58, "raw socket"),
            (libc::AF_INET, libc::SOCK_STREAM, 132, "SCTP"),
            (libc::AF_INET, libc::SOCK_DGRAM, 136, "UDP-Lite"),
            (libc::AF_PACKET, libc::SOCK_DGRAM, 0, "packet socket"),
            (libc::AF_ALG, libc::SOCK_SEQPACKET, 0, "AF_ALG"),
            (libc::AF_VSOCK, libc::SOCK_STREAM, 0, "AF_VSOCK"),
            (libc::AF_XDP, libc::SOCK_RAW, 0, "AF_XDP"),
            (libc::AF_KEY, libc::SOCK_RAW, 2, "AF_KEY"),
        ];
        let mut made = 0;
        for (family, kind, protocol, name) in kinds {
            let family = AddressFamily::from_raw(family.try_into().unwrap());
            let kind = SocketType::from_raw(kind.cast_unsigned());
            let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
            if let Ok(socket) = rustix::net::socket(family, kind, protocol) {
                let refusal = refusal_of(socket);
                assert!(refusal.contains(name), "{refusal}");
                made += 1;
            }
        }
        assert!(made >= 3, "only {made} kinds");
    }

    #[test]
    fn multipath_tcp_travels_until_it_is_connected() {
        use rustix::net::{AddressFamily, SocketType, ipproto};
        let make = || {
            let protocol = Some(ipproto::MPTCP);
            rustix::net::socket(AddressFamily::INET, SocketType::STREAM, protocol)
        };
        let Ok(listener) = make() else { return };
        let anywhere: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&listener, &anywhere).unwrap();
        rustix::net::listen(&listener, 3).unwrap();
        assert!(travels(&listener));
        let client = make().unwrap();
        let there = rustix::net::getsockname(&listener).unwrap();
        rustix::net::connect(&client, &there).unwrap();
        assert!(refusal_of(client).contains("Multipath TCP"));
        let plain = std::net::TcpStream::connect(std::net::SocketAddr::try_from(there).unwrap());
        drop(rustix::net::accept(&listener).unwrap());
        let accepted = rustix::net::accept(&listener).unwrap();
        assert!(travels(accepted), "its client has one path");
        drop(plain);
    }

    #[test]
    fn what_belongs_to_this_node_is_named() {
        let socket = socket_of_netlink();
        assert!(refusal_of(socket).contains("(netlink socket)"));
        let other = std::fs::File::open("/proc/self/status").unwrap();
        assert!(
            refusal_of(other).contains("not part of the job"),
            "pid 7 is"
        );
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        assert!(refusal_of(memory).contains("about this node"));
        let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
        assert!(refusal_of(namespace).contains("nsfs"));
        let first = RustixPid::from_raw(1).unwrap();
        let pidfd = rustix::process::pidfd_open(first, PidfdFlags::empty()).unwrap();
        assert!(refusal_of(pidfd).contains("not part of the job"));
    }

    #[test]
    fn a_watch_travels_while_its_file_has_a_name() {
        use rustix::fs::inotify;
        let file = tempfile::NamedTempFile::new().unwrap();
        let watches = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watches, file.path(), inotify::WatchFlags::MODIFY).unwrap();
        assert!(travels(watches.try_clone().unwrap()));
        let open = file.into_file();
        assert!(refusal_of(watches).contains("its watch 1"));
        drop(open);
    }

    #[test]
    fn a_locked_file_travels_and_a_leased_one_may_become_free() {
        let file = tempfile::tempfile().unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert!(travels(&file));
        lock::lease(&file).unwrap();
        let obstacle = verdict(&file, &CapsuleStdio::default()).unwrap();
        assert!(obstacle.transient);
        assert!(obstacle.reason.contains("LEASE"), "{obstacle}");
    }

    #[test]
    fn a_lock_on_what_is_no_file_is_named() {
        let (reader, _writer) = std::io::pipe().unwrap();
        rustix::fs::flock(&reader, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert!(refusal_of(&reader).contains("FLOCK"));
    }

    #[test]
    fn a_file_with_another_link_needs_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = std::fs::File::create(&path).unwrap();
        std::fs::hard_link(&path, dir.path().join("b")).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(travels(&file), "by the other name");
        std::fs::create_dir(dir.path().join("c")).unwrap();
        std::fs::rename(dir.path().join("b"), dir.path().join("c/b")).unwrap();
        assert!(refusal_of(&file).contains("other links"));
    }

    #[test]
    fn a_terminal_needs_its_master() {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        assert!(travels(&slave));
        let index = tty::index(&master).unwrap();
        // Keep the master where this process has no descriptor of it: with a child.
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .stderr(master.try_clone().unwrap())
            .spawn()
            .unwrap();
        let kept = child.id();
        drop(master);
        assert!(refusal_of(&slave).contains("other side"));
        let pid = RustixPid::from_raw(kept.cast_signed()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let copy = rustix::process::pidfd_getfd(&pidfd, 2, PidfdGetfdFlags::empty()).unwrap();
        let console = Some(Console {
            index,
            master: copy,
            outside: None,
        });
        let stdio = CapsuleStdio {
            console,
            ..CapsuleStdio::default()
        };
        assert_eq!(verdict(&slave, &stdio), None);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
