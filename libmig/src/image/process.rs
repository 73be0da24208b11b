//! Processes and threads: identity, registers, signals, timers, credentials.

use serde::{Deserialize, Serialize};

use super::{ChildSpace, Descriptor, FilePath, InnerIds, Membership, MemoryImage, MemoryPolicy};

/// A process ID as the capsule sees it (level of the capsule's pid namespace).
pub type Pid = i32;

/// The capsule's init: parent of the job's main program and of its orphans.
/// It is never captured; every node has its own.
pub const INIT: Pid = 1;

/// One process of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process ID in the capsule.
    pub pid: Pid,
    /// Parent in the capsule; [`INIT`] for roots and orphans.
    pub ppid: Pid,
    /// Process group ID; 0 when the leader is outside of the capsule.
    pub pgid: Pid,
    /// Session ID; [`INIT`] for the session that the capsule's init leads.
    pub sid: Pid,
    /// What it is in the pid namespaces of the job.
    pub inner: InnerIds,
    /// Alive, or dead and not yet waited for.
    pub kind: ProcessKind,
}

/// Whether there is anything left of the process but its exit status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessKind {
    /// A process with at least one live thread.
    Live(Box<LiveProcess>),
    /// Dead, not waited for: the status that `waitpid` will return.
    Zombie {
        /// Wait status word, as in waitpid(2).
        status: i32,
        /// Name of the dead process, /proc/PID/comm.
        comm: Vec<u8>,
    },
}

/// All state of a live process that its threads share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveProcess {
    /// The address space.
    pub memory: MemoryImage,
    /// The descriptor table, by rising number.
    pub descriptors: Vec<Descriptor>,
    /// cwd, root, umask.
    pub fs: FsContext,
    /// Actions of signals 1..=64, in order.
    pub actions: Vec<SignalAction>,
    /// Signals pending for the whole process: siginfo_t, 128 bytes each, oldest first.
    pub pending: Vec<SigInfo>,
    /// Job control: the signal that stopped the process, if it is stopped.
    pub stopped: Option<i32>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub itimers: [IntervalTimer; 3],
    /// timer_create(2) timers, by rising ID.
    pub timers: Vec<PosixTimer>,
    /// Soft and hard limits, indexed by RLIMIT_* (16 of them).
    pub limits: Vec<Limit>,
    /// /proc/PID/oom_score_adj.
    pub oom_score_adj: i32,
    /// /proc/PID/coredump_filter.
    pub coredump_filter: u64,
    /// PR_GET_DUMPABLE: 0, 1 or 2.
    pub dumpable: i32,
    /// PR_GET_CHILD_SUBREAPER.
    pub child_subreaper: bool,
    /// PR_GET_THP_DISABLE.
    pub thp_disable: bool,
    /// PR_GET_MDWE: whether memory may become executable (PR_MDWE_*).
    pub exec_gain: u32,
    /// /proc/PID/personality.
    pub personality: u64,
    /// The threads; the first is the thread-group leader.
    pub threads: Vec<Thread>,
    /// Namespaces, the same for all of its threads.
    pub namespaces: Membership,
    /// Where its children are born.
    pub child_space: ChildSpace,
    /// Every seccomp filter of any thread, each once; see [`Seccomp::Filters`].
    pub filters: Vec<SeccompFilter>,
}

/// What path lookups of the process start from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsContext {
    /// Current directory.
    pub cwd: FilePath,
    /// chroot(2) directory; "/" as a rule.
    pub root: FilePath,
    /// File mode creation mask.
    pub umask: u32,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Thread ID in the capsule.
    pub tid: Pid,
    /// The same in the pid namespaces below, the outermost first.
    pub inner: Vec<Pid>,
    /// comm of the thread.
    pub comm: Vec<u8>,
    /// General registers (user_regs_struct as 27 words), already made safe to
    /// run elsewhere: a restart block has become ERESTARTNOHAND.
    pub registers: Registers,
    /// Extended state by component, never as a blob: offsets differ by CPU.
    pub xstate: XState,
    /// Blocked signals, bit n-1 for signal n.
    pub sigmask: u64,
    /// Signals pending for this thread: siginfo_t, 128 bytes each, oldest first.
    pub pending: Vec<SigInfo>,
    /// sigaltstack(2).
    pub altstack: AltStack,
    /// set_tid_address(2).
    pub clear_child_tid: u64,
    /// set_robust_list(2): address and length.
    pub robust_list: (u64, u64),
    /// rseq(2) registration.
    pub rseq: Option<Rseq>,
    /// A relative sleep that was interrupted by the freeze.
    pub sleep: Option<InterruptedSleep>,
    /// sched_getattr(2).
    pub scheduling: Scheduling,
    /// CPUs the thread may run on; `None` when that is all that its node offers.
    pub affinity: Option<Vec<u32>>,
    /// Credentials; Linux keeps them per thread.
    pub credentials: Credentials,
    /// PR_GET_PDEATHSIG.
    pub parent_death_signal: i32,
    /// /proc/TID/timerslack_ns.
    pub timer_slack_ns: u64,
    /// ioprio_get(2).
    pub io_priority: i32,
    /// PR_GET_TSC.
    pub tsc_mode: i32,
    /// What seccomp(2) confines it to.
    pub seccomp: Seccomp,
    /// set_mempolicy(2); `None` for the default.
    pub memory_policy: Option<MemoryPolicy>,
}

/// What seccomp(2) confines a thread to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Seccomp {
    /// Nothing.
    #[default]
    Off,
    /// SECCOMP_SET_MODE_STRICT.
    Strict,
    /// Filters, the oldest first: indexes into [`LiveProcess::filters`].
    Filters(Vec<u32>),
}

/// A filter of seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFilter {
    /// An array of struct sock_filter.
    #[serde(with = "serde_bytes")]
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_LOG.
    pub log: bool,
}

/// x86_64 general registers in the order of user_regs_struct (27 words:
/// r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs
/// eflags rsp ss fs_base gs_base ds es fs gs).
pub type Registers = [u64; 27];

/// Extended processor state (XSAVE), one entry per component that is not in
/// its initial state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct XState {
    /// The 512-byte legacy area (x87, SSE, MXCSR).
    #[serde(with = "serde_bytes")]
    pub legacy: Vec<u8>,
    /// XSTATE_BV of the source.
    pub present: u64,
    /// (component number, its bytes) for components 2 and up.
    pub components: Vec<(u32, Vec<u8>)>,
}

/// A siginfo_t, 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigInfo(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// struct kernel_sigaction: handler, flags, restorer, mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SignalAction {
    /// SIG_DFL (0), SIG_IGN (1) or the handler's address.
    pub handler: u64,
    /// SA_* flags.
    pub flags: u64,
    /// sa_restorer.
    pub restorer: u64,
    /// Mask while the handler runs.
    pub mask: u64,
}

/// sigaltstack(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AltStack {
    /// ss_sp.
    pub address: u64,
    /// ss_flags, SS_ONSTACK masked out.
    pub flags: i32,
    /// ss_size.
    pub size: u64,
}

/// rseq(2) registration of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rseq {
    /// Address of struct rseq.
    pub address: u64,
    /// Registered length in bytes.
    pub length: u32,
    /// Signature.
    pub signature: u32,
}

/// A system call with a relative timeout that the kernel kept where no one can
/// read it, or nowhere: it is issued again with the time that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptedSleep {
    /// System call number: nanosleep, clock_nanosleep, poll, futex, and those of
    /// epoll_wait's kind.
    pub number: u64,
    /// Nanoseconds left when the job was frozen.
    pub remaining_ns: u64,
}

/// setitimer(2): microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntervalTimer {
    /// Time to the next expiry; 0 when disarmed.
    pub value_us: u64,
    /// Reload value.
    pub interval_us: u64,
}

/// timer_create(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// Kernel timer ID.
    pub id: i32,
    /// CLOCK_*.
    pub clock: i32,
    /// sigev_notify (SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD_ID).
    pub notify: i32,
    /// sigev_signo.
    pub signal: i32,
    /// sigev_value.
    pub value: u64,
    /// Target thread for SIGEV_THREAD_ID, in the capsule.
    pub tid: Pid,
    /// Nanoseconds to the next expiry; 0 when disarmed.
    pub remaining_ns: u64,
    /// Reload value in nanoseconds.
    pub interval_ns: u64,
}

impl PosixTimer {
    /// Whether its clock goes on while the process does not run: not so a clock of CPU time.
    #[must_use]
    pub fn runs_on(&self) -> bool {
        const PROCESS_CPUTIME: i32 = 2;
        const THREAD_CPUTIME: i32 = 3;
        self.clock >= 0 && self.clock != PROCESS_CPUTIME && self.clock != THREAD_CPUTIME
    }
}

/// A resource limit; `u64::MAX` is RLIM_INFINITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// sched_getattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scheduling {
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// SCHED_DEADLINE runtime, deadline and period in nanoseconds.
    pub deadline: (u64, u64, u64),
}

/// Credentials of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective, saved, filesystem user ID.
    pub uids: [u32; 4],
    /// Real, effective, saved, filesystem group ID.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient capabilities.
    pub capabilities: [u64; 5],
    /// PR_GET_SECUREBITS.
    pub securebits: u32,
    /// PR_GET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
}
