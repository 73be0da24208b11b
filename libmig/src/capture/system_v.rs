//! Objects of the capsule's IPC namespace. Nothing is taken out, and no time stamp changes
//! but those of a segment that nobody has attached.

use std::io;

use super::{CaptureError, SharedRegistry, mqueue, segments};
use crate::{
    api::Obstacle,
    image::{MessageQueue, Pid, SemaphoreSet, SystemV},
    inspect::{
        refusal,
        system_v::{self, Line},
    },
    sys::{
        HostPid,
        sched::{self, Shared},
        survivor::Shield,
        system_v as calls,
    },
};

/// All that the namespace of `init` has. Segments become shared objects; `doubtful` are
/// refused when they may have adjustments.
pub(super) fn capture(
    init: HostPid,
    processes: &[(Pid, HostPid)],
    doubtful: &[(Pid, HostPid)],
    shared: &mut SharedRegistry,
) -> Result<SystemV, CaptureError> {
    let read = || {
        let mut obstacles = Vec::new();
        let mut segments = Vec::new();
        let lines = system_v::table("shm")?;
        if !lines.is_empty() {
            let attached = segments::attached(processes)?;
            for line in &lines {
                match segments::look(line, &attached)? {
                    Ok(found) => segments.push(found),
                    Err(obstacle) => obstacles.push(obstacle),
                }
            }
        }
        let sets = system_v::table("sem")?;
        if !sets.is_empty() {
            obstacles.extend(adjusting(doubtful)?);
        }
        let told = mqueue::list_notifying()?;
        obstacles.extend(told.iter().map(|name| refusal::notifying_queue(name)));
        let posix_queues = match obstacles.is_empty() {
            true => mqueue::capture()?,
            false => Vec::new(),
        };
        let image = SystemV {
            semaphores: sets.iter().map(set).collect::<io::Result<_>>()?,
            queues: system_v::table("msg")?
                .iter()
                .map(queue)
                .collect::<io::Result<_>>()?,
            adjustments: Vec::new(),
            posix_queues,
        };
        Ok((image, segments, obstacles))
    };
    let failed = || CaptureError::proc(init, "the System V objects");
    // For as long as messages are taken out; the thread that does so inherits it.
    let _shield = Shield::raise();
    let Some((image, segments, obstacles)) = system_v::within(init, read).map_err(failed())? else {
        return Ok(SystemV::default());
    };
    if !obstacles.is_empty() {
        return Err(CaptureError::Obstacles(obstacles));
    }
    for found in segments {
        shared.add_segment(found).map_err(failed())?;
    }
    Ok(image)
}

fn set(line: &Line) -> io::Result<SemaphoreSet> {
    let count = usize::try_from(line.get("nsems")).unwrap_or(0);
    Ok(SemaphoreSet {
        object: line.object.clone(),
        operated: line.get("otime") != 0,
        values: calls::values(line.object.id, count)?,
    })
}

fn queue(line: &Line) -> io::Result<MessageQueue> {
    let id = line.object.id;
    let longest = usize::try_from(line.get("cbytes")).unwrap_or(0);
    let mut messages = Vec::new();
    for place in 0..line.get("qnum") {
        let message = calls::peek(id, place, longest)?;
        let (kind, text) = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        messages.push((kind, text.into()));
    }
    Ok(MessageQueue {
        object: line.object.clone(),
        capacity: calls::capacity(id)?,
        messages,
    })
}

/// Processes that have a list of SEM_UNDO adjustments, whose contents nobody can read.
fn adjusting(processes: &[(Pid, HostPid)]) -> io::Result<Vec<Obstacle>> {
    system_v::without_adjustments()?;
    let own = HostPid::new(nix::unistd::gettid().as_raw());
    let mut found = Vec::new();
    for (pid, host) in processes {
        if !sched::share(own, *host, Shared::Adjustments)? {
            found.push(Obstacle {
                pid: Some(*pid),
                object: format!("process {pid}"),
                reason: "it may have used SEM_UNDO on System V semaphores (as far as anybody can tell, any program with threads may)".to_owned(),
                remedy: "use semop without SEM_UNDO and without threads, or POSIX semaphores".to_owned(),
                transient: false,
            });
        }
    }
    Ok(found)
}
