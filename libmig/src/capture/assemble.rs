//! From stopped threads to a frozen tree: who is what, and what the stop
//! itself has done to them.

use std::{cell::OnceCell, collections::BTreeMap};

use super::{
    CaptureError,
    clock::JobClock,
    freeze::{FrozenProcess, FrozenThread},
    gather::{Caught, is_zombie},
    hindrance::{self, obstacle},
    interrupted,
    sample::Watch,
    seccomp::Confinement,
    timed,
};
use crate::{
    image::{INIT, Pid},
    inspect::{
        maps,
        process::{self, is_gone},
        sharing::Sharers,
    },
    sys::{
        HostPid,
        ptrace::{SignalState, Stopped, reg},
    },
};

/// Code segment of 64-bit programs; anything else is 32-bit code or an LDT.
const USER_CS: u64 = 0x33;

/// All have stopped: who is what, parents before children.
pub(super) fn assemble(
    caught: &mut Caught,
    tree: &[HostPid],
    watch: &Watch,
    level: usize,
) -> Result<Vec<FrozenProcess>, CaptureError> {
    let mut processes: Vec<FrozenProcess> = Vec::new();
    let mut pids = BTreeMap::new();
    for host in tree {
        let seen = process::status(*host).and_then(|status| Ok((status, process::stat(*host)?)));
        let (status, stat) = match seen {
            Ok(seen) => seen,
            // A zombie that the capsule's init, which runs, has reaped since.
            Err(error) if is_gone(&error) => continue,
            Err(source) => return Err(CaptureError::proc(*host, "status")(source)),
        };
        let pid = process::id_at(&status.ns_pid, level).unwrap_or(host.raw());
        pids.insert(*host, pid);
        let ppid = pids.get(&stat.ppid).copied().unwrap_or(INIT);
        let (threads, stopped) = take_threads(caught, *host, (pid, level), watch)?;
        processes.push(FrozenProcess {
            host: *host,
            pid,
            level,
            ppid,
            threads,
            stopped,
        });
    }
    // Whoever is left belongs to nobody in the tree any more: dead by now.
    caught.clear();
    refuse_sharing(&processes)?;
    Ok(processes)
}

fn take_threads(
    caught: &mut Caught,
    host: HostPid,
    (pid, level): (Pid, usize),
    watch: &Watch,
) -> Result<(Vec<FrozenThread>, Option<i32>), CaptureError> {
    let listed = process::threads(host).map_err(CaptureError::proc(host, "threads"))?;
    let mut threads = Vec::new();
    let mut group_stop = None;
    let clock = watch.clock_of(host);
    let place = OnceCell::new();
    let place = || *place.get_or_init(|| maps::detour_place(host).ok().flatten());
    for thread in listed {
        let Some((stopped, signal)) = caught.remove(&thread) else {
            if thread == host && is_zombie(host) {
                continue;
            }
            return Err(obstacle(hindrance::changing(pid)));
        };
        group_stop = group_stop.or(signal);
        threads.push(settle_state(stopped, (pid, level), (watch, clock), place)?);
    }
    if threads
        .first()
        .is_some_and(|first| first.stopped.thread() != host)
    {
        return Err(obstacle(hindrance::dead_leader(pid)));
    }
    Ok((threads, group_stop))
}

/// From here on the thread is guarded, and what the stop itself did to it is
/// made good: an aborted restartable sequence, an EINTR that nobody asked for, a
/// timeout that would begin anew.
fn settle_state(
    mut stopped: Stopped,
    (pid, level): (Pid, usize),
    (watch, clock): (&Watch, JobClock),
    place: impl FnOnce() -> Option<u64>,
) -> Result<FrozenThread, CaptureError> {
    let thread = stopped.thread();
    let status = process::status(thread).map_err(CaptureError::proc(thread, "status"))?;
    let [pending, shared, _, _, caught] = status.signals;
    stopped.guard(SignalState {
        caught,
        pending: pending | shared,
    })?;
    let tid = process::id_at(&status.ns_pid, level).unwrap_or(thread.raw());
    if stopped.dispatches_calls()? {
        return Err(obstacle(hindrance::dispatched(pid, tid)));
    }
    let confinement = Confinement::lift(&mut stopped, &status, (pid, tid))?;
    let rseq = stopped.rseq()?;
    let registers = stopped.registers()?;
    if registers[reg::CS] != USER_CS {
        return Err(obstacle(hindrance::not_64_bit(pid, tid)));
    }
    let sample = watch.samples.get(&thread).copied().unwrap_or_default();
    let sample = sample.at_stop(&status);
    let place = || place().filter(|_| !confinement.asks_for_place());
    let (home, wait) = timed::find(thread, &registers, sample, clock, place);
    let amended = interrupted::amended(&home, || interrupted::rseq_abort(thread, &rseq, &home));
    let amended = confinement.restartable(&amended);
    if amended != registers {
        stopped.amend_registers(&amended)?;
    }
    if let Some(wait) = &wait {
        wait.arm(&mut stopped)?;
    }
    Ok(FrozenThread {
        stopped,
        tid,
        inner: status.ns_pid.get(level + 1..).unwrap_or_default().to_vec(),
        status,
        rseq,
        sample,
        wait,
        confinement,
    })
}

/// Processes that all have stopped.
fn refuse_sharing(processes: &[FrozenProcess]) -> Result<(), CaptureError> {
    let mut sharers = Sharers::default();
    let mut obstacles = Vec::new();
    // Zombies have nothing to share.
    for process in processes.iter().filter(|one| !one.threads.is_empty()) {
        for link in sharers.add(process.host) {
            let other = processes.iter().find(|one| one.host == link.other);
            let other = other.map_or(link.other.raw(), |other| other.pid);
            obstacles.push(hindrance::sharing(process.pid, other, &link));
        }
    }
    if obstacles.is_empty() {
        Ok(())
    } else {
        Err(CaptureError::Obstacles(obstacles))
    }
}
