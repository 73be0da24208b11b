//! What a tree looks like while it runs: enough to make its processes elsewhere and to
//! fill their memory, before it is stopped for good.

use serde::{Deserialize, Serialize};

use super::{JobImage, Pid, Process, ProcessKind};

/// A tree that goes on running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its processes and their memory; nothing else is in it.
    pub image: JobImage,
    /// The job's own terminal, when a session has it.
    pub console: Option<Seat>,
}

/// A session and its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// /dev/pts/INDEX of the capsule.
    pub index: u32,
    /// The session's leader.
    pub session: Pid,
}

impl Draft {
    /// Whether a tree that was made by this draft can become `image`: the same processes
    /// with the same relations. Their memory may have changed.
    #[must_use]
    pub fn fits(&self, image: &JobImage) -> bool {
        let mut pairs = self.image.processes.iter().zip(&image.processes);
        self.image.processes.len() == image.processes.len()
            && pairs.all(|(before, now)| place(before) == place(now) && fits(before, now))
    }
}

fn place(process: &Process) -> [Pid; 4] {
    [process.pid, process.ppid, process.pgid, process.sid]
}

/// A program that was exec'd has another memory altogether.
fn fits(before: &Process, now: &Process) -> bool {
    match (&before.kind, &now.kind) {
        (ProcessKind::Live(before), ProcessKind::Live(now)) => {
            before.memory.exe == now.memory.exe && before.memory.exe_object == now.memory.exe_object
        }
        (ProcessKind::Zombie { .. }, ProcessKind::Zombie { .. }) => true,
        _ => false,
    }
}
