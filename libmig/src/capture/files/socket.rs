//! Unix sockets. What waits in one is peeked at: whoever was to read it still
//! does.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{
    FileSource, FilesError, Hold,
    inet::Network,
    table::{self, Found, Table},
};
use crate::{
    image::{Descriptor, FileId, UnixCall, UnixCredentials, UnixMessage, UnixPeer, UnixSocket},
    inspect::{
        fd::Kind,
        pidfd::{self, Target},
        process, refusal,
        unix_socket::{self, Socket},
    },
    sys::{descriptor, socket},
};

/// What a look at a queue takes first; the default SO_SNDBUF bounds a message by it.
const PIECE: usize = 256 * 1024;
/// No message can be longer: SO_SNDBUF is an int.
const LONGEST: usize = i32::MAX as usize;

/// All sockets of the tree.
pub(super) struct Sockets<'a> {
    processes: &'a [FileSource<'a>],
    table: &'a Table,
    seen: BTreeMap<u32, Socket>,
    ids: BTreeMap<u32, FileId>,
    /// Those that are not Unix sockets.
    pub(super) network: Network,
}

impl<'a> Sockets<'a> {
    pub(super) fn new(processes: &'a [FileSource<'a>], table: &'a Table) -> Self {
        Self {
            processes,
            table,
            seen: BTreeMap::new(),
            ids: BTreeMap::new(),
            network: Network::default(),
        }
    }

    /// Who is whose peer, before any is captured.
    pub(super) fn look(&mut self, hold: &mut dyn Hold) -> Result<(), FilesError> {
        for (file, found) in (0..).zip(&self.table.files) {
            if found.kind == Kind::Socket && !self.network.look(file, found)? {
                let look =
                    unix_socket::look(&found.copy, found.seen.stat.st_ino, self.table.root());
                let look = look.map_err(|refusal| found.refused(&refusal))?;
                self.seen.insert(inode(found), look);
                self.ids.insert(inode(found), file);
            }
        }
        self.network.read(&self.table.files, hold)
    }

    pub(super) fn capture(&self, found: &Found) -> Result<UnixSocket, FilesError> {
        let seen = &self.seen[&inode(found)];
        if let Some(refusal) = unix_socket::strayed(seen, inode(found), &self.seen) {
            return Err(found.refused(&refusal));
        }
        let part = |part| found.host::<io::Error>(part);
        let option = |name| socket::option(&found.copy, name);
        let time = |name| socket::timeout(&found.copy, name);
        let buffer = |name| option(name).map(|doubled| doubled / 2);
        let options = unix_socket::OPTIONS
            .into_iter()
            .filter_map(|name| Some((name, option(name).ok()?)));
        Ok(UnixSocket {
            kind: seen.kind,
            name: seen.name.clone(),
            file: self.bound(seen).then(|| seen.file.clone()).flatten(),
            backlog: seen.backlog,
            waiting: seen
                .waiting
                .iter()
                .map(|caller| self.call(found, *caller))
                .collect::<Result<_, _>>()?,
            accepted_from: unix_socket::listener(seen, &self.seen).map(|inode| self.ids[&inode]),
            orphan: unix_socket::is_orphan(seen, &self.seen),
            peer: match seen.peer {
                None => UnixPeer::None,
                Some(0) if seen.is_calling() => UnixPeer::Waiting,
                Some(0) => UnixPeer::Closed,
                Some(peer) => UnixPeer::Socket(self.ids[&peer]),
            },
            shutdown: seen.shutdown,
            reset: seen.reset,
            credentials: self.peer_credentials(found)?,
            buffers: (
                buffer(libc::SO_SNDBUF).map_err(part("SO_SNDBUF"))?,
                buffer(libc::SO_RCVBUF).map_err(part("SO_RCVBUF"))?,
            ),
            timeouts: (
                time(libc::SO_SNDTIMEO).map_err(part("SO_SNDTIMEO"))?,
                time(libc::SO_RCVTIMEO).map_err(part("SO_RCVTIMEO"))?,
            ),
            options: options.collect(),
            owner: (found.seen.stat.st_uid, found.seen.stat.st_gid),
            queue: self.queue(found, seen)?,
        })
    }

    /// Who has made a call that nobody has taken is not shown: one who has its end.
    fn call(&self, found: &Found, caller: u32) -> Result<UnixCall, FilesError> {
        let from = self.ids[&caller];
        let has = |table: &Vec<Descriptor>| table.iter().any(|one| one.file == from);
        let by = self.table.descriptors.iter().position(has);
        let by = &self.processes[by.unwrap_or_default()];
        let status = process::status(by.host).map_err(found.host("a connection that waits"))?;
        let by = UnixCredentials {
            pid: by.pid,
            uid: status.uids[1],
            gid: status.gids[1],
        };
        Ok(UnixCall { from, by })
    }

    /// Whether it has its address by bind(2): one that was accepted has that of another.
    fn bound(&self, seen: &Socket) -> bool {
        unix_socket::listener(seen, &self.seen).is_none()
            && !unix_socket::is_orphan(seen, &self.seen)
    }

    fn peer_credentials(&self, found: &Found) -> Result<Option<UnixCredentials>, FilesError> {
        let peer = socket::peer_credentials(&found.copy).map_err(found.host("SO_PEERCRED"))?;
        // Nobody has ever been at the other end.
        if peer.1 == u32::MAX {
            return Ok(None);
        }
        Ok(Some(self.in_capsule(peer)))
    }

    /// The kernel answers in the IDs of whoever asks.
    fn in_capsule(&self, (host, uid, gid): (i32, u32, u32)) -> UnixCredentials {
        let source = self.processes.iter().find(|one| one.host.raw() == host);
        let pid = source.map_or(0, |source| source.pid);
        UnixCredentials { pid, uid, gid }
    }

    fn queue(&self, found: &Found, seen: &Socket) -> Result<Vec<UnixMessage>, FilesError> {
        let unreadable = || found.host::<io::Error>("what waits in it");
        if seen.peer.is_none() && seen.kind != libc::SOCK_DGRAM {
            // One that listens, or will: to read from it is an error.
            return Ok(Vec::new());
        }
        let stream = seen.kind == libc::SOCK_STREAM;
        let waiting = unix_socket::waiting(found.copy.as_fd()).map_err(unreadable())?;
        if waiting == 0 && (stream || seen.reset) {
            return Ok(Vec::new());
        }
        if seen.reset && !stream {
            // To look at it would take the error away.
            let reason = "an error of it has not been read yet";
            return Err(found.refused(&refusal::socket_busy(reason)));
        }
        if let Some(message) = self.at_once(found, seen, waiting)? {
            return Ok(vec![message]);
        }
        let peeking = Peeking::start(&found.copy).map_err(unreadable())?;
        let queue = self.read(found, (seen, waiting), &peeking);
        // Only now: what the queue is read by must be as it was, come what may.
        drop(peeking);
        let queue = queue?;
        if !stream && self.hides(seen, &queue).map_err(unreadable())? {
            let reason = "an empty message in it has been looked at before, and is not seen again";
            return Err(found.refused(&refusal::socket_busy(reason)));
        }
        Ok(queue)
    }

    /// Whether there is more in a queue of messages than was seen. Of an empty
    /// message SO_PEEK_OFF leads past at the second look (the program may have
    /// taken the first, or a capture that was given up); what it is held in
    /// remains. The same messages in a pair of our own take as much.
    fn hides(&self, seen: &Socket, queue: &[UnixMessage]) -> io::Result<bool> {
        let addressed = |inode: u32| self.seen.get(&inode).is_none_or(|one| one.name.is_some());
        let Some(peer) = seen.peer.and_then(|peer| self.ids.get(&peer)) else {
            return Ok(false);
        };
        if seen.kind == libc::SOCK_DGRAM
            && (seen.name.is_some() || seen.peer.is_some_and(addressed))
        {
            // The peer may have sent to others, and others to this one.
            return Ok(false);
        }
        let kind = match seen.kind {
            libc::SOCK_DGRAM => SocketType::DGRAM,
            _ => SocketType::SEQPACKET,
        };
        let held = socket::unread(&self.table.files[table::index(*peer)].copy)?;
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (sender, _receiver) = rustix::net::socketpair(family, kind, flags, None)?;
        socket::set_option(&sender, libc::SO_SNDBUFFORCE, i32::MAX / 2)?;
        for message in queue {
            socket::send(&sender, &message.bytes, &[], None)?;
        }
        Ok(held > socket::unread(&sender)?)
    }

    /// All of a stream, where one look shows it: nothing need be set for that.
    fn at_once(
        &self,
        found: &Found,
        seen: &Socket,
        waiting: usize,
    ) -> Result<Option<UnixMessage>, FilesError> {
        let unreadable = || found.host::<io::Error>("what waits in it");
        let offset = socket::option(&found.copy, libc::SO_PEEK_OFF).map_err(unreadable())?;
        if seen.kind != libc::SOCK_STREAM || offset >= 0 {
            return Ok(None);
        }
        let mut buffer = vec![0; waiting];
        let peeked = socket::peek(&found.copy, &mut buffer).map_err(unreadable())?;
        if peeked.length < waiting || !peeked.descriptors.is_empty() {
            return Ok(None);
        }
        self.message(found, &peeked, &buffer).map(Some)
    }

    /// Every message from the first on; of a stream so many bytes.
    fn read(
        &self,
        found: &Found,
        (seen, waiting): (&Socket, usize),
        peeking: &Peeking<'_>,
    ) -> Result<Vec<UnixMessage>, FilesError> {
        let unreadable = || found.host::<io::Error>("what waits in it");
        let mut queue: Vec<UnixMessage> = Vec::new();
        let mut done = 0;
        let stream = seen.kind == libc::SOCK_STREAM;
        let mut buffer = vec![0; waiting.clamp(PIECE, LONGEST)];
        while !stream || done < waiting {
            let peeked = match socket::peek(&found.copy, &mut buffer) {
                Ok(peeked) => peeked,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(unreadable()(error)),
            };
            if peeked.truncated && !stream && buffer.len() < LONGEST {
                buffer.resize((buffer.len() * 4).min(LONGEST), 0);
                peeking.from(done).map_err(unreadable())?;
                continue;
            }
            if peeked.length == 0 && may_be_the_end(seen) {
                break;
            }
            if stream && peeked.length > 1 && !peeked.descriptors.is_empty() {
                // A look takes them together with the plain bytes before theirs.
                let reason = "descriptors are on their way in it, nobody can tell with which byte";
                return Err(found.refused(&refusal::socket_busy(reason)));
            }
            done += peeked.length;
            let mut message = self.message(found, &peeked, &buffer[..peeked.length])?;
            if seen.kind == libc::SOCK_DGRAM {
                message.from = peeked.from;
            }
            append(&mut queue, message, stream);
        }
        // Of datagrams the kernel counts only the first.
        if seen.kind != libc::SOCK_DGRAM && done != waiting {
            let reason = "it holds more than can be looked at";
            return Err(found.refused(&refusal::socket_busy(reason)));
        }
        Ok(queue)
    }

    fn message(
        &self,
        found: &Found,
        peeked: &socket::Peeked,
        bytes: &[u8],
    ) -> Result<UnixMessage, FilesError> {
        let busy = |reason| Err(found.refused(&refusal::socket_busy(reason)));
        if peeked.unknown {
            return busy("a message in it carries what is not known");
        }
        let sender = peeked.credentials.map(|sender| self.in_capsule(sender));
        if sender.is_some_and(|sender| sender.pid == 0) {
            return busy(
                "a message in it names a sender that is not part of the job, or has ended",
            );
        }
        let mut files = Vec::new();
        for descriptor in &peeked.descriptors {
            match self
                .file(descriptor)
                .map_err(found.host("what it carries"))?
            {
                Some(file) => files.push(file),
                None => return busy("a descriptor is on its way in it that nobody has open"),
            }
        }
        Ok(UnixMessage {
            bytes: bytes.to_vec(),
            files,
            from: None,
            sender,
        })
    }

    /// The description of the tree that a descriptor on its way is.
    fn file(&self, descriptor: &OwnedFd) -> io::Result<Option<FileId>> {
        let stat = rustix::fs::fstat(descriptor)?;
        for (file, found) in (0..).zip(&self.table.files) {
            let inode = (found.seen.stat.st_dev, found.seen.stat.st_ino);
            if inode == (stat.st_dev, stat.st_ino)
                && !self.comes_late(found)
                && descriptor::same_description(&found.copy, descriptor)?
            {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Whether it is opened only when the processes are complete.
    fn comes_late(&self, found: &Found) -> bool {
        let named = || pidfd::target(&found.seen.info, self.processes);
        match found.kind {
            Kind::Proc(_) => true,
            Kind::Pid => matches!(named(), Target::Thread(_)),
            _ => false,
        }
    }
}

/// Bytes of a stream belong together unless something comes with them.
fn append(queue: &mut Vec<UnixMessage>, message: UnixMessage, stream: bool) {
    if stream
        && message.files.is_empty()
        && let Some(last) = queue.last_mut()
        && last.sender == message.sender
        && last.files.is_empty()
    {
        last.bytes.extend(message.bytes);
    } else {
        queue.push(message);
    }
}

/// A stream ends with no bytes, and so does a SOCK_SEQPACKET that gets nothing
/// any more: there an empty message looks the same.
fn may_be_the_end(seen: &Socket) -> bool {
    let shut = seen.shutdown & 1 != 0;
    seen.kind == libc::SOCK_STREAM || seen.kind == libc::SOCK_SEQPACKET && shut
}

fn inode(found: &Found) -> u32 {
    u32::try_from(found.seen.stat.st_ino).unwrap_or_default()
}

/// SO_PEEK_OFF leads from message to message; afterwards it is what it was.
pub(super) struct Peeking<'a> {
    socket: &'a OwnedFd,
    before: i32,
}

impl<'a> Peeking<'a> {
    pub(super) fn start(socket: &'a OwnedFd) -> io::Result<Self> {
        let before = socket::option(socket, libc::SO_PEEK_OFF)?;
        socket::set_option(socket, libc::SO_PEEK_OFF, 0)?;
        Ok(Self { socket, before })
    }

    fn from(&self, offset: usize) -> io::Result<()> {
        let offset = i32::try_from(offset).unwrap_or(i32::MAX);
        socket::set_option(self.socket, libc::SO_PEEK_OFF, offset)
    }
}

impl Drop for Peeking<'_> {
    fn drop(&mut self) {
        let _ = socket::set_option(self.socket, libc::SO_PEEK_OFF, self.before);
    }
}
