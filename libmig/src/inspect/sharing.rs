//! What processes share by clone(2), as only threads should: a copy of each
//! would not.

use std::cmp::Ordering;

use crate::{
    image::Pid,
    sys::{
        HostPid,
        sched::{self, Shared},
    },
};

/// What processes may share, and what to call it.
const KINDS: [(Shared, &str); 4] = [
    (Shared::Memory, "its address space"),
    (Shared::Files, "its descriptor table"),
    (Shared::Fs, "its current directory and umask"),
    (Shared::Actions, "its signal handlers"),
];

/// One thing that two processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whom a process shares it with.
    pub other: HostPid,
    /// What it is.
    pub what: Shared,
    name: &'static str,
}

/// What the user can do.
pub const REMEDY: &str = "none yet: only threads may share these, not processes (clone)";

impl Link {
    /// Why the process cannot move; `other` is the ID of the other in the capsule.
    #[must_use]
    pub fn reason(&self, other: Pid) -> String {
        format!("it shares {} with process {other}", self.name)
    }
}

/// Everything that two processes share. For the dead it means nothing: they
/// have nothing, and the kernel finds that they share it.
pub fn between(one: HostPid, other: HostPid) -> impl Iterator<Item = Link> {
    KINDS
        .into_iter()
        .filter(move |(what, _)| sched::share(one, other, *what).unwrap_or(false))
        .map(move |(what, name)| Link { other, what, name })
}

/// Finds the processes of a set that share something, each pair once.
#[derive(Debug, Default)]
pub struct Sharers {
    /// For each of [`KINDS`] one holder of each object, in kcmp's order.
    holders: [Vec<HostPid>; KINDS.len()],
}

impl Sharers {
    /// What a process shares with those that were added before.
    pub fn add(&mut self, process: HostPid) -> Vec<Link> {
        let mut found = Vec::new();
        for (holders, (what, name)) in self.holders.iter_mut().zip(KINDS) {
            // One that has ended meanwhile compares at random; a search does
            // not mind, and whoever asks looks at what it finds once more.
            let order =
                |other: &HostPid| sched::compare(*other, process, what).unwrap_or(Ordering::Less);
            match holders.binary_search_by(order) {
                Ok(at) => found.push(Link {
                    other: holders[at],
                    what,
                    name,
                }),
                Err(at) => holders.insert(at, process),
            }
        }
        found
    }
}
