//! All processes of a job: those below its capsule's init, while they run,
//! fork and end.

use std::collections::BTreeSet;

use super::{Status, children, status, threads};
use crate::{image::Pid, inspect::text, sys::HostPid};

/// Which processes are to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All below a capsule's init, which stays.
    Below(HostPid),
    /// A process that no capsule holds, and all below it.
    From(HostPid),
}

impl From<HostPid> for Scope {
    fn from(init: HostPid) -> Self {
        Self::Below(init)
    }
}

impl Scope {
    /// Where the tree begins, whether that moves or not.
    #[must_use]
    pub const fn top(self) -> HostPid {
        match self {
            Self::Below(top) | Self::From(top) => top,
        }
    }

    /// Whose namespaces and root directory the tree is measured by: the
    /// capsule's init, or, where there is no capsule, this daemon.
    #[must_use]
    pub fn keeper(self) -> HostPid {
        match self {
            Self::Below(init) => init,
            Self::From(_) => HostPid::own(),
        }
    }

    /// Leaves the top away where it does not move.
    pub(crate) fn without_init(self, mut found: Vec<HostPid>) -> Vec<HostPid> {
        if matches!(self, Self::Below(_)) {
            found.remove(0);
        }
        found
    }
}

/// How often to look before a tree that will not hold still is taken as it is.
const LOOKS: usize = 8;

/// The processes of a scope, parents before children: the ID here and the
/// ID in the capsule. Zombies are among them, a capsule's init is not. What ends while
/// this looks is left out.
#[must_use]
pub fn tree(scope: impl Into<Scope>) -> Vec<(HostPid, Pid)> {
    let scope = scope.into();
    let level = level(scope.keeper());
    // A process whose parent ends between two looks hangs on the init, whose
    // children have been read by then: only two equal looks are the truth.
    let mut found = members(scope);
    for _ in 0..LOOKS {
        let again = members(scope);
        if again == found {
            break;
        }
        found = again;
    }
    let id = |host| id_at(&status(host).ok()?.ns_pid, level);
    found
        .into_iter()
        .filter_map(|host| Some((host, id(host)?)))
        .collect()
}

/// What a destination must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Processes, zombies included.
    pub processes: u32,
    /// The highest ID in use in the capsule, of a thread, a process, a process
    /// group or a session; 0 for an empty tree.
    pub highest_tid: Pid,
    /// Memory in use, as `/proc/PID/statm` counts it: pages that processes
    /// share count once for each of them.
    pub resident_bytes: u64,
}

/// The size of the tree of a scope, at this instant.
#[must_use]
pub fn size(scope: impl Into<Scope>) -> Size {
    let scope = scope.into();
    let level = level(scope.keeper());
    let mut size = Size::default();
    for (host, pid) in tree(scope) {
        size.processes += 1;
        size.highest_tid = size.highest_tid.max(pid);
        size.resident_bytes = size.resident_bytes.saturating_add(resident_bytes(host));
        for status in threads(host).into_iter().flatten().flat_map(status) {
            let Status {
                ns_pid,
                ns_pgid,
                ns_sid,
                ..
            } = status;
            // The leader of a group or a session may be gone, its ID is not.
            for ids in [ns_pid, ns_pgid, ns_sid] {
                size.highest_tid = size.highest_tid.max(id_at(&ids, level).unwrap_or(0));
            }
        }
    }
    size
}

/// Index of the capsule's pid namespace in the lists of `/proc/PID/status`.
#[must_use]
pub fn level(init: HostPid) -> usize {
    status(init).map_or(0, |status| status.ns_pid.len().saturating_sub(1))
}

/// The entry of a capsule in a list such as NSpid.
#[must_use]
pub fn id_at(ids: &[i32], level: usize) -> Option<Pid> {
    ids.get(level).copied()
}

fn members(scope: Scope) -> Vec<HostPid> {
    let top = scope.top();
    let mut found = vec![top];
    let mut seen = BTreeSet::from([top]);
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        let born = children(parent).unwrap_or_default();
        found.extend(born.into_iter().filter(|child| seen.insert(*child)));
    }
    scope.without_init(found)
}

/// Field 2 of statm; 0 when the process is gone.
fn resident_bytes(host: HostPid) -> u64 {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let pages = text::string(format!("/proc/{host}/statm"))
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(page)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Reaped(Child);

    impl Drop for Reaped {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[test]
    fn a_tree_is_found_from_its_top() {
        use std::io::BufRead;
        let mut top = Reaped(
            Command::new("sh")
                .args(["-c", "exec 3<&0; cat <&3 & echo $!; wait"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        let mut output = std::io::BufReader::new(top.0.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let init = HostPid::new(top.0.id().cast_signed());
        let child: i32 = line.trim().parse().unwrap();
        let pids: Vec<i32> = tree(init).iter().map(|(host, _)| host.raw()).collect();
        assert_eq!(pids, [child]);
        let whole: Vec<i32> = tree(Scope::From(init))
            .iter()
            .map(|(h, _)| h.raw())
            .collect();
        assert_eq!(whole, [init.raw(), child]);
        let size = size(init);
        assert_eq!(size.processes, 1);
        assert!(size.highest_tid >= child);
        assert!(size.resident_bytes > 4096, "{size:?}");
    }

    #[test]
    fn nothing_is_below_what_does_not_exist() {
        assert_eq!(tree(HostPid::new(i32::MAX)), []);
        assert_eq!(size(HostPid::new(i32::MAX)), Size::default());
    }

    #[test]
    fn the_level_of_the_capsule_counts() {
        assert_eq!(id_at(&[4711, 12, 3], 1), Some(12));
        assert_eq!(id_at(&[4711], 1), None);
    }
}
