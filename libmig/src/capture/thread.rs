//! A stopped thread -> [`Thread`]. What can be read from outside is read from
//! outside.

use nix::sched::{CpuSet, sched_getaffinity};

use super::{CaptureError, freeze::FrozenThread, interrupted, query::ThreadAnswers, sleep};
use crate::{
    image::{Credentials, Rseq, SeccompFilter, SigInfo, Thread, XState},
    inspect::process::{self, Status},
    sys::{HostPid, cpuid, ptrace::Stopped, sched},
};

/// Everything of a thread that must be read before it is questioned.
pub(super) struct Outside {
    sigmask: u64,
    pending: Vec<SigInfo>,
}

impl Outside {
    pub(super) fn read(stopped: &Stopped) -> Result<Self, CaptureError> {
        Ok(Self {
            sigmask: stopped.sigmask()?,
            pending: stopped.peek_siginfo(false)?,
        })
    }
}

/// The image of a thread.
pub(super) fn capture(
    frozen: &FrozenThread,
    outside: Outside,
    answers: &ThreadAnswers,
    call: Option<sleep::Interrupted>,
    node_cpus: &[u32],
    filters: &mut Vec<SeccompFilter>,
) -> Result<Thread, CaptureError> {
    let thread = frozen.stopped.thread();
    let failed = |what| CaptureError::proc(thread, what);
    let registers = frozen.stopped.registers()?;
    let rseq = &frozen.rseq;
    Ok(Thread {
        tid: frozen.tid,
        inner: frozen.inner.clone(),
        comm: process::comm(thread).map_err(failed("comm"))?,
        registers: interrupted::portable(&registers, call.map(|call| call.number)),
        xstate: split(&frozen.stopped.xstate()?),
        sigmask: outside.sigmask,
        pending: outside.pending,
        altstack: answers.altstack,
        clear_child_tid: answers.clear_child_tid,
        robust_list: sched::robust_list(thread).map_err(failed("the robust list"))?,
        rseq: (rseq.address != 0).then_some(Rseq {
            address: rseq.address,
            length: rseq.length,
            signature: rseq.signature,
        }),
        sleep: call.and_then(|call| call.sleep),
        scheduling: sched::scheduling(thread).map_err(failed("the scheduling"))?,
        affinity: affinity(thread, node_cpus).map_err(failed("the affinity"))?,
        credentials: credentials(&frozen.status, answers.securebits),
        parent_death_signal: answers.parent_death_signal,
        timer_slack_ns: answers.timer_slack_ns,
        io_priority: sched::io_priority(thread).map_err(failed("the I/O priority"))?,
        tsc_mode: answers.tsc_mode,
        seccomp: frozen.confinement.to_image(filters),
        memory_policy: answers.memory_policy.clone(),
    })
}

/// CPUs that this node offers: those that the daemon may use.
pub(super) fn node_cpus() -> Vec<u32> {
    cpus(HostPid::new(0)).unwrap_or_default()
}

/// `None` for a thread that may use all that its node has: it may use all that
/// the next one has, too.
fn affinity(thread: HostPid, node: &[u32]) -> std::io::Result<Option<Vec<u32>>> {
    let allowed = cpus(thread)?;
    let unbound = node.iter().all(|cpu| allowed.contains(cpu));
    Ok((!unbound).then_some(allowed))
}

fn cpus(thread: HostPid) -> std::io::Result<Vec<u32>> {
    let set = sched_getaffinity(thread.into())?;
    Ok((0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect())
}

fn credentials(status: &Status, securebits: u32) -> Credentials {
    Credentials {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups.clone(),
        capabilities: status.capabilities,
        securebits,
        no_new_privs: status.no_new_privs,
    }
}

/// The XSAVE area of this CPU, by component. One that the CPU calls in use is left out where its
/// initial state, which is zeros, is in it: a destination without it loses nothing then.
fn split(area: &[u8]) -> XState {
    const LEGACY: usize = 512;
    /// AVX, and the three of AVX-512.
    const VECTORS: u64 = 1 << 2 | 0b111 << 5;
    let present = area
        .get(LEGACY..LEGACY + 8)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |word| u64::from_le_bytes(*word));
    let component = |number: u32| {
        let (offset, size) = cpuid::xsave_component(number)?;
        Some((
            number,
            area.get(offset..offset.checked_add(size)?)?.to_vec(),
        ))
    };
    XState {
        legacy: area[..LEGACY.min(area.len())].to_vec(),
        present,
        components: (2..63)
            .filter(|number| present & 1 << number != 0)
            .filter_map(component)
            .filter(|(number, bytes)| VECTORS >> number & 1 == 0 || bytes.iter().any(|b| *b != 0))
            .collect(),
    }
}
