//! Naming a process for sure: a pid alone may have been given to someone else.

use procfs::process::Process;
use serde::{Deserialize, Serialize};

/// A process of the machine, by pid and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks since boot, `/proc/PID/stat` field 22.
    pub(crate) start: u64,
}

impl ProcessId {
    /// Names the process that has this pid now; None when there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
        Some(Self {
            pid,
            start: stat.starttime,
        })
    }

    /// Whether this very process still runs. A zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        let stat = Process::new(self.pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.starttime == self.start && stat.state != 'Z')
    }

    /// Whether anything, be it a zombie, is left of it.
    pub(crate) fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_another_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = ProcessId::of(pid).unwrap();
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                start: me.start + 1,
                ..me
            }
            .is_alive()
        );
    }
}
