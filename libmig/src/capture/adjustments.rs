//! SEM_UNDO adjustments of System V semaphores. No kernel shows them, and every program with
//! threads has a list of them, empty as a rule. But semop(2) refuses what would take an adjustment
//! out of its range, and this before anything has changed: the process itself is let try.

use std::{fs, io, thread};

use super::{CaptureError, freeze::FrozenProcess};
use crate::{
    api::Obstacle,
    image::SemaphoreSet,
    inspect::{maps, system_v},
    sys::{
        HostPid,
        ptrace::Stopped,
        remote::{Batch, Injector, Outcome, Slot},
        sched::{self, Shared},
        survivor::Shield,
    },
};

/// SEMVMX and SEMAEM: the largest value, and the largest adjustment; the smallest is one further from zero.
const MOST: i32 = 32767;
const SEM_UNDO: i16 = 0x1000;
const IPC_NOWAIT: i16 = 0x800;
/// Semaphores that are asked about at once.
const AT_ONCE: usize = 64;

/// Refuses processes that have adjustments. Those in IPC namespaces of their own are left out.
pub(super) fn refuse(
    keeper: HostPid,
    processes: &mut [FrozenProcess],
    sets: &[SemaphoreSet],
) -> Result<(), CaptureError> {
    if sets.is_empty() {
        return Ok(());
    }
    let space = |host: HostPid| {
        fs::read_link(format!("/proc/{host}/ns/ipc")).map_err(CaptureError::proc(host, "ns/ipc"))
    };
    let home = space(keeper)?;
    let mut obstacles = Vec::new();
    for process in processes {
        let threads: Vec<HostPid> = process
            .threads
            .iter()
            .map(|one| one.stopped.thread())
            .collect();
        let Some(first) = process.threads.first_mut() else {
            continue;
        };
        let failed = || CaptureError::proc(process.host, "its SEM_UNDO adjustments");
        if space(process.host)? != home || !have_some(&threads).map_err(failed())? {
            continue;
        }
        let (mut object, mut reason) = (None, "it has used SEM_UNDO on System V semaphores");
        if same(&threads).map_err(failed())? {
            let adjusted = adjusted(&mut first.stopped, sets)?;
            object = adjusted.map(|id| format!("process {} and semaphore set {id}", process.pid));
        } else {
            object = object.or_else(|| Some(format!("process {}", process.pid)));
            reason = "its threads do not share what SEM_UNDO adjusts";
        }
        obstacles.extend(object.map(|object| {
            Obstacle {
                pid: Some(process.pid),
                object,
                reason: reason.to_owned(),
                remedy: "use semop without SEM_UNDO, or move when what it has taken is given back"
                    .to_owned(),
                transient: false,
            }
        }));
    }
    if obstacles.is_empty() {
        return Ok(());
    }
    Err(CaptureError::Obstacles(obstacles))
}

/// Whether any of these has a list.
fn have_some(threads: &[HostPid]) -> io::Result<bool> {
    // unshare(2) concerns the calling thread alone.
    let compare = || {
        system_v::without_adjustments()?;
        let own = HostPid::new(nix::unistd::gettid().as_raw());
        for thread in threads {
            if !sched::share(own, *thread, Shared::Adjustments)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let compared = thread::scope(|scope| scope.spawn(compare).join());
    compared.map_err(|_| io::Error::other("the comparison of SEM_UNDO lists panicked"))?
}

fn same(threads: &[HostPid]) -> io::Result<bool> {
    for pair in threads.windows(2) {
        if !sched::share(pair[0], pair[1], Shared::Adjustments)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A set with an adjustment, or with one that cannot be told.
fn adjusted(leader: &mut Stopped, sets: &[SemaphoreSet]) -> Result<Option<i32>, CaptureError> {
    let pid = leader.thread();
    let site = maps::injection_site(pid).map_err(CaptureError::proc(pid, "maps"))?;
    let all = sets.iter().flat_map(|set| {
        let values = (0u16..).zip(&set.values);
        values.map(|(number, value)| (set.object.id, number, *value))
    });
    let all: Vec<(i32, u16, u16)> = all.collect();
    let _shield = Shield::raise();
    let injector = Injector::install(leader, &site)?;
    let mut found = Ok(None);
    for some in all.chunks(AT_ONCE) {
        found = ask(leader, injector, some);
        if !matches!(found, Ok(None)) {
            break;
        }
    }
    let removed = injector.remove(leader, site.foothold);
    let found = found?;
    removed?;
    Ok(found)
}

fn ask(
    leader: &mut Stopped,
    injector: Injector,
    some: &[(i32, u16, u16)],
) -> Result<Option<i32>, CaptureError> {
    let mut batch = Batch::new();
    let mut asked: Vec<(i32, Slot, Slot)> = Vec::new();
    for (id, number, value) in some {
        let mut question = |adjustment| {
            let operations = at_least(*number, *value, adjustment);
            let bytes: Vec<u8> = operations
                .iter()
                .flatten()
                .flat_map(|half| half.to_ne_bytes())
                .collect();
            let data = batch.data(&bytes);
            let count = operations.len() as u64;
            batch.attempt(libc::SYS_semop, &[(*id).into(), data.into(), count.into()])
        };
        asked.push((*id, question(0), question(1)));
    }
    let results = injector.run(leader, &batch)?;
    let none = |(_, zero, one): &&(i32, Slot, Slot)| {
        results.outcome(*zero) == Outcome::Failed(libc::EAGAIN)
            && results.outcome(*one) == Outcome::Failed(libc::ERANGE)
    };
    Ok(asked.iter().find(|one| !none(one)).map(|(id, ..)| *id))
}

/// Operations (struct sembuf) that fail, and so change nothing: with EAGAIN where a semaphore
/// of this value has at least this adjustment, with ERANGE where it has less.
fn at_least(number: u16, value: u16, adjustment: i32) -> Vec<[i16; 3]> {
    let number = number.cast_signed();
    let step = |by: i32, flags| {
        [
            number,
            i16::try_from(by).unwrap_or(i16::MIN),
            IPC_NOWAIT | flags,
        ]
    };
    let mut operations = vec![];
    if value > 0 {
        operations.push(step(-i32::from(value), 0));
    }
    let mut left = adjustment + MOST + 1;
    while left > 0 {
        let by = left.min(MOST);
        operations.extend([step(by, SEM_UNDO), step(-by, 0)]);
        left -= by;
    }
    // More than any semaphore has, also if somebody else has changed this one since.
    operations.extend([step(-MOST, 0), step(-MOST, 0)]);
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_takes_the_adjustment_just_past_its_range() {
        for (value, adjustment) in [(0, 0), (7, 1), (32767, 0)] {
            let operations = at_least(3, value, adjustment);
            let undone = operations.iter().filter(|one| one[2] & SEM_UNDO != 0);
            let undone: i32 = undone.map(|one| i32::from(one[1])).sum();
            assert_eq!(adjustment - undone, -MOST - 1, "the smallest that there is");
            let all: i32 = operations.iter().map(|one| i32::from(one[1])).sum();
            assert!(i32::from(value) + all < 0, "nothing succeeds");
        }
    }
}
