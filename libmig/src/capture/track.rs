//! Memory that is sent while the job runs, and what becomes wrong of it meanwhile.
//!
//! A page is protected first and copied then (userfaultfd WP_ASYNC, PAGEMAP_SCAN): a write that comes
//! in between makes it count as written again. What cannot be followed (a mapping that came
//! a moment ago, was moved by mremap(2), or has a userfaultfd of the program's own; a view of a file;
//! a child that was forked; a program that was exec'd) is sent when the job stands still.

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
    proof::Proof,
};
use crate::{
    image::{Draft, MemoryImage, Pid, ProcessKind},
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
    /// The memory that the destination has made room for.
    drafted: MemoryImage,
    /// What has been sent at any time.
    there: RangeSet<u64>,
    /// What was right when it was sent, and has been followed since.
    fresh: RangeSet<u64>,
    proof: Proof,
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
            let Some(drafted) = memory(draft, pid) else {
                continue;
            };
            match begin(process)? {
                Ok(writes) => tracker.processes.push(Followed {
                    pid,
                    source: Source::open(host)?,
                    writes,
                    drafted: drafted.clone(),
                    there: RangeSet::new(),
                    fresh: RangeSet::new(),
                    proof: Proof::default(),
                }),
                Err(error) => tracing::info!(pid, %error, "its writes cannot be followed"),
            }
        }
        Ok(tracker)
    }
}

fn memory(draft: &Draft, pid: Pid) -> Option<&MemoryImage> {
    let mut processes = draft.image.processes.iter();
    let process = processes.find(|process| process.pid == pid)?;
    match &process.kind {
        ProcessKind::Live(live) => Some(&live.memory),
        ProcessKind::Zombie { .. } => None,
    }
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
                for run in self.room(&run) {
                    sent += self.send(run, sink, buffer)?;
                }
            }
        }
        Ok(sent)
    }

    /// Where in a range the destination has a place for contents.
    fn room(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mappings = &self.drafted.mappings;
        let first = mappings.partition_point(|mapping| mapping.end <= range.start);
        let over = mappings[first..]
            .iter()
            .take_while(|mapping| mapping.start < range.end);
        over.filter(|mapping| mapping.can_be_followed())
            .map(|mapping| mapping.start.max(range.start)..mapping.end.min(range.end))
            .collect()
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
            if pages::is_own(&region, false) {
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
                Ok(bytes) => {
                    sent += piece.end - piece.start;
                    self.proof.note(piece.start, bytes);
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

    /// The process stands still, and has the memory `now`: what of it the destination need not be sent.
    pub(super) fn still_right(&mut self, now: &MemoryImage) -> io::Result<RangeSet<u64>> {
        let mut right = RangeSet::new();
        // What is another mapping now is made anew at the destination, without contents.
        for lasting in now.lasting(&self.drafted) {
            let known: Vec<_> = pages::clipped(&self.fresh, &lasting).collect();
            for piece in known {
                match self.unwritten(&piece) {
                    Ok(pieces) => right.extend(pieces),
                    Err(error) if is_gone(&error) => return Err(error),
                    // It is not followed any more.
                    Err(_) => {}
                }
            }
        }
        self.fresh = right.clone();
        self.proof.check(&self.source, &right)?;
        Ok(right)
    }

    /// What of a range is there, and has not been written to.
    fn unwritten(&self, range: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
        // A page that has been taken away shows as written to only as long as there is a
        // page table for it: what is not there is to be seen by what is.
        let query = Query {
            any: pages::ANY,
            returned: pagemap::WRITTEN | pages::RETURNED,
            tracked: true,
            ..Query::default()
        };
        let found = pagemap::find(&self.source.pagemap, range.start, range.end, query)?;
        let unwritten = found.iter().filter(|region| {
            let written = region.categories & pagemap::WRITTEN != 0;
            !written && pages::is_own(region, false)
        });
        Ok(unwritten.map(|region| region.start..region.end).collect())
    }

    /// Somebody may have written to its memory unseen: all of it is to be sent once more.
    pub(super) fn distrust(&mut self) {
        self.fresh.clear();
    }

    /// What the destination has been sent at any time.
    pub(super) fn sent(&self) -> &RangeSet<u64> {
        &self.there
    }
}

/// Anonymous memory of the process alone, or what may be.
fn is_own(area: &Area) -> bool {
    let of_kernel = [b"[vdso]".as_slice(), b"[vsyscall]"].contains(&area.name.as_slice());
    !area.shared && area.inode == 0 && !of_kernel && !area.name.starts_with(b"[vvar")
}
