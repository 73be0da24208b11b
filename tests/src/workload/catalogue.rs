//! The table of all workloads. One entry for each kind of state that a move must carry.

mod chaos;
mod files;
mod memory;
mod nested;
mod process;
mod sockets;

use super::Workload;

/// All of them, in the order of the tables below.
pub(super) fn all() -> Vec<Workload> {
    [
        REGISTERS,
        SLEEPS,
        WAITS,
        memory::MEMORY,
        process::THREADS,
        process::PROCESS,
        process::CONFINED,
        process::WATCHES,
        process::PIDFDS,
        process::QUEUES,
        process::TREES,
        nested::NESTED,
        files::FILES,
        sockets::SOCKETS,
        files::RINGS,
        files::TRANSITIONS,
        chaos::CHAOS,
    ]
    .concat()
}

/// A workload of a program whose modes differ in what they hold.
const fn of(
    program: &'static str,
    name: &'static str,
    args: &'static [&'static str],
    proves: &'static str,
    sabotages: &'static [&'static str],
) -> Workload {
    Workload::new(name, program, args, proves).broken_by(sabotages)
}

const REGISTERS: &[Workload] = &[
    Workload::new(
        "regs-gpr",
        "regs",
        &["--mode", "gpr"],
        "general registers and flags",
    )
    .broken_by(&["register", "flags"])
    .single(),
    Workload::new(
        "regs-xstate",
        "regs",
        &["--mode", "xstate"],
        "x87, SSE, AVX and AVX-512 with control words",
    )
    .broken_by(&["x87", "mxcsr", "vector"])
    .single(),
    Workload::new(
        "regs-segments",
        "regs",
        &["--mode", "segments"],
        "fs and gs base",
    )
    .broken_by(&["gs"])
    .single(),
];

/// A call with a deadline, in a program of one thread.
const fn sleep(name: &'static str, args: &'static [&'static str]) -> Workload {
    Workload::new(
        name,
        "sleeps",
        args,
        "a call with a deadline neither fails nor ends early or late",
    )
    .broken_by(&["eintr", "short", "long"])
    .single()
}

/// One that lasts for several moves.
const fn long(name: &'static str, args: &'static [&'static str]) -> Workload {
    sleep(name, args)
        .broken_by(&[])
        .ticking_every(2500)
        .not_stoppable()
}

const SLEEPS: &[Workload] = &[
    sleep("sleep-nanosleep", &["--mode", "nanosleep"]),
    sleep("sleep-long", &["--mode", "nanosleep", "--ms", "3000"])
        .broken_by(&[])
        .ticking_every(3000),
    sleep("sleep-clock", &["--mode", "clock_nanosleep"]),
    sleep("sleep-clock-abs", &["--mode", "clock_nanosleep_abs"]),
    sleep("sleep-poll", &["--mode", "poll"]),
    sleep("sleep-ppoll", &["--mode", "ppoll"]),
    sleep("sleep-select", &["--mode", "select"]),
    sleep("sleep-pselect", &["--mode", "pselect"]),
    sleep("sleep-epoll", &["--mode", "epoll_wait"]).not_stoppable(),
    sleep("sleep-epoll-pwait2", &["--mode", "epoll_pwait2"]).not_stoppable(),
    sleep("sleep-futex-rel", &["--mode", "futex_rel"]),
    sleep("sleep-futex-abs", &["--mode", "futex_abs"]),
    sleep("sleep-futex-abs-real", &["--mode", "futex_abs_real"]),
    sleep("sleep-sem", &["--mode", "sem_wait"]),
    sleep("sleep-sigtimedwait", &["--mode", "sigtimedwait"]).not_stoppable(),
    sleep("sleep-ppoll-fixed", &["--mode", "ppoll_fixed"])
        .not_stoppable()
        .broken_by(&["eintr", "long"]),
    sleep(
        "sleep-epoll-alarm",
        &["--mode", "epoll_alarm", "--ms", "300"],
    )
    .broken_by(&["long"]),
    long(
        "sleep-long-epoll",
        &["--mode", "epoll_wait", "--ms", "2500"],
    ),
    long(
        "sleep-long-epoll-pwait2",
        &["--mode", "epoll_pwait2", "--ms", "2500"],
    ),
    long(
        "sleep-long-sigtimedwait",
        &["--mode", "sigtimedwait", "--ms", "2500"],
    ),
    long(
        "sleep-long-ppoll-fixed",
        &["--mode", "ppoll_fixed", "--ms", "2500"],
    ),
    // The library hides EINTR here.
    sleep("sleep-cond", &["--mode", "cond_timedwait"]).broken_by(&["short", "long"]),
];

/// A call without a deadline that a child's act ends.
const fn wait(name: &'static str, args: &'static [&'static str]) -> Workload {
    Workload::new(
        name,
        "waits",
        args,
        "a waiting call neither fails nor misses what it waits for",
    )
    .broken_by(&["eintr"])
}

const WAITS: &[Workload] = &[
    wait("wait-pipe", &["--mode", "pipe"]),
    wait("wait-eventfd", &["--mode", "eventfd"]),
    wait("wait-tty", &["--mode", "tty"]),
    wait("wait-fifo", &["--mode", "fifo"]),
    wait("wait-epoll", &["--mode", "epoll_forever"]).not_stoppable(),
    wait("wait-poll", &["--mode", "poll_forever"]),
    wait("wait-futex", &["--mode", "futex"]),
    wait("wait-child", &["--mode", "wait4"]),
    wait("wait-waitid", &["--mode", "waitid"]),
    wait("wait-write", &["--mode", "write_full"]),
    wait("wait-timerfd", &["--mode", "timerfd"]).single(),
    wait("wait-signalfd", &["--mode", "signalfd"]),
    wait("wait-pause", &["--mode", "pause"]),
    wait("wait-sigsuspend", &["--mode", "sigsuspend"]),
    wait("wait-sigwaitinfo", &["--mode", "sigwaitinfo"]).not_stoppable(),
    wait("wait-ppoll-mask", &["--mode", "ppoll_mask"]),
];
