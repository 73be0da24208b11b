//! Pseudo-terminals with the same indexes, modes and queues as before.

use std::{
    collections::BTreeMap,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

use super::{ControllingTerminal, FilesError};
use crate::{
    image::{JobImage, Tty, TtyId},
    restore::RestoreHost,
    sys::{tty, tty_queue},
};

/// More terminals than this are no job's.
const MAX_INDEX: u32 = 4096;

/// All terminals of a job.
pub(super) struct Terminals {
    open: Vec<Terminal>,
}

struct Terminal {
    tty: Tty,
    /// Our own master; for the console a duplicate of the init's.
    master: OwnedFd,
    /// A slave of our own while the descriptions are made.
    slave: Option<OwnedFd>,
    /// Some member of the session, to set its foreground group.
    member: Option<i32>,
}

impl Terminals {
    pub(super) fn open(
        image: &JobImage,
        root: BorrowedFd<'_>,
        host: &mut dyn RestoreHost,
    ) -> Result<Self, FilesError> {
        let mut pool = Pool {
            root,
            masters: BTreeMap::new(),
        };
        let mut open = Vec::with_capacity(image.ttys.len());
        for tty in &image.ttys {
            let what = || FilesError::make(format!("the terminal /dev/pts/{}", tty.index));
            let (master, slave) = if tty.console {
                let slave = host.console(tty).map_err(what())?;
                (host.console_master().map_err(what())?, Some(slave))
            } else {
                let master = pool.take(tty.index)?;
                tty::set_locked(&master, false).map_err(what())?;
                let slave = (tty.slave_open || tty.hung_up)
                    .then(|| open_slave(root, tty.index, OFlags::RDWR))
                    .transpose()
                    .map_err(FilesError::make(format!("/dev/pts/{}", tty.index)))?;
                (master, slave)
            };
            prepare(tty, &master, slave.as_ref())?;
            let member = image
                .processes
                .iter()
                .find(|process| process.sid == tty.session)
                .map(|process| process.pid);
            open.push(Terminal {
                tty: tty.clone(),
                master,
                slave,
                member,
            });
        }
        Ok(Self { open })
    }

    /// The master's only description.
    pub(super) fn master(&self, id: TtyId) -> Result<OwnedFd, FilesError> {
        let terminal = self.get(id)?;
        terminal
            .master
            .try_clone()
            .map_err(FilesError::make("a terminal"))
    }

    /// A new description of a slave.
    pub(super) fn slave(
        &self,
        id: TtyId,
        root: BorrowedFd<'_>,
        flags: OFlags,
    ) -> Result<OwnedFd, FilesError> {
        let index = self.get(id)?.tty.index;
        let flags = flags - OFlags::DIRECTORY - OFlags::NOFOLLOW;
        open_slave(root, index, flags).map_err(FilesError::make(format!("/dev/pts/{index}")))
    }

    /// What only may be set when every slave is open; keeps the slaves by
    /// which sessions get their terminals.
    pub(super) fn finish(self) -> Result<Vec<ControllingTerminal>, FilesError> {
        let mut controlling = Vec::new();
        for terminal in self.open {
            let tty = terminal.tty;
            let what = || FilesError::make(format!("the terminal /dev/pts/{}", tty.index));
            if let Some(slave) = terminal.slave {
                if tty.exclusive {
                    tty::set_exclusive(&slave, true).map_err(what())?;
                }
                if tty.slave_open && tty.session != 0 {
                    controlling.push(ControllingTerminal {
                        slave,
                        session: tty.session,
                        foreground: tty.foreground,
                        member: terminal.member,
                    });
                }
            }
            if tty.locked {
                tty::set_locked(&terminal.master, true).map_err(what())?;
            }
        }
        Ok(controlling)
    }

    fn get(&self, id: TtyId) -> Result<&Terminal, FilesError> {
        let missing = FilesError::Malformed("such terminal");
        self.open.get(id as usize).ok_or(missing)
    }
}

/// Modes, window, owner and queues.
fn prepare(tty: &Tty, master: &OwnedFd, slave: Option<&OwnedFd>) -> Result<(), FilesError> {
    let what = || FilesError::make(format!("the terminal /dev/pts/{}", tty.index));
    let modes = tty::modes_from_bytes(&tty.termios);
    let modes = modes.ok_or(FilesError::Malformed("terminal modes of the right size"))?;
    tty::set_modes(master, &modes).map_err(what())?;
    tty::set_window(master, tty.window).map_err(what())?;
    if let Some(slave) = slave {
        let (uid, gid, mode) = tty.owner;
        rustix::fs::fchown(slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .and_then(|()| rustix::fs::fchmod(slave, Mode::from_raw_mode(mode & 0o7777)))
            .map_err(FilesError::make(format!("/dev/pts/{}", tty.index)))?;
        tty_queue::put_output(master, &tty.output).map_err(what())?;
        tty_queue::put_input(master, &tty.input).map_err(what())?;
    }
    if !tty.console {
        tty::set_packet_mode(master, tty.packet_mode).map_err(what())?;
    }
    Ok(())
}

fn open_slave(root: BorrowedFd<'_>, index: u32, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    below(root, &format!("dev/pts/{index}"), flags)
}

fn below(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Masters by index. The kernel gives out the lowest that is free, so those
/// that are skipped are kept until the end.
struct Pool<'a> {
    root: BorrowedFd<'a>,
    masters: BTreeMap<u32, OwnedFd>,
}

impl Pool<'_> {
    fn take(&mut self, index: u32) -> Result<OwnedFd, FilesError> {
        let what = || format!("the terminal /dev/pts/{index}");
        while !self.masters.contains_key(&index) {
            let master = below(self.root, "dev/pts/ptmx", OFlags::RDWR)
                .or_else(|_| below(self.root, "dev/ptmx", OFlags::RDWR))
                .map_err(FilesError::make(what()))?;
            let given = tty::index(&master).map_err(FilesError::make(what()))?;
            if given > index || given > MAX_INDEX {
                return Err(FilesError::make(what())(Errno::EXIST));
            }
            self.masters.insert(given, master);
        }
        let taken = self.masters.remove(&index);
        Ok(taken.expect("the loop ends when it is there"))
    }
}
