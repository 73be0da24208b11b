//! Rings of io_uring(7) in which nothing goes on.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::process::{Pid as RustixPid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::SharedRegistry;
use crate::{
    api::Obstacle,
    image::{Pid, RingState, SharedId},
    inspect::{
        fd::Seen,
        refusal::Refusal,
        uring::{RingInfo, descriptor},
    },
    sys::{
        HostPid,
        uring::{self, Memory, Trait, at},
    },
};

/// Why a ring was not captured.
pub(super) enum RingError {
    /// It cannot travel.
    Refused(Refusal),
    /// The kernel would not show it.
    Host(io::Error),
}

impl From<io::Error> for RingError {
    fn from(source: io::Error) -> Self {
        Self::Host(source)
    }
}

/// Of a process, a thread of which calls a ring by a number of its own.
pub(super) fn registered(pid: Pid) -> Obstacle {
    let refusal = Refusal::ring(
        "a thread has registered it (IORING_REGISTER_RING_FDS)",
        false,
    );
    Obstacle {
        pid: Some(pid),
        object: "io_uring".to_owned(),
        reason: refusal.reason,
        remedy: refusal.remedy,
        transient: false,
    }
}

/// The number of the ring that `copy` is open on, which fdinfo says `info` of.
pub(super) fn intern(
    shared: &mut SharedRegistry,
    copy: &OwnedFd,
    info: &RingInfo,
) -> Result<SharedId, RingError> {
    let stat = rustix::fs::fstat(copy).map_err(io::Error::from)?;
    let key = (stat.st_dev, stat.st_ino);
    if let Some(known) = shared.known(key.0, key.1) {
        return Ok(known);
    }
    let state = state(copy, info)?;
    Ok(shared.intern_ring(key, copy.try_clone()?, state)?)
}

/// The ring that a process has mapped: nobody but its descriptor leads to it.
pub(super) fn mapped(
    shared: &mut SharedRegistry,
    host: HostPid,
    inode: u64,
) -> Result<SharedId, RingError> {
    let number =
        descriptor(host, inode)?.ok_or_else(|| RingError::Refused(Refusal::closed_ring()))?;
    let seen = Seen::look(host, number).map_err(io::Error::other)?;
    let Some(info) = &seen.info.ring else {
        return Err(RingError::Refused(Refusal::closed_ring()));
    };
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let pid = RustixPid::from_raw(host.raw()).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
    let copy = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).map_err(io::Error::from)?;
    intern(shared, &copy, info)
}

fn state(ring: &impl AsFd, info: &RingInfo) -> Result<RingState, RingError> {
    if let Some(refusal) = info.refusal() {
        return Err(RingError::Refused(refusal));
    }
    let lasting = |reason| Err(RingError::Refused(Refusal::ring(reason, false)));
    match uring::traits(ring, info.answered == info.reaped)? {
        None => {}
        Some(Trait::OneThread) => {
            return lasting("it was made for one thread (IORING_SETUP_SINGLE_ISSUER)");
        }
        Some(Trait::Disabled) => return lasting("it is not enabled yet"),
        Some(Trait::Polled) => return lasting("it polls a device (IORING_SETUP_IOPOLL)"),
        Some(Trait::Eventfd) => return lasting("it has a registered eventfd"),
        Some(Trait::Buffers) => return lasting("it has provided buffers"),
    }
    let memory = Memory::map(ring, info.sq_entries, info.cq_entries)?;
    let (queues, entries) = memory.read();
    let counter = |place: usize| queues.get(place..place + 4).and_then(<[u8]>::first_chunk);
    let counters = [at::SQ_HEAD, at::CQ_TAIL, at::DROPPED].map(|place| counter(place).copied());
    let expected = [info.taken, info.answered, 0].map(|value| Some(value.to_le_bytes()));
    if counters != expected {
        return lasting("its queues do not agree with the kernel's counts");
    }
    let features = uring::make(info.sq_entries, info.cq_entries)?.features;
    Ok(RingState {
        sq_entries: info.sq_entries,
        cq_entries: info.cq_entries,
        served: info.taken,
        features,
        queues,
        entries,
    })
}
