//! Resource limits: set by the process itself, since prlimit(2) from outside
//! needs CAP_SYS_RESOURCE as soon as the user IDs differ. After memory,
//! descriptors and timers, which they would stand in the way of.

use rustix::process::getrlimit;

use crate::{
    image::{Limit, Pid},
    sys::{remote::Batch, resource::RESOURCES},
};

/// Adds the limits of process `pid`. A hard limit above this node's becomes
/// this node's: nobody without CAP_SYS_RESOURCE could raise it.
pub(super) fn set(batch: &mut Batch, pid: Pid, limits: &[Limit]) {
    for ((number, wanted), resource) in (0u64..).zip(limits).zip(RESOURCES) {
        let node = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let hard = wanted.hard.min(node);
        if hard < wanted.hard {
            tracing::info!(
                pid,
                ?resource,
                wanted = wanted.hard,
                given = hard,
                "limit lowered to that of this node"
            );
        }
        let words = [wanted.soft.min(hard), hard];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let limit = batch.data(&bytes);
        // The capsule's init may have less than the daemon; then its limit stays.
        batch.attempt(
            libc::SYS_prlimit64,
            &[0u64.into(), number.into(), limit.into(), 0u64.into()],
        );
    }
}
