//! The system calls by which a thread of a husk becomes a thread of the job.

use super::{
    numa,
    process::{number_of, prctl},
};
use crate::{
    image::{Credentials, LiveProcess, Pid, Scheduling, Thread},
    sys::remote::{Arg, Batch, Slot},
};

const PR_SET_PDEATHSIG: u64 = 1;
const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_NAME: u64 = 15;
const PR_CAPBSET_DROP: u64 = 24;
const PR_SET_TSC: u64 = 26;
const PR_TSC_ENABLE: i32 = 1;
const PR_SET_SECUREBITS: u64 = 28;
const PR_SET_TIMERSLACK: u64 = 29;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
/// SECBIT_NO_SETUID_FIXUP: a change of user IDs leaves the capabilities alone.
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// _LINUX_CAPABILITY_VERSION_3.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// RESET_ON_FORK, RECLAIM, DL_OVERRUN; the others ask for more than they tell.
const SCHED_FLAGS: u64 = 7;
const IOPRIO_WHO_PROCESS: u64 = 1;
const SS_DISABLE: i32 = 2;

/// clone3(2) of a thread, with its IDs or with one that the kernel chooses; it stops before it
/// runs anything.
pub(super) fn spawn(batch: &mut Batch, ids: &[Pid]) -> Slot {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    clone3(batch, flags, 0, ids)
}

/// clone3(2) with chosen IDs: of the innermost pid namespace first.
pub(super) fn clone3(batch: &mut Batch, flags: i32, exit_signal: i32, ids: &[Pid]) -> Slot {
    const SET_TID: usize = 8 * 8;
    let mut words = [0u64; 11];
    words[0] = u64::from(flags.cast_unsigned());
    words[4] = u64::from(exit_signal.cast_unsigned());
    words[9] = ids.len() as u64;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let arguments = batch.data(&bytes);
    if !ids.is_empty() {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let ids = batch.data(&ids);
        batch.link(arguments.at(SET_TID), ids);
    }
    batch.call(
        libc::SYS_clone3,
        &[arguments.into(), (bytes.len() as u64).into()],
    )
}

/// Everything of a thread but its CPUs, registers and mask. `tgid` and `tid` are what it
/// calls its process and itself.
pub(super) fn identity(batch: &mut Batch, thread: &Thread, (tgid, tid): (Pid, Pid)) {
    batch.call(libc::SYS_set_tid_address, &[thread.clear_child_tid.into()]);
    let (head, length) = thread.robust_list;
    if head != 0 {
        batch.call(libc::SYS_set_robust_list, &[head.into(), length.into()]);
    }
    if let Some(rseq) = thread.rseq.filter(|rseq| rseq.address != 0) {
        batch.call(
            libc::SYS_rseq,
            &[
                rseq.address.into(),
                rseq.length.into(),
                0u64.into(),
                rseq.signature.into(),
            ],
        );
    }
    if thread.altstack.flags & SS_DISABLE == 0 && thread.altstack.size != 0 {
        let stack = &thread.altstack;
        let words = [
            stack.address,
            u64::from(stack.flags.cast_unsigned()),
            stack.size,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let stack = batch.data(&bytes);
        batch.call(libc::SYS_sigaltstack, &[stack.into(), 0u64.into()]);
    }
    let name = batch.string(&thread.comm);
    batch.call(libc::SYS_prctl, &[PR_SET_NAME.into(), name.into()]);
    for signal in &thread.pending {
        let info = batch.data(&signal.0);
        batch.call(
            libc::SYS_rt_tgsigqueueinfo,
            &[tgid.into(), tid.into(), number_of(signal), info.into()],
        );
    }
    if let Some(policy) = &thread.memory_policy {
        numa::set(batch, policy);
    }
    schedule(batch, thread);
}

pub(super) fn schedule(batch: &mut Batch, thread: &Thread) {
    let Scheduling {
        policy,
        flags,
        nice,
        priority,
        deadline,
    } = thread.scheduling;
    let mut attributes = Vec::with_capacity(48);
    attributes.extend(48u32.to_le_bytes());
    attributes.extend(policy.to_le_bytes());
    attributes.extend((flags & SCHED_FLAGS).to_le_bytes());
    attributes.extend(nice.to_le_bytes());
    attributes.extend(priority.to_le_bytes());
    for nanoseconds in [deadline.0, deadline.1, deadline.2] {
        attributes.extend(nanoseconds.to_le_bytes());
    }
    let attributes = batch.data(&attributes);
    batch.call(
        libc::SYS_sched_setattr,
        &[0u64.into(), attributes.into(), 0u64.into()],
    );
    if thread.io_priority != 0 {
        batch.attempt(
            libc::SYS_ioprio_set,
            &[
                IOPRIO_WHO_PROCESS.into(),
                0u64.into(),
                thread.io_priority.into(),
            ],
        );
    }
    if thread.timer_slack_ns != 0 {
        prctl(batch, &[PR_SET_TIMERSLACK, thread.timer_slack_ns]);
    }
}

/// Credentials, and what a change of credentials clears. Last of what needs rights.
pub(super) fn credentials(batch: &mut Batch, thread: &Thread, process: &LiveProcess) {
    let c = &thread.credentials;
    if process.namespaces.user.is_none() {
        ids(batch, c);
    }
    prctl(batch, &[PR_SET_SECUREBITS, u64::from(c.securebits)]);
    capabilities(batch, c);
    if c.no_new_privs {
        prctl(batch, &[PR_SET_NO_NEW_PRIVS, 1]);
    }
    if thread.tid == process.threads.first().map_or(0, |leader| leader.tid) {
        // 2 (readable by root only) can be asked for by nobody.
        prctl(batch, &[PR_SET_DUMPABLE, u64::from(process.dumpable == 1)]);
    }
    if thread.parent_death_signal != 0 {
        prctl(
            batch,
            &[
                PR_SET_PDEATHSIG,
                u64::from(thread.parent_death_signal.cast_unsigned()),
            ],
        );
    }
    if thread.tsc_mode != PR_TSC_ENABLE && thread.tsc_mode != 0 {
        prctl(
            batch,
            &[PR_SET_TSC, u64::from(thread.tsc_mode.cast_unsigned())],
        );
    }
}

/// Users and groups; all rights stay.
pub(super) fn ids(batch: &mut Batch, c: &Credentials) {
    let groups: Vec<u8> = c
        .groups
        .iter()
        .flat_map(|group| group.to_le_bytes())
        .collect();
    let list = batch.data(&groups);
    batch.call(
        libc::SYS_setgroups,
        &[(c.groups.len() as u64).into(), list.into()],
    );
    prctl(batch, &[PR_SET_SECUREBITS, NO_SETUID_FIXUP]);
    batch.call(
        libc::SYS_setresuid,
        &[c.uids[0].into(), c.uids[1].into(), c.uids[2].into()],
    );
    // setfsuid(2) returns the old ID and never fails.
    batch.attempt(libc::SYS_setfsuid, &[c.uids[3].into()]);
    batch.call(
        libc::SYS_setresgid,
        &[c.gids[0].into(), c.gids[1].into(), c.gids[2].into()],
    );
    batch.attempt(libc::SYS_setfsgid, &[c.gids[3].into()]);
}

fn capabilities(batch: &mut Batch, credentials: &Credentials) {
    let [inheritable, permitted, effective, bounding, ambient] = credentials.capabilities;
    for capability in (0..64u64).filter(|capability| bounding & 1 << capability == 0) {
        // Numbers that this kernel does not know are not in its bounding set.
        batch.attempt(
            libc::SYS_prctl,
            &[PR_CAPBSET_DROP.into(), capability.into()],
        );
    }
    let mut header = CAPABILITY_VERSION.to_le_bytes().to_vec();
    header.extend([0; 4]);
    let header = batch.data(&header);
    let half = |set: u64, shift: u32| ((set >> shift) & u64::from(u32::MAX)).to_le_bytes();
    let mut sets = Vec::with_capacity(24);
    for shift in [0, 32] {
        for set in [effective, permitted, inheritable] {
            sets.extend(&half(set, shift)[..4]);
        }
    }
    let sets = batch.data(&sets);
    batch.call(libc::SYS_capset, &[header.into(), sets.into()]);
    for capability in (0..64u64).filter(|capability| ambient & 1 << capability != 0) {
        prctl(batch, &[PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability]);
    }
}

/// Used by the tree: `setsid`, `setpgid`, `wait4` and `exit_group` in one place.
pub(super) fn wait_for(batch: &mut Batch, pid: Pid) {
    let all = libc::__WALL;
    batch.call(
        libc::SYS_wait4,
        &[Arg::from(pid), 0u64.into(), all.into(), 0u64.into()],
    );
}
