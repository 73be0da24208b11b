//! The list of probes: what each is for, how bad it is when it fails, and what
//! to do then. One entry for each thing that `mig doctor` shows.

use caps::Capability;
use nix::errno::Errno;

use super::{Finding, Seen, Status, cgroup, machine, vdso};
use crate::sys::probe as call;

/// One thing to be found out.
pub(super) struct Probe {
    name: &'static str,
    purpose: &'static str,
    /// What it means for mig when it fails.
    failure: Status,
    remedy: &'static str,
    look: Look,
}

/// How it is found out.
enum Look {
    /// A kernel call, tried in a child.
    Call(fn() -> Result<(), Errno>),
    /// A capability of this process.
    Capability(Capability),
    /// Anything else.
    See(fn() -> Seen),
}

use Look::{Call, Capability as Cap, See};
use Status::{Degraded, Missing};

const KERNEL: &str = "run Linux 6.7 or later, built with CONFIG_CHECKPOINT_RESTORE, and no seccomp filter around migd";
const ROOT: &str = "run it as root; in a container, add this capability";

impl Probe {
    const fn new(
        name: &'static str,
        look: Look,
        failure: Status,
        purpose: &'static str,
        remedy: &'static str,
    ) -> Self {
        Self {
            name,
            purpose,
            failure,
            remedy,
            look,
        }
    }

    /// Finds it out.
    pub(super) fn run(&self) -> Finding {
        let (status, detail) = match self.seen() {
            Seen::Works(detail) => (Status::Ok, detail),
            Seen::InPart(detail) => (Status::Degraded, detail),
            Seen::Fails(detail) => (self.failure, detail),
        };
        Finding {
            name: self.name.to_owned(),
            status,
            detail,
            purpose: self.purpose.to_owned(),
            remedy: (status != Status::Ok).then(|| self.remedy.to_owned()),
        }
    }

    fn seen(&self) -> Seen {
        match &self.look {
            Call(call) => match call() {
                Ok(()) => Seen::Works("works".to_owned()),
                Err(Errno::ETIMEDOUT) => Seen::Fails("the kernel gave no answer".to_owned()),
                Err(errno) => Seen::Fails(format!("{} ({errno:?})", errno.desc())),
            },
            Cap(capability) => machine::capability(*capability),
            See(see) => see(),
        }
    }
}

/// All probes, in the order in which they are shown.
pub(super) const PROBES: &[Probe] = &[
    Probe::new(
        "kernel",
        See(machine::kernel),
        Missing,
        "PAGEMAP_SCAN and asynchronous write protection",
        "run Linux 6.7 or later",
    ),
    Probe::new(
        "architecture",
        See(machine::architecture),
        Missing,
        "registers and injected code are of one architecture",
        "mig knows x86_64 only",
    ),
    Probe::new(
        "root",
        See(machine::root),
        Missing,
        "jobs of all users are traced and made anew",
        "run it as root of the initial user namespace",
    ),
    Probe::new(
        "cap-sys-admin",
        Cap(Capability::CAP_SYS_ADMIN),
        Missing,
        "namespaces and mounts of a capsule",
        ROOT,
    ),
    Probe::new(
        "cap-sys-ptrace",
        Cap(Capability::CAP_SYS_PTRACE),
        Missing,
        "state of processes of other users",
        ROOT,
    ),
    Probe::new(
        "cap-checkpoint-restore",
        Cap(Capability::CAP_CHECKPOINT_RESTORE),
        Missing,
        "pids, memory layout and exe link of a process made anew",
        ROOT,
    ),
    Probe::new(
        "cap-net-admin",
        Cap(Capability::CAP_NET_ADMIN),
        Degraded,
        "sockets, and the lab's network",
        "without it the lab cannot be set up; add this capability",
    ),
    Probe::new(
        "cap-sys-resource",
        Cap(Capability::CAP_SYS_RESOURCE),
        Degraded,
        "hard limits above migd's own, oom_score_adj below it",
        "jobs with higher hard limits than migd's are refused; add this capability",
    ),
    Probe::new(
        "cap-setuid",
        Cap(Capability::CAP_SETUID),
        Missing,
        "identity of a process made anew",
        ROOT,
    ),
    Probe::new(
        "cap-setgid",
        Cap(Capability::CAP_SETGID),
        Missing,
        "groups of a process made anew",
        ROOT,
    ),
    Probe::new(
        "cap-kill",
        Cap(Capability::CAP_KILL),
        Missing,
        "signals to jobs of other users",
        ROOT,
    ),
    Probe::new(
        "cap-sys-nice",
        Cap(Capability::CAP_SYS_NICE),
        Degraded,
        "priorities and CPU affinity of a process made anew",
        "jobs with raised priority are refused; add this capability",
    ),
    Probe::new(
        "ptrace",
        Call(call::ptrace_seize),
        Missing,
        "stopping a job for the moment of a move",
        KERNEL,
    ),
    Probe::new(
        "yama",
        See(machine::yama),
        Missing,
        "tracing processes that are no children",
        "sysctl kernel.yama.ptrace_scope=1; 3 holds until the next boot",
    ),
    Probe::new(
        "process-vm-readv",
        Call(call::process_vm_readv),
        Missing,
        "reading a job's memory",
        KERNEL,
    ),
    Probe::new(
        "pidfd-getfd",
        Call(call::pidfd_getfd),
        Missing,
        "duplicates of a job's descriptors",
        KERNEL,
    ),
    Probe::new(
        "kcmp",
        Call(call::kcmp),
        Missing,
        "what processes share",
        "run a kernel built with CONFIG_KCMP",
    ),
    Probe::new(
        "map-files",
        See(machine::map_files),
        Missing,
        "the files behind mappings, also deleted ones",
        KERNEL,
    ),
    Probe::new(
        "dupfd-query",
        Call(call::dupfd_query),
        Degraded,
        "which descriptors are one open file, fast",
        "kcmp is used instead, more slowly; Linux 6.10 has it",
    ),
    Probe::new(
        "pagemap-scan",
        Call(call::pagemap_scan),
        Missing,
        "which pages have contents",
        "run Linux 6.7 or later",
    ),
    Probe::new(
        "write-tracking",
        Call(call::write_tracking),
        Degraded,
        "which pages changed while a job was being copied",
        "memory is copied only while the job stands still; Linux 6.7 with CONFIG_USERFAULTFD has it",
    ),
    Probe::new(
        "mm-map",
        Call(call::prctl_mm_map),
        Missing,
        "brk, arguments and auxiliary vector of a process made anew",
        "run a kernel built with CONFIG_CHECKPOINT_RESTORE",
    ),
    Probe::new(
        "set-tid",
        Call(call::clone3_set_tid),
        Missing,
        "processes and threads keep their numbers",
        KERNEL,
    ),
    Probe::new(
        "time-namespace",
        Call(call::time_namespace),
        Missing,
        "the monotonic clock of a job goes on where it stopped",
        "run a kernel built with CONFIG_TIME_NS",
    ),
    Probe::new(
        "timer-ids",
        Call(call::timer_restore_ids),
        Degraded,
        "POSIX timers keep their IDs",
        "jobs with many POSIX timers take longer; Linux 6.15 has it",
    ),
    Probe::new(
        "rseq",
        Call(call::rseq),
        Degraded,
        "restartable sequences of the C library",
        "jobs that use them are refused; run a kernel built with CONFIG_RSEQ",
    ),
    Probe::new(
        "rseq-query",
        Call(call::ptrace_rseq),
        Degraded,
        "where a thread's restartable sequences are registered",
        "threads with restartable sequences are refused; Linux 5.13 has it",
    ),
    Probe::new(
        "cgroup",
        See(cgroup::freezer),
        Missing,
        "holding a job still, and ending it whole",
        "mount cgroup2: mount -t cgroup2 none /sys/fs/cgroup/unified; Linux 5.14 has cgroup.kill",
    ),
    Probe::new(
        "vdso",
        See(vdso::found),
        Degraded,
        "fast clocks of programs",
        "boot without vdso=0",
    ),
    Probe::new(
        "pid-max",
        See(machine::pid_max),
        Degraded,
        "room for the numbers of jobs from other nodes",
        "sysctl kernel.pid_max=4194304",
    ),
    Probe::new(
        "overcommit",
        See(machine::overcommit),
        Degraded,
        "room for the memory that programs reserve and do not use",
        "sysctl vm.overcommit_memory=0",
    ),
    Probe::new(
        "huge-pages",
        See(machine::huge_pages),
        Degraded,
        "huge pages where the source had them",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    Probe::new(
        "overlayfs",
        Call(call::overlayfs),
        Degraded,
        "the roots of the lab's nodes",
        "`mig lab` does not work; modprobe overlay",
    ),
    Probe::new(
        "veth",
        Call(call::veth),
        Degraded,
        "the network of the lab",
        "`mig lab` does not work; modprobe veth",
    ),
    Probe::new(
        "bridge",
        Call(call::bridge),
        Degraded,
        "the network of the lab",
        "`mig lab` does not work; modprobe bridge",
    ),
];
