//! Rings of io_uring(7): a new one is brought to the counts of the old one.

use std::{fs::File, io};

use super::error::{RestoreError, host};
use crate::{
    api::Obstacle,
    image::RingState,
    sys::uring::{self, Memory, array_at},
};

/// As many as a capture lets pass.
const MOST_ENTRIES: u32 = 1 << 16;
const MOST_REQUESTS: u32 = 1 << 25;

/// A ring as it was, with nothing going on in it.
pub(super) fn make(state: &RingState) -> Result<File, RestoreError> {
    let RingState {
        sq_entries,
        cq_entries,
        served,
        ..
    } = *state;
    if sq_entries.max(cq_entries) > MOST_ENTRIES || served > MOST_REQUESTS {
        let reason = "is larger than any that is sent";
        return Err(obstacle(reason, "report it: the source should not have sent this").into());
    }
    let made = uring::make(sq_entries, cq_entries).map_err(refused)?;
    if state.features & !made.features != 0 {
        let reason = "needs an io_uring that can do more than that of the destination's kernel";
        return Err(obstacle(reason, "move the job to a node with a newer kernel").into());
    }
    let failed = || host("bring an io_uring to the counts that it had");
    let memory = Memory::map(&made.ring, sq_entries, cq_entries).map_err(failed())?;
    let (blank, entries) = memory.read();
    let at = usize::try_from(array_at(cq_entries)).map_err(|_| too_large())?;
    let identity: Vec<u8> = (0..sq_entries).flat_map(u32::to_le_bytes).collect();
    memory.write(&with_array(&blank, at, &identity), &entries);
    memory
        .advance(&made.ring, sq_entries, served)
        .map_err(failed())?;
    // Without an array of indexes (IORING_SETUP_NO_SQARRAY) entry n is the nth.
    let array = state.queues.get(at..at + identity.len());
    let queues = match array {
        Some(indexes) if indexes.iter().any(|byte| *byte != 0) => state.queues.clone(),
        _ => with_array(&state.queues, at, &identity),
    };
    memory.write(&queues, &state.entries);
    Ok(made.ring.into())
}

fn with_array(queues: &[u8], at: usize, array: &[u8]) -> Vec<u8> {
    let mut queues = queues.to_vec();
    queues.resize(queues.len().max(at + array.len()), 0);
    queues[at..at + array.len()].copy_from_slice(array);
    queues
}

fn too_large() -> RestoreError {
    host("lay out an io_uring")(io::Error::from(io::ErrorKind::OutOfMemory))
}

fn refused(error: io::Error) -> RestoreError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => obstacle(
            "needs io_uring, which is switched off at the destination",
            "set kernel.io_uring_disabled to 0 there, or start the program without io_uring",
        )
        .into(),
        _ => host("make an io_uring")(error),
    }
}

fn obstacle(reason: &str, remedy: &str) -> Obstacle {
    Obstacle {
        pid: None,
        object: "io_uring".into(),
        reason: reason.into(),
        remedy: remedy.into(),
        transient: false,
    }
}
