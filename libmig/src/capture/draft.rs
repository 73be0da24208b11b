//! What a frozen tree looks like, before it runs on for a while.

use super::{CaptureError, Frozen, Tables};
use crate::{
    image::{ChildSpace, Draft, JobImage, LiveProcess, Process, ProcessKind, Seat, SystemV},
    inspect::process,
};

/// Major number of the slaves of ptys (Unix98).
const PTS: u32 = 136;

impl Frozen {
    /// What is needed to make the processes elsewhere and to fill their memory.
    ///
    /// `None` for a tree with several terminals, or namespaces of its own: a process gets them
    /// when it is made, and they cannot be made before the tree stands still.
    ///
    /// # Errors
    /// As [`Frozen::capture`].
    pub fn draft(&mut self) -> Result<Option<Draft>, CaptureError> {
        let captured = self.capture(|_, _| Ok::<_, CaptureError>(Tables::default()))?;
        let Ok(console) = self.console(&captured.image) else {
            return Ok(None);
        };
        if !captured.image.namespaces.is_empty() || captured.image.processes.iter().any(apart) {
            return Ok(None);
        }
        let image = JobImage {
            capsule: captured.image.capsule,
            processes: captured.image.processes,
            files: Vec::new(),
            pipes: Vec::new(),
            ttys: Vec::new(),
            shared: Vec::new(),
            locks: Vec::new(),
            shm: Vec::new(),
            system_v: SystemV::default(),
            namespaces: Vec::new(),
            systems: Vec::new(),
        };
        Ok(Some(Draft { image, console }))
    }

    /// The only terminal that controls a session.
    fn console(&self, image: &JobImage) -> Result<Option<Seat>, Several> {
        let mut console = None;
        for (frozen, process) in self.processes.iter().zip(&image.processes) {
            if !matches!(process.kind, ProcessKind::Live(_)) {
                continue;
            }
            let stat = process::stat(frozen.host).map_err(|_| Several)?;
            let Some((major, index)) = stat.controlling_terminal() else {
                continue;
            };
            let seat = Seat {
                index,
                session: process.sid,
            };
            if major != PTS || console.is_some_and(|known| known != seat) {
                return Err(Several);
            }
            console = Some(seat);
        }
        Ok(console)
    }
}

/// In a pid namespace of the job, or about to have children in one.
fn apart(process: &Process) -> bool {
    let unshared = |live: &LiveProcess| live.child_space != ChildSpace::Own;
    !process.inner.pid.is_empty()
        || matches!(&process.kind, ProcessKind::Live(live) if unshared(live))
}

/// More than one terminal, or one that is no pty.
struct Several;
