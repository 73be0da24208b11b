//! Pseudo-terminals of the capsule, with what lies in their queues.

use std::{collections::BTreeMap, io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::AtFlags,
};

use super::{
    CapsuleStdio, FileSource, FilesError, owner,
    table::{Found, Table},
};
use crate::{
    image::{INIT, Tty, TtyId},
    inspect::{fd::Kind, files, refusal, stdio::Outside},
    sys::{tty, tty_queue},
};

/// The terminals of a tree, as they are found.
pub(super) struct Terminals<'a> {
    processes: &'a [FileSource<'a>],
    stdio: &'a CapsuleStdio,
    /// Masters in the tree by index.
    masters: BTreeMap<u32, &'a Found>,
    ids: BTreeMap<u32, TtyId>,
    found: Vec<Terminal<'a>>,
}

struct Terminal<'a> {
    index: u32,
    /// Any slave of it.
    slave: Option<&'a OwnedFd>,
}

impl<'a> Terminals<'a> {
    pub(super) fn new(
        processes: &'a [FileSource<'a>],
        stdio: &'a CapsuleStdio,
        table: &'a Table,
    ) -> Self {
        let masters = table.files.iter().filter_map(|found| match found.kind {
            Kind::TtyMaster(index) => Some((index, found)),
            _ => None,
        });
        let mut terminals = Self {
            processes,
            stdio,
            masters: masters.collect(),
            ids: BTreeMap::new(),
            found: Vec::new(),
        };
        for found in &table.files {
            let index = match found.kind {
                Kind::TtySlave(index) => Some(index),
                Kind::ControllingTty => tty::device(&found.copy).ok().map(|(_, minor)| minor),
                _ => None,
            };
            if let Some(index) = index.filter(|index| terminals.master(*index).is_some()) {
                let id = terminals.id(index);
                terminals.found[id as usize]
                    .slave
                    .get_or_insert(&found.copy);
            }
        }
        terminals
    }

    /// The number of the terminal with this index.
    pub(super) fn id(&mut self, index: u32) -> TtyId {
        if let Some(id) = self.ids.get(&index) {
            return *id;
        }
        let id = TtyId::try_from(self.found.len()).expect("fewer terminals than descriptors");
        self.found.push(Terminal { index, slave: None });
        self.ids.insert(index, id);
        id
    }

    /// The same for a slave, whose master must be with us.
    pub(super) fn slave(&mut self, index: u32, found: &Found) -> Result<TtyId, FilesError> {
        if self.master(index).is_none() {
            return Err(found.refused(&refusal::foreign_terminal(&found.seen.name())));
        }
        Ok(self.id(index))
    }

    pub(super) fn capture(self) -> Result<Vec<Tty>, FilesError> {
        let mut ttys = Vec::with_capacity(self.found.len());
        for terminal in &self.found {
            let (pid, number) = self
                .masters
                .get(&terminal.index)
                .map_or((crate::image::INIT, -1), |found| {
                    (found.pid, found.seen.number)
                });
            ttys.push(self.tty(terminal).map_err(|source| FilesError::Host {
                pid,
                number,
                part: "the terminal",
                source,
            })?);
        }
        Ok(ttys)
    }

    fn console(&self, index: u32) -> Option<&OwnedFd> {
        let console = self.stdio.console.as_ref()?;
        (console.index == index).then_some(&console.master)
    }

    fn master(&self, index: u32) -> Option<&OwnedFd> {
        self.console(index)
            .or_else(|| self.masters.get(&index).map(|found| &found.copy))
    }

    fn tty(&self, terminal: &Terminal<'_>) -> io::Result<Tty> {
        let index = terminal.index;
        if let Some(console) = self.stdio.console.as_ref().filter(|c| c.index == index)
            && let Some(outside) = console.outside
        {
            return self.outside(terminal, &console.master, outside);
        }
        let master = self.master(index).ok_or(io::ErrorKind::NotFound)?;
        let console = self.console(index).is_some();
        let slave_open = terminal.slave.is_some();
        // With no slave open, our own would be the last to close: a hang-up.
        let input = match slave_open {
            true => tty_queue::peek_input(master)?,
            false => Vec::new(),
        };
        // The capsule's init reads the console all the time.
        let output = match slave_open && !console {
            true => tty_queue::peek_output(master)?,
            false => Vec::new(),
        };
        let session = tty::session(master)?;
        let foreground = tty::foreground(master)?;
        let exclusive = terminal.slave.map(tty::exclusive).transpose()?;
        Ok(Tty {
            index,
            console,
            termios: tty::modes_to_bytes(&tty::modes(master)?),
            window: tty::window(master)?,
            session: session
                .and_then(|id| owner::session_in_capsule(self.processes, id))
                .unwrap_or(0),
            foreground: foreground
                .and_then(|id| owner::group_in_capsule(self.processes, id))
                .unwrap_or(0),
            locked: tty::locked(master)?,
            packet_mode: tty::packet_mode(master)?,
            exclusive: exclusive.unwrap_or(false),
            owner: self.node(terminal)?,
            input,
            output,
            slave_open,
            hung_up: !slave_open && hung_up(master)?,
        })
    }

    /// The terminal where the tree was started, to be one of a capsule: what lies in its
    /// queues stays with whoever has the master.
    fn outside(
        &self,
        terminal: &Terminal<'_>,
        slave: &OwnedFd,
        outside: Outside,
    ) -> io::Result<Tty> {
        Ok(Tty {
            index: terminal.index,
            console: true,
            termios: tty::modes_to_bytes(&tty::modes(slave)?),
            window: tty::window(slave)?,
            session: if outside.controls { INIT } else { 0 },
            foreground: outside.foreground,
            locked: false,
            packet_mode: false,
            exclusive: false,
            owner: self.node(terminal)?,
            input: Vec::new(),
            output: Vec::new(),
            slave_open: terminal.slave.is_some(),
            hung_up: false,
        })
    }

    /// Owner, group and mode of /dev/pts/INDEX.
    fn node(&self, terminal: &Terminal<'_>) -> io::Result<(u32, u32, u32)> {
        let looked_up = || {
            let root = files::root(self.processes, self.stdio)?;
            let name = format!("dev/pts/{}", terminal.index);
            io::Result::Ok(rustix::fs::statat(root, name, AtFlags::empty())?)
        };
        // A descriptor of /dev/tty has that node's owner.
        let stat = match terminal.slave {
            Some(slave) => {
                let stat = rustix::fs::fstat(slave)?;
                if rustix::fs::major(stat.st_rdev) == 5 {
                    looked_up()?
                } else {
                    stat
                }
            }
            None => looked_up()?,
        };
        Ok((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777))
    }
}

fn hung_up(master: &OwnedFd) -> io::Result<bool> {
    let mut poll = [PollFd::new(master, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut poll, Some(&now))?;
    Ok(poll[0].revents().contains(PollFlags::HUP))
}
