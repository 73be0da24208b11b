//! SEM_UNDO adjustments of System V semaphores. No kernel shows them, and every program with
//! threads has a list of them, empty as a rule. But semop(2) refuses what would take an adjustment
//! out of its range, and this before anything has changed: the process itself is let try, until
//! it is known just how far that is.

use std::{fs, io, thread};

use super::{CaptureError, freeze::FrozenProcess};
use crate::{
    api::Obstacle,
    image::{Adjustment, Pid, SemaphoreSet},
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

/// A semaphore: its set, its place there, its value.
type Semaphore = (i32, u16, u16);

/// The adjustments of all processes, but for those in IPC namespaces of their own.
///
/// # Errors
/// Obstacles: lists that not all threads of a process have, or several processes.
pub(super) fn read(
    keeper: HostPid,
    processes: &mut [FrozenProcess],
    sets: &[SemaphoreSet],
) -> Result<Vec<Adjustment>, CaptureError> {
    if sets.is_empty() {
        return Ok(Vec::new());
    }
    let space = |host: HostPid| {
        fs::read_link(format!("/proc/{host}/ns/ipc")).map_err(CaptureError::proc(host, "ns/ipc"))
    };
    let home = space(keeper)?;
    let (mut found, mut obstacles) = (Vec::new(), Vec::new());
    let mut owners: Vec<HostPid> = Vec::new();
    for process in processes {
        let (pid, host) = (process.pid, process.host);
        let threads = process.threads.iter();
        let threads: Vec<HostPid> = threads.map(|one| one.stopped.thread()).collect();
        let Some(first) = process.threads.first_mut() else {
            continue;
        };
        let failed = || CaptureError::proc(host, "its SEM_UNDO adjustments");
        if space(host)? != home || !have_some(&threads).map_err(failed())? {
            continue;
        }
        if !same(&threads).map_err(failed())? {
            let reason = "its threads do not share what SEM_UNDO adjusts";
            obstacles.push(obstacle(pid, reason));
            continue;
        }
        let own = adjusted(&mut first.stopped, sets)?;
        if own.is_empty() {
            continue;
        }
        let shares = |other: &HostPid| sched::share(*other, host, Shared::Adjustments);
        let shared = owners.iter().map(shares).collect::<io::Result<Vec<_>>>();
        if shared.map_err(failed())?.contains(&true) {
            let reason = "it shares what SEM_UNDO adjusts with another process";
            obstacles.push(obstacle(pid, reason));
        }
        owners.push(host);
        found.extend(own.into_iter().map(|((set, number, _), by)| Adjustment {
            pid,
            set,
            number,
            by,
        }));
    }
    match obstacles.is_empty() {
        true => Ok(found),
        false => Err(CaptureError::Obstacles(obstacles)),
    }
}

fn obstacle(pid: Pid, reason: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("process {pid}"),
        reason: reason.to_owned(),
        remedy: "use semop without SEM_UNDO, or move when what it has taken is given back"
            .to_owned(),
        transient: false,
    }
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

/// All adjustments of a process that are not 0.
fn adjusted(
    leader: &mut Stopped,
    sets: &[SemaphoreSet],
) -> Result<Vec<(Semaphore, i16)>, CaptureError> {
    let pid = leader.thread();
    let site = maps::injection_site(pid).map_err(CaptureError::proc(pid, "maps"))?;
    let all = sets.iter().flat_map(|set| {
        let values = (0u16..).zip(&set.values);
        values.map(|(number, value)| (set.object.id, number, *value))
    });
    let all: Vec<Semaphore> = all.collect();
    let _shield = Shield::raise();
    let injector = Injector::install(leader, &site)?;
    let mut ask = |questions: &[(Semaphore, i32)]| ask(leader, injector, questions);
    let found = all.chunks(AT_ONCE).map(|some| search(some, &mut ask));
    let found = found.collect::<Result<Vec<_>, _>>();
    let removed = injector.remove(leader, site.foothold);
    let found = found?;
    removed?;
    Ok(found.concat())
}

/// Finds the adjustments that are not 0. `ask` tells for each semaphore whether it has at least
/// so much.
fn search<E>(
    some: &[Semaphore],
    ask: &mut impl FnMut(&[(Semaphore, i32)]) -> Result<Vec<bool>, E>,
) -> Result<Vec<(Semaphore, i16)>, E> {
    let both = some.iter().flat_map(|one| [(*one, 0), (*one, 1)]);
    let answers = ask(&both.collect::<Vec<_>>())?;
    let mut open: Vec<(Semaphore, i32, i32)> = Vec::new();
    for (one, answer) in some.iter().zip(answers.chunks(2)) {
        match answer {
            [true, false] => {}
            [true, true] => open.push((*one, 1, MOST + 1)),
            _ => open.push((*one, -MOST - 1, 0)),
        }
    }
    // At least the first, less than the second.
    while open.iter().any(|(_, low, high)| high - low > 1) {
        let middle = |low: i32, high: i32| low + (high - low) / 2;
        let questions = open
            .iter()
            .map(|(one, low, high)| (*one, middle(*low, *high)));
        let answers = ask(&questions.collect::<Vec<_>>())?;
        for ((_, low, high), answer) in open.iter_mut().zip(answers) {
            let middle = middle(*low, *high);
            match answer {
                true => *low = middle,
                false => *high = middle,
            }
        }
    }
    let by = |low: i32| i16::try_from(low).unwrap_or(i16::MIN);
    Ok(open
        .into_iter()
        .map(|(one, low, _)| (one, by(low)))
        .collect())
}

/// For each question, whether the semaphore has at least this adjustment.
fn ask(
    leader: &mut Stopped,
    injector: Injector,
    questions: &[(Semaphore, i32)],
) -> Result<Vec<bool>, CaptureError> {
    let mut batch = Batch::new();
    let mut slots: Vec<Slot> = Vec::new();
    for ((id, number, value), adjustment) in questions {
        let operations = at_least(*number, *value, *adjustment);
        let halves = operations.iter().flatten();
        let bytes: Vec<u8> = halves.flat_map(|half| half.to_ne_bytes()).collect();
        let data = batch.data(&bytes);
        let count = operations.len() as u64;
        slots.push(batch.attempt(libc::SYS_semop, &[(*id).into(), data.into(), count.into()]));
    }
    let results = injector.run(leader, &batch)?;
    let pid = leader.thread();
    let answer = |slot: Slot| match results.outcome(slot) {
        Outcome::Failed(libc::EAGAIN) => Ok(true),
        Outcome::Failed(libc::ERANGE) => Ok(false),
        other => Err(CaptureError::proc(pid, "its SEM_UNDO adjustments")(
            io::Error::other(format!("semop: {other:?}")),
        )),
    };
    slots.into_iter().map(answer).collect()
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

    #[test]
    fn every_adjustment_is_found() {
        let truth = [0, 1, -1, 5, -77, 32767, -32768, 0, 12345];
        let some: Vec<Semaphore> = (0..9).map(|number| (3, number, 0)).collect();
        let mut rounds = 0;
        let mut ask = |questions: &[(Semaphore, i32)]| {
            rounds += 1;
            let has = |((_, number, _), least): &(Semaphore, i32)| {
                i32::from(truth[usize::from(*number)]) >= *least
            };
            Ok::<_, std::convert::Infallible>(questions.iter().map(has).collect())
        };
        let found = search(&some, &mut ask).unwrap();
        assert!(rounds <= 17, "{rounds}");
        let wanted = (0u16..).zip(truth).filter(|(_, by)| *by != 0);
        let wanted: Vec<(Semaphore, i16)> = wanted.map(|(at, by)| ((3, at, 0), by)).collect();
        assert_eq!(found, wanted);
    }
}
