//! Calls for a husk's batch that give it its descriptors.

use std::{collections::BTreeSet, os::fd::AsRawFd};

use super::{ControllingTerminal, Interest, Opened, SignalDriven};
use crate::{
    image::{Descriptor, FileId, Pid},
    sys::remote::{Arg, Batch, Slot},
};

const F_SETSIG: i64 = 10;
const F_SETOWN_EX: i64 = 15;
const TIOCSCTTY: i64 = 0x540e;
const TIOCSPGRP: i64 = 0x5410;
const CLOEXEC: i64 = libc::O_CLOEXEC as i64;
const EPOLLIN: u32 = libc::EPOLLIN.cast_unsigned();
const EPOLLOUT: u32 = libc::EPOLLOUT.cast_unsigned();

/// The process that takes its descriptors.
pub struct Seat<'a> {
    /// In the capsule.
    pub pid: Pid,
    /// The number that a pidfd of this daemon has in it; it is closed.
    pub daemon: i32,
    /// What it calls a process, thread or group of the capsule; 0 when it cannot see it.
    pub seen: &'a dyn Fn(Pid) -> Pid,
}

/// Numbers that are in use for a moment at the same time, beside those of the process.
const ROOM: i32 = 5;

/// Gives a process its descriptor table. The husk has no other descriptor, its limit
/// allows five more, and every process of the tree exists: owners of SIGIO are named here.
/// `last` adds calls that need the pidfd as well, when all else is done.
pub fn place(
    seat: &Seat<'_>,
    table: &[Descriptor],
    opened: &Opened,
    batch: &mut Batch,
    last: impl FnOnce(&mut Batch, Arg),
) {
    let (pid, daemon_pidfd) = (seat.pid, seat.daemon);
    let interests = opened.interests.iter().filter(|one| one.pid == pid);
    let mut interests: Vec<&Interest> = interests.collect();
    // Those that fire are alone in their epoll when they are reported.
    interests.sort_by_key(|interest| !interest.fired);
    let used = table
        .iter()
        .map(|descriptor| descriptor.number)
        .chain(interests.iter().map(|interest| interest.entry.number))
        .chain([daemon_pidfd])
        .collect();
    let mut placer = Placer::start(opened, batch, room(&used).into(), seat);
    placer.table(table);
    for signal in opened.signals.iter().filter(|one| one.pid == pid) {
        placer.signal(table, signal);
    }
    for interest in interests {
        placer.interest(table, interest);
    }
    for terminal in &opened.terminals {
        if terminal.member == Some(pid) && terminal.foreground != 0 {
            placer.foreground(terminal);
        }
    }
    placer.finish(last);
}

/// Gives the session that `pid` leads its terminal, if it has one. To be run by
/// the leader after setsid and before its children are made: they inherit the
/// terminal, and only so. `daemon_pidfd` stays open.
pub fn take_terminal(
    pid: Pid,
    terminals: &[ControllingTerminal],
    daemon_pidfd: i32,
    batch: &mut Batch,
) {
    for terminal in terminals.iter().filter(|one| one.session == pid) {
        let local = i64::from(terminal.slave.as_raw_fd());
        let slave = batch.call(
            libc::SYS_pidfd_getfd,
            &[value(daemon_pidfd.into()), value(local), value(0)],
        );
        let args = [Arg::Result(slave), value(TIOCSCTTY), value(0)];
        batch.call(libc::SYS_ioctl, &args);
        batch.call(libc::SYS_close, &[Arg::Result(slave)]);
    }
}

/// The first of [`ROOM`] numbers in a row that are not used: as low as possible, for the
/// table stays as large as it has once been.
fn room(used: &BTreeSet<i32>) -> i32 {
    let mut first = 0;
    for number in used {
        if number - first >= ROOM {
            break;
        }
        first = number + 1;
    }
    first
}

fn value(number: i64) -> Arg {
    Arg::Value(number.cast_unsigned())
}

struct Placer<'a> {
    opened: &'a Opened,
    batch: &'a mut Batch,
    /// First of the numbers that the process does not use, see [`room`].
    free: i64,
    seen: &'a dyn Fn(Pid) -> Pid,
    pidfd: Slot,
}

impl<'a> Placer<'a> {
    /// Moves the pidfd out of the way of the numbers to come.
    fn start(opened: &'a Opened, batch: &'a mut Batch, free: i64, seat: &'a Seat<'a>) -> Self {
        let pidfd = seat.daemon;
        let above = [
            value(pidfd.into()),
            value(libc::F_DUPFD_CLOEXEC.into()),
            value(free),
        ];
        let moved = batch.call(libc::SYS_fcntl, &above);
        batch.call(libc::SYS_close, &[value(pidfd.into())]);
        Self {
            opened,
            batch,
            free,
            seen: seat.seen,
            pidfd: moved,
        }
    }

    /// Fetches a description to a number that the process does not use.
    fn fetch(&mut self, local: i32) -> Slot {
        let args = [Arg::Result(self.pidfd), Arg::from(local), value(0)];
        // The lowest free number, which may be one that a descriptor will have.
        let low = self.batch.call(libc::SYS_pidfd_getfd, &args);
        let high = self.duplicate(Arg::Result(low), self.free);
        self.close(Arg::Result(low));
        high
    }

    fn file(&mut self, file: FileId) -> Option<Slot> {
        let local = self.opened.files.get(file as usize)?.as_raw_fd();
        Some(self.fetch(local))
    }

    fn duplicate(&mut self, fd: Arg, above: i64) -> Slot {
        let args = [fd, Arg::from(libc::F_DUPFD_CLOEXEC), value(above)];
        self.batch.call(libc::SYS_fcntl, &args)
    }

    fn put(&mut self, from: Slot, number: i32, close_on_exec: bool) {
        let flags = if close_on_exec { CLOEXEC } else { 0 };
        let args = [Arg::Result(from), Arg::from(number), value(flags)];
        self.batch.call(libc::SYS_dup3, &args);
    }

    fn close(&mut self, fd: Arg) {
        self.batch.call(libc::SYS_close, &[fd]);
    }

    fn table(&mut self, table: &[Descriptor]) {
        let mut order: Vec<&Descriptor> = table.iter().collect();
        order.sort_by_key(|descriptor| (descriptor.file, descriptor.number));
        for same in order.chunk_by(|a, b| a.file == b.file) {
            let Some(fetched) = self.file(same[0].file) else {
                continue;
            };
            for descriptor in same {
                self.put(fetched, descriptor.number, descriptor.close_on_exec);
            }
            self.close(Arg::Result(fetched));
        }
    }

    /// Who gets SIGIO; O_ASYNC last, under the number that siginfo will show.
    fn signal(&mut self, table: &[Descriptor], signal: &SignalDriven) {
        let Some(own) = table.iter().find(|one| one.file == signal.file) else {
            return;
        };
        let number = Arg::from(own.number);
        if let Some(owner) = signal.description.owner {
            let args = [number, value(F_SETSIG), Arg::from(owner.signal)];
            self.batch.call(libc::SYS_fcntl, &args);
            if owner.id != 0 {
                let mut bytes = owner.kind.to_ne_bytes().to_vec();
                bytes.extend_from_slice(&(self.seen)(owner.id).to_ne_bytes());
                let place = self.batch.data(&bytes);
                let args = [number, value(F_SETOWN_EX), Arg::Data(place)];
                self.batch.call(libc::SYS_fcntl, &args);
            }
        }
        if signal.description.flags & libc::O_ASYNC != 0 {
            let flags = Arg::from(signal.description.flags);
            let args = [number, Arg::from(libc::F_SETFL), flags];
            self.batch.call(libc::SYS_fcntl, &args);
        }
    }

    /// An epoll entry is a description under a number: where that number is
    /// free or means another file by now, it means the right one for a moment.
    fn interest(&mut self, table: &[Descriptor], interest: &Interest) {
        let Some(epoll) = table.iter().find(|one| one.file == interest.epoll) else {
            return;
        };
        let entry = interest.entry;
        let now = table.iter().find(|one| one.number == entry.number);
        if now.is_some_and(|one| one.file == entry.file) {
            self.add(epoll.number, interest);
            return;
        }
        if entry.number == epoll.number {
            // The number is that of the epoll itself by now: another number of
            // it is needed for the moment.
            let spare = self.duplicate(Arg::from(epoll.number), self.free);
            self.add_elsewhere(Arg::Result(spare), now, interest);
            self.close(Arg::Result(spare));
        } else {
            self.add_elsewhere(Arg::from(epoll.number), now, interest);
        }
    }

    fn add_elsewhere(&mut self, epoll: Arg, now: Option<&Descriptor>, interest: &Interest) {
        let number = interest.entry.number;
        let saved = now.map(|_| self.duplicate(Arg::from(number), self.free));
        let Some(fetched) = self.file(interest.entry.file) else {
            return;
        };
        self.put(fetched, number, false);
        self.close(Arg::Result(fetched));
        self.add_to(epoll, interest);
        match (saved, now) {
            (Some(saved), Some(now)) => {
                self.put(saved, number, now.close_on_exec);
                self.close(Arg::Result(saved));
            }
            _ => self.close(Arg::from(number)),
        }
    }

    fn add(&mut self, epoll: i32, interest: &Interest) {
        self.add_to(Arg::from(epoll), interest);
    }

    fn add_to(&mut self, epoll: Arg, interest: &Interest) {
        let entry = interest.entry;
        let fires = interest.fired && self.opened.is_ready(entry.file);
        let events = if fires {
            entry.events | EPOLLIN | EPOLLOUT
        } else {
            entry.events
        };
        // struct epoll_event is packed on x86-64.
        let mut event = events.to_ne_bytes().to_vec();
        event.extend_from_slice(&entry.data.to_ne_bytes());
        let event = self.batch.data(&event);
        let args = [
            epoll,
            Arg::from(libc::EPOLL_CTL_ADD),
            Arg::from(entry.number),
            Arg::Data(event),
        ];
        self.batch.call(libc::SYS_epoll_ctl, &args);
        if fires {
            let reported = self.batch.reserve(12);
            let args = [epoll, Arg::Data(reported), value(1), value(0)];
            self.batch.call(libc::SYS_epoll_wait, &args);
        }
    }

    /// The foreground group can only be set by a member of the session. It may
    /// be gone, as it may be gone at the source.
    fn foreground(&mut self, terminal: &ControllingTerminal) {
        let slave = self.fetch(terminal.slave.as_raw_fd());
        let group = (self.seen)(terminal.foreground);
        let group = self.batch.data(&group.to_ne_bytes());
        let args = [Arg::Result(slave), value(TIOCSPGRP), Arg::Data(group)];
        self.batch.attempt(libc::SYS_ioctl, &args);
        self.close(Arg::Result(slave));
    }

    fn finish(mut self, last: impl FnOnce(&mut Batch, Arg)) {
        let pidfd = Arg::Result(self.pidfd);
        last(self.batch, pidfd);
        self.close(pidfd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_as_low_as_it_can_be() {
        assert_eq!(room(&BTreeSet::from([60])), 0);
        assert_eq!(room(&BTreeSet::from([0, 1, 2, 60, 255])), 3);
        assert_eq!(room(&BTreeSet::from([0, 1, 5, 7, 12, 60])), 13);
        assert_eq!(room(&BTreeSet::from_iter(0..63)), 63);
    }
}
