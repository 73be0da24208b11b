//! Memory that is sent while the job runs, and what becomes wrong of it meanwhile.
//!
//! A page is protected first and copied then (userfaultfd WP_ASYNC, PAGEMAP_SCAN): a write that comes
//! in between makes it count as written again. What cannot be followed (a mapping that came
//! a moment ago, was moved by mremap(2), or has a userfaultfd of the program's own; a child that was
//! forked; a program that was exec'd) is sent when the job stands still.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
};

use rangemap::RangeSet;
use rustix::process::{Pid as RustixPid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{
    BulkSink, CaptureError, Frozen,
    freeze::FrozenProcess,
    memory::unreadable,
    pages::{self, Source},
};
use crate::{
    image::{Backing, Draft, Mapping, Pid, ProcessKind},
    inspect::{
        maps::{self, Area},
        process::is_gone,
    },
    sys::{
        HostPid,
        pagemap::{self, Query, Region},
        remote::{Batch, Injector},
        userfaultfd::WriteTracker,
    },
};

/// What is known of the memory of a running tree at its destination. Dropped, the tree
/// is as if it had never been followed.
#[derive(Debug, Default)]
pub struct Tracker {
    processes: Vec<Followed>,
    /// The memory of a process has gone, by its end or by execve(2): what was sent of it
    /// is not to be told from what another one has there.
    lost: bool,
}

/// A process whose writes are noted.
#[derive(Debug)]
pub(super) struct Followed {
    pid: Pid,
    source: Source,
    writes: WriteTracker,
    /// What there is room for at the destination, by rising address.
    room: Vec<Mapping>,
    /// What has been sent at any time.
    there: RangeSet<u64>,
    /// What was right when it was sent, and has been followed since.
    fresh: RangeSet<u64>,
}

impl Frozen {
    /// Begins to follow the writes of all processes of which that can be done, to the memory
    /// that they have in `draft`.
    ///
    /// # Errors
    /// When a process dies meanwhile.
    pub fn follow(&mut self, draft: &Draft) -> Result<Tracker, CaptureError> {
        let live = self
            .processes
            .iter_mut()
            .filter(|process| !process.threads.is_empty());
        let mut tracker = Tracker::default();
        for process in live {
            // A filter may end a program for the calls that this takes.
            if process.threads.iter().any(|one| one.status.seccomp != 0) {
                continue;
            }
            let (pid, host) = (process.pid, process.host);
            match begin(process)? {
                Ok(writes) => tracker.processes.push(Followed {
                    pid,
                    source: Source::open(host)?,
                    writes,
                    room: room(draft, pid),
                    there: RangeSet::new(),
                    fresh: RangeSet::new(),
                }),
                Err(error) => tracing::info!(pid, %error, "its writes cannot be followed"),
            }
        }
        Ok(tracker)
    }
}

/// What a draft has of a process' own memory.
fn room(draft: &Draft, pid: Pid) -> Vec<Mapping> {
    let processes = &draft.image.processes;
    let process = processes.iter().find(|process| process.pid == pid);
    let mappings = process.into_iter().flat_map(|process| match &process.kind {
        ProcessKind::Live(live) => live.memory.mappings.as_slice(),
        ProcessKind::Zombie { .. } => &[],
    });
    mappings
        .filter(|mapping| {
            matches!(
                mapping.backing,
                Backing::Anonymous | Backing::FilePrivate(_)
            )
        })
        .filter(|mapping| pages::view(mapping).is_some())
        .cloned()
        .collect()
}

/// Has a process make a userfaultfd, which it does not keep.
fn begin(process: &mut FrozenProcess) -> Result<io::Result<WriteTracker>, CaptureError> {
    let host = process.host;
    let pidfd = RustixPid::from_raw(host.raw()).expect("a process has a positive ID");
    let pidfd = pidfd_open(pidfd, PidfdFlags::empty());
    let pidfd = pidfd.map_err(|errno| CaptureError::proc(host, "pidfd")(errno.into()))?;
    let leader = &mut process.threads[0].stopped;
    let site = maps::injection_site(host).map_err(CaptureError::proc(host, "maps"))?;
    let injector = Injector::install(leader, &site)?;
    let mut batch = Batch::new();
    let flags = libc::O_CLOEXEC.into();
    let made = batch.attempt(libc::SYS_userfaultfd, &[flags]);
    batch.attempt(libc::SYS_close, &[made.into()]);
    let mut fetched: io::Result<OwnedFd> = Err(io::ErrorKind::NotFound.into());
    let mut fetch = |number: u64| {
        let number = i32::try_from(number.cast_signed()).unwrap_or(-libc::EBADF);
        fetched = if number < 0 {
            Err(io::Error::from_raw_os_error(-number))
        } else {
            let fetched = pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty());
            fetched.map_err(io::Error::from)
        };
    };
    // Whatever happens to us in between, the process closes it.
    let ran = injector.run_pausing(leader, &batch, Some((libc::SYS_close, &mut fetch)));
    let removed = injector.remove(leader, site.foothold);
    ran?;
    removed?;
    Ok(fetched.and_then(WriteTracker::new))
}

impl Tracker {
    /// Whether nothing is followed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Sends what the destination does not have, or has as it is no more. The tree runs.
    ///
    /// Returns the bytes that were sent.
    ///
    /// # Errors
    /// [`CaptureError::Bulk`] from the carrier.
    pub fn round(&mut self, sink: &mut dyn BulkSink) -> Result<u64, CaptureError> {
        let mut buffer = pages::buffer();
        let mut sent = 0;
        let mut ended = Vec::new();
        for process in &mut self.processes {
            match process.round(sink, &mut buffer) {
                Ok(bytes) => sent += bytes,
                Err(CaptureError::Proc { source, .. }) if is_gone(&source) => {
                    ended.push(process.pid);
                }
                Err(error) => return Err(error),
            }
        }
        self.lost |= !ended.is_empty();
        self.processes
            .retain(|process| !ended.contains(&process.pid));
        Ok(sent)
    }

    /// Whether what has been sent may be of memory that is no more.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lost
    }

    /// The tree has been stopped: that its writes are noted is none of its own state.
    pub fn stopped(&mut self, frozen: &mut Frozen) {
        self.lost |= self.processes.iter().any(Followed::is_gone);
        frozen.followed = self.processes.iter().map(|one| one.source.host).collect();
    }

    pub(super) fn of(&mut self, host: HostPid) -> Option<&mut Followed> {
        let mut all = self.processes.iter_mut();
        all.find(|one| one.source.host == host)
    }
}

impl Followed {
    /// Whether the memory is no process' any more. Its mappings may be those of another
    /// program by now, but not what we have open.
    fn is_gone(&self) -> bool {
        let query = Query {
            any: pages::ANY,
            ..Query::default()
        };
        let looked = pagemap::find(&self.source.pagemap, 0, 4096, query);
        looked.is_err_and(|error| is_gone(&error))
    }

    fn round(&mut self, sink: &mut dyn BulkSink, buffer: &mut [u8]) -> Result<u64, CaptureError> {
        let host = self.source.host;
        let areas = maps::read(host).map_err(CaptureError::proc(host, "maps"))?;
        let mut sent = 0;
        for area in areas.iter().filter(|area| is_own(area)) {
            for run in self.written(area) {
                let room: Vec<_> = places(&self.room, &run).map(|(_, place)| place).collect();
                for run in room {
                    sent += self.send(run, sink, buffer)?;
                }
            }
        }
        Ok(sent)
    }

    /// What has been written to since the last round, and counts as not written to from now on.
    fn written(&mut self, area: &Area) -> Vec<Range<u64>> {
        let regions = self.clear(area).or_else(|_| {
            // It is new, or another one than before.
            self.fresh.remove(area.start..area.end);
            self.writes.register(area.start, area.end)?;
            self.clear(area)
        });
        let Ok(regions) = regions else {
            // The kernel's, or gone again: for the last round.
            self.fresh.remove(area.start..area.end);
            return Vec::new();
        };
        let mut runs = Vec::new();
        for region in regions {
            self.fresh.remove(region.start..region.end);
            if pages::is_own(&region, area.inode != 0) {
                runs.push(region.start..region.end);
            }
        }
        runs
    }

    fn clear(&self, area: &Area) -> io::Result<Vec<Region>> {
        let query = Query {
            all: pagemap::WRITTEN,
            any: pages::ANY,
            returned: pages::RETURNED,
            tracked: true,
            clear: true,
        };
        pagemap::find(&self.source.pagemap, area.start, area.end, query)
    }

    fn send(
        &mut self,
        run: Range<u64>,
        sink: &mut dyn BulkSink,
        buffer: &mut [u8],
    ) -> Result<u64, CaptureError> {
        let mut sent = 0;
        for piece in pages::pieces(run) {
            match self.source.send(self.pid, piece.clone(), sink, buffer) {
                Ok(()) => {
                    sent += piece.end - piece.start;
                    self.there.insert(piece.clone());
                    self.fresh.insert(piece);
                }
                // Unmapped since: what is there now comes in the next round.
                Err(CaptureError::Proc { source, .. }) if unreadable(&source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// The process stands still: forgets what has been written to of a mapping since, and
    /// returns what of it the destination need not be sent.
    pub(super) fn still_right(
        &mut self,
        mapping: &Mapping,
        of_file: bool,
    ) -> io::Result<Vec<Range<u64>>> {
        let range = mapping.start..mapping.end;
        // A page that has been taken away shows as written to only as long as there is a
        // page table for it: what is not there is to be seen by what is.
        let query = Query {
            any: pages::ANY,
            returned: pagemap::WRITTEN | pages::RETURNED,
            tracked: true,
            ..Query::default()
        };
        let known: Vec<_> = clipped(&self.fresh, &range).collect();
        for piece in known {
            let found = pagemap::find(&self.source.pagemap, piece.start, piece.end, query);
            self.fresh.remove(piece);
            match found {
                Ok(regions) => {
                    let right = regions.iter().filter(|region| {
                        let written = region.categories & pagemap::WRITTEN != 0;
                        !written && pages::is_own(region, of_file)
                    });
                    right.for_each(|region| self.fresh.insert(region.start..region.end));
                }
                Err(error) if is_gone(&error) => return Err(error),
                Err(_) => {}
            }
        }
        // What is another mapping now is made anew at the destination, without contents.
        let kept = places(&self.room, &range).filter(|(old, _)| goes_on(old, mapping));
        Ok(kept
            .flat_map(|(_, place)| clipped(&self.fresh, &place).collect::<Vec<_>>())
            .collect())
    }

    /// What of a mapping the destination has and must not have: all of it but `kept`.
    pub(super) fn outdated(&self, mapping: &Mapping, kept: &RangeSet<u64>) -> Vec<Range<u64>> {
        let mut outdated: RangeSet<u64> =
            clipped(&self.there, &(mapping.start..mapping.end)).collect();
        for range in kept.overlapping(mapping.start..mapping.end) {
            outdated.remove(range.clone());
        }
        outdated.into_iter().collect()
    }
}

/// The mappings that lie in a range, and where in it they do.
fn places<'a>(
    mappings: &'a [Mapping],
    range: &Range<u64>,
) -> impl Iterator<Item = (&'a Mapping, Range<u64>)> + use<'a> {
    let Range { start, end } = *range;
    let first = mappings.partition_point(|mapping| mapping.end <= start);
    mappings[first..]
        .iter()
        .take_while(move |mapping| mapping.start < end)
        .map(move |mapping| (mapping, mapping.start.max(start)..mapping.end.min(end)))
}

/// Whether nothing but its ends and its protection can have changed.
fn goes_on(old: &Mapping, new: &Mapping) -> bool {
    let backing = match (&old.backing, &new.backing) {
        (Backing::Anonymous, Backing::Anonymous) => true,
        (Backing::FilePrivate(a), Backing::FilePrivate(b)) => {
            let (then, now) = (
                a.offset.wrapping_sub(old.start),
                b.offset.wrapping_sub(new.start),
            );
            a.file == b.file && then == now
        }
        _ => false,
    };
    backing && old.flags == new.flags && old.name == new.name && old.policy == new.policy
}

fn clipped<'a>(
    set: &'a RangeSet<u64>,
    range: &'a Range<u64>,
) -> impl Iterator<Item = Range<u64>> + 'a {
    set.overlapping(range.clone())
        .map(|found| found.start.max(range.start)..found.end.min(range.end))
}

/// Memory that belongs to the process alone, or may.
fn is_own(area: &Area) -> bool {
    let of_kernel = [b"[vdso]".as_slice(), b"[vsyscall]"].contains(&area.name.as_slice());
    !area.shared && !of_kernel && !area.name.starts_with(b"[vvar")
}
