//! What waits in Unix sockets, sent again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{AMPLE, End, address, alone, fit, made, name::Names, paired};
use crate::{
    image::{UnixCredentials, UnixMessage, UnixPeer, UnixSocket},
    restore::{
        files::{FilesError, Opened},
        grow::Husks,
    },
    sys::socket,
};

impl Opened {
    /// Fills all of them. Descriptors on their way may be sockets: all of them exist by now.
    pub(super) fn fill_all(
        &self,
        sockets: &[End<'_>],
        closed: Vec<(End<'_>, OwnedFd)>,
        names: &Names,
        husks: &Husks,
    ) -> Result<(), FilesError> {
        for end in sockets {
            let peer = match end.1.peer {
                UnixPeer::Closed => continue,
                UnixPeer::Socket(peer) => sockets.iter().find(|other| other.0 == peer),
                UnixPeer::None | UnixPeer::Waiting => None,
            };
            match peer.filter(|other| fit(end, other) && paired(end)) {
                Some(peer) => self.fill(*end, self.files[peer.0 as usize].as_fd(), husks)?,
                None => self.fill_by_address(*end, names, husks, sockets)?,
            }
        }
        for ((file, state), peer) in closed {
            if let Some(from) = state
                .queue
                .iter()
                .find_map(|message| message.from.as_deref())
            {
                names.bind_aside(peer.as_fd(), from)?;
            }
            self.fill((file, state), peer.as_fd(), husks)?;
            if state.reset {
                let own = &self.files[file as usize];
                socket::send(own, &[0], &[], None).map_err(made())?;
            }
        }
        Ok(())
    }

    /// Each datagram from a socket with the address of the one that sent it.
    fn fill_by_address(
        &self,
        (file, state): End<'_>,
        names: &Names,
        husks: &Husks,
        sockets: &[End<'_>],
    ) -> Result<(), FilesError> {
        if state.queue.is_empty() {
            return Ok(());
        }
        let name = state.name.as_deref();
        let name = name.ok_or(FilesError::Malformed("such address of a socket"))?;
        let receiver = address(&names.target(Some(file), name)?).map_err(made())?;
        for message in &state.queue {
            let made_here;
            // An abstract address is one of the whole node: whoever has it sends.
            let from = message.from.as_ref();
            let from = from.filter(|from| from.first() == Some(&0));
            let known = sockets
                .iter()
                .find(|other| from.is_some() && other.1.name.as_ref() == from);
            let sender = match known {
                Some(sender) => self.files[sender.0 as usize].as_fd(),
                None => {
                    made_here = alone(state)?;
                    if let Some(from) = &message.from {
                        names.bind_aside(made_here.as_fd(), from)?;
                    }
                    made_here.as_fd()
                }
            };
            rustix::net::connect(sender, &receiver).map_err(made())?;
            let one = UnixSocket {
                queue: vec![message.clone()],
                ..state.clone()
            };
            self.fill((file, &one), sender, husks)?;
            if known.is_some() {
                rustix::net::connect_unspec(sender).map_err(made())?;
            }
        }
        Ok(())
    }
    /// Sends what a socket had not read yet.
    fn fill(
        &self,
        (file, state): End<'_>,
        sender: BorrowedFd<'_>,
        husks: &Husks,
    ) -> Result<(), FilesError> {
        if state.queue.is_empty() {
            return Ok(());
        }
        let filled = || FilesError::make("what waits in a Unix socket");
        let receiver = &self.files[file as usize];
        socket::set_option(sender, libc::SO_SNDBUFFORCE, AMPLE).map_err(filled())?;
        if state.queue.iter().any(|message| message.sender.is_some()) {
            socket::set_option(receiver, libc::SO_PASSCRED, 1).map_err(filled())?;
        }
        for message in &state.queue {
            self.deliver(message, sender, state.kind, husks)?;
        }
        // Whatever it sends itself is not to carry who it is.
        socket::set_option(receiver, libc::SO_PASSCRED, 0).map_err(filled())
    }

    fn deliver(
        &self,
        message: &UnixMessage,
        sender: BorrowedFd<'_>,
        kind: i32,
        husks: &Husks,
    ) -> Result<(), FilesError> {
        let carried: Option<Vec<BorrowedFd<'_>>> =
            message.files.iter().map(|file| self.file(*file)).collect();
        let carried = carried.ok_or(FilesError::Malformed("such descriptor on its way"))?;
        let credentials = match message.sender {
            None => None,
            Some(UnixCredentials { pid, uid, gid }) => {
                let husk = husks.get(&pid);
                let husk = husk.ok_or(FilesError::Malformed("such sender of a message"))?;
                Some((husk.host().raw(), uid, gid))
            }
        };
        let mut rest = message.bytes.as_slice();
        let mut carried = carried.as_slice();
        loop {
            let sent = socket::send(sender, rest, carried, credentials)
                .map_err(FilesError::make("what waits in a Unix socket"))?;
            rest = &rest[sent..];
            if rest.is_empty() {
                return Ok(());
            }
            if kind != libc::SOCK_STREAM || sent == 0 {
                return Err(FilesError::Malformed("so long a message of a socket"));
            }
            carried = &[];
        }
    }
}
