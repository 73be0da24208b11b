//! From stopped threads to a frozen tree: who is what, and what the stop
//! itself has done to them.

use std::collections::BTreeMap;

use super::{
    CaptureError,
    freeze::{FrozenProcess, FrozenThread},
    gather::{Caught, is_zombie},
    hindrance::{self, obstacle},
    interrupted,
};
use crate::{
    image::{INIT, Pid},
    inspect::process,
    sys::{
        HostPid,
        ptrace::{SignalState, Stopped, reg},
        sched::{self, Shared},
    },
};

/// Code segment of 64-bit programs; anything else is 32-bit code or an LDT.
const USER_CS: u64 = 0x33;

/// All have stopped: who is what, parents before children.
pub(super) fn assemble(
    caught: &mut Caught,
    tree: &[HostPid],
) -> Result<Vec<FrozenProcess>, CaptureError> {
    let mut processes: Vec<FrozenProcess> = Vec::new();
    let mut pids = BTreeMap::new();
    for host in tree {
        let status = process::status(*host).map_err(CaptureError::proc(*host, "status"))?;
        let stat = process::stat(*host).map_err(CaptureError::proc(*host, "stat"))?;
        let pid = status.own_id().unwrap_or(host.raw());
        pids.insert(*host, pid);
        let ppid = pids.get(&stat.ppid).copied().unwrap_or(INIT);
        let (threads, stopped) = take_threads(caught, *host, pid)?;
        if let Some(parent) = processes.iter().find(|process| process.pid == ppid) {
            refuse_sharing(parent, *host, pid, threads.is_empty())?;
        }
        processes.push(FrozenProcess {
            host: *host,
            pid,
            ppid,
            threads,
            stopped,
        });
    }
    // Whoever is left belongs to nobody in the tree any more: dead by now.
    caught.clear();
    Ok(processes)
}

fn take_threads(
    caught: &mut Caught,
    host: HostPid,
    pid: Pid,
) -> Result<(Vec<FrozenThread>, Option<i32>), CaptureError> {
    let listed = process::threads(host).map_err(CaptureError::proc(host, "threads"))?;
    let mut threads = Vec::new();
    let mut group_stop = None;
    for thread in listed {
        let Some((stopped, signal)) = caught.remove(&thread) else {
            if thread == host && is_zombie(host) {
                continue;
            }
            return Err(obstacle(hindrance::changing(pid)));
        };
        group_stop = group_stop.or(signal);
        threads.push(settle_state(stopped, pid)?);
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
/// made good: an aborted restartable sequence, an EINTR that nobody asked for.
fn settle_state(mut stopped: Stopped, pid: Pid) -> Result<FrozenThread, CaptureError> {
    let thread = stopped.thread();
    let status = process::status(thread).map_err(CaptureError::proc(thread, "status"))?;
    let [pending, shared, _, _, caught] = status.signals;
    stopped.guard(SignalState {
        caught,
        pending: pending | shared,
    })?;
    let tid = status.own_id().unwrap_or(thread.raw());
    if status.seccomp != 0 {
        // Not one injected call could be made, nor would the filters travel.
        return Err(obstacle(hindrance::sandboxed(pid, tid)));
    }
    let rseq = stopped.rseq()?;
    let registers = stopped.registers()?;
    if registers[reg::CS] != USER_CS {
        return Err(obstacle(hindrance::not_64_bit(pid, tid)));
    }
    let amended = interrupted::amended(&registers, || {
        interrupted::rseq_abort(thread, &rseq, &registers)
    });
    if amended != registers {
        stopped.amend_registers(&amended)?;
    }
    Ok(FrozenThread {
        stopped,
        tid,
        status,
        rseq,
    })
}

fn refuse_sharing(
    parent: &FrozenProcess,
    host: HostPid,
    pid: Pid,
    zombie: bool,
) -> Result<(), CaptureError> {
    if zombie || parent.threads.is_empty() {
        return Ok(());
    }
    for what in [Shared::Memory, Shared::Files, Shared::Fs, Shared::Actions] {
        let shared = sched::share(parent.host, host, what)
            .map_err(CaptureError::proc(host, "what it shares"))?;
        if shared {
            return Err(obstacle(hindrance::sharing(pid, parent.pid, what)));
        }
    }
    Ok(())
}
