//! Images made by hand, restored by the real kernel: the program writes down
//! what it finds, the test reads its memory.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

#[expect(dead_code, reason = "other tests move programs")]
mod capsule;

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
};

use capsule::{Capsule, NoHost, until};
use libmig::{
    image::*,
    restore::{Building, Complete, clocks, prepare},
    sys::ptrace::reg,
};

#[test]
fn role() {
    capsule::play_role();
}

const CODE: u64 = 0x1000_0000;
const DATA: u64 = 0x2000_0000;
const STACK: u64 = 0x3000_0000;
const PAGE: u64 = 4096;
/// Where the program at [`COUNT`] writes.
const COUNTER: u64 = DATA + 64;
/// Offsets of the programs in the code page.
const COUNT: u64 = 0;
const SLEEP: u64 = 256;
const CALL: u64 = 512;
const WAIT: u64 = 768;
const VDSO: u64 = 0x4000_0000;

/// Programs with 32-bit absolute addresses, by hand.
fn code() -> Vec<u8> {
    let mut page = vec![0xcc; 4096];
    let address = |at: u64| u32::try_from(at).unwrap().to_le_bytes();
    // Writes r15, r12, rsp and xmm0 down, then counts for ever.
    let mut count = Vec::new();
    count.extend([0x4c, 0x89, 0x3c, 0x25]);
    count.extend(address(DATA));
    count.extend([0x4c, 0x89, 0x24, 0x25]);
    count.extend(address(DATA + 8));
    count.extend([0x48, 0x89, 0x24, 0x25]);
    count.extend(address(DATA + 16));
    count.extend([0xf3, 0x0f, 0x7f, 0x04, 0x25]); // movdqu [abs], xmm0
    count.extend(address(DATA + 32));
    let again = count.len();
    count.extend([0xf0, 0x48, 0xff, 0x04, 0x25]); // lock inc qword [abs]
    count.extend(address(COUNTER));
    count.extend([0xb8, 24, 0, 0, 0, 0x0f, 0x05, 0xeb]); // sched_yield
    count.push((again as i64 - (count.len() as i64 + 1)).cast_unsigned() as u8);
    page[..count.len()].copy_from_slice(&count);
    // After a system call: writes rax and the monotonic clock down, then pauses.
    let mut sleep = vec![0x0f, 0x05];
    sleep.extend([0x48, 0x89, 0x04, 0x25]);
    sleep.extend(address(DATA + 128));
    sleep.extend([0xb8, 228, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe]); // clock_gettime(MONOTONIC, ..)
    sleep.extend(address(DATA + 144));
    sleep.extend([0x0f, 0x05, 0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    let at = SLEEP as usize;
    page[at..at + sleep.len()].copy_from_slice(&sleep);
    // Calls clock_gettime(MONOTONIC, ..) at the address in r15, then pauses.
    let mut call = vec![0xbf, 1, 0, 0, 0, 0xbe];
    call.extend(address(DATA + 144));
    call.extend([0x41, 0xff, 0xd7, 0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    let at = CALL as usize;
    page[at..at + call.len()].copy_from_slice(&call);
    // wait4(-1, NULL, WNOHANG | WUNTRACED, NULL): writes rax down over a 7.
    let mut wait = vec![0x48, 0xc7, 0x04, 0x25];
    wait.extend(address(DATA + 128));
    wait.extend(7u32.to_le_bytes());
    wait.extend([
        0xb8, 61, 0, 0, 0, 0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, 0x31, 0xf6,
    ]);
    wait.extend([
        0xba, 3, 0, 0, 0, 0x4d, 0x31, 0xd2, 0x0f, 0x05, 0x48, 0x89, 0x04, 0x25,
    ]);
    wait.extend(address(DATA + 128));
    wait.extend([0x48, 0xff, 0x04, 0x25]); // inc: a 1 says that it has been here
    wait.extend(address(DATA + 136));
    wait.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    let at = WAIT as usize;
    page[at..at + wait.len()].copy_from_slice(&wait);
    page
}

fn path(path: &str) -> FilePath {
    let found = fs::metadata(path).unwrap();
    let size = if found.is_file() { found.size() } else { 0 };
    FilePath {
        space: None,
        path: path.as_bytes().to_vec(),
        mode: found.mode(),
        size,
    }
}

fn mapping(start: u64, pages: u64, protection: u8, backing: Backing) -> Mapping {
    Mapping {
        start,
        end: start + pages * PAGE,
        protection,
        backing,
        flags: MappingFlags::default(),
        guards: Vec::new(),
        name: None,
        policy: None,
    }
}

fn thread(tid: Pid, program: u64) -> Thread {
    let mut registers: Registers = [0; 27];
    registers[reg::RIP] = CODE + program;
    registers[reg::RSP] = STACK + PAGE;
    registers[reg::R15] = 0x1515_1515;
    registers[reg::R12] = 0x1212_1212;
    registers[reg::ORIG_RAX] = u64::MAX;
    registers[reg::CS] = 0x33;
    registers[reg::SS] = 0x2b;
    registers[reg::EFLAGS] = 0x202;
    let mut legacy = vec![0; 512];
    legacy[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    legacy[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    legacy[160..176].copy_from_slice(&[0xab; 16]);
    let all = !0 >> (63 - last_capability());
    Thread {
        tid,
        inner: Vec::new(),
        comm: b"by-hand".to_vec(),
        registers,
        xstate: XState {
            legacy,
            present: 3,
            components: Vec::new(),
        },
        sigmask: 0,
        pending: Vec::new(),
        altstack: AltStack {
            flags: 2,
            ..AltStack::default()
        },
        clear_child_tid: 0,
        robust_list: (0, 0),
        rseq: None,
        sleep: None,
        scheduling: Scheduling::default(),
        affinity: None,
        credentials: Credentials {
            capabilities: [0, own_capabilities(), own_capabilities(), all, 0],
            ..Credentials::default()
        },
        parent_death_signal: 0,
        timer_slack_ns: 50_000,
        io_priority: 0,
        tsc_mode: 1,
        seccomp: Seccomp::Off,
        memory_policy: None,
    }
}

fn last_capability() -> u32 {
    fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

fn live(threads: Vec<Thread>) -> LiveProcess {
    let numbers = Layout {
        start_code: CODE,
        end_code: CODE + PAGE,
        start_data: DATA,
        end_data: DATA + PAGE,
        start_brk: DATA + 16 * PAGE,
        brk: DATA + 16 * PAGE,
        start_stack: STACK + PAGE,
        arg_start: STACK,
        arg_end: STACK,
        env_start: STACK,
        env_end: STACK,
        auxv: vec![0; 16],
    };
    LiveProcess {
        memory: MemoryImage {
            layout: numbers,
            exe_object: None,
            exe: FileMapping {
                file: path("/bin/true"),
                offset: 0,
            },
            mappings: vec![
                mapping(CODE, 1, 5, Backing::Anonymous),
                mapping(DATA, 1, 3, Backing::Anonymous),
                mapping(STACK, 1, 3, Backing::Anonymous),
            ],
            vdso: None,
            membarrier: 0,
            lock_future: LockFuture::Not,
            merge_future: false,
        },
        descriptors: Vec::new(),
        fs: FsContext {
            cwd: path("/tmp"),
            root: path("/"),
            umask: 0o27,
        },
        actions: vec![SignalAction::default(); 64],
        pending: Vec::new(),
        stopped: None,
        itimers: [IntervalTimer::default(); 3],
        timers: Vec::new(),
        limits: Vec::new(),
        oom_score_adj: 0,
        coredump_filter: 0x33,
        dumpable: 1,
        child_subreaper: false,
        thp_disable: false,
        exec_gain: 0,
        personality: 0,
        threads,
        filters: Vec::new(),
        namespaces: libmig::image::Membership::default(),
        child_space: libmig::image::ChildSpace::default(),
    }
}

fn process(pid: Pid, ppid: Pid, pgid: Pid, sid: Pid, live: LiveProcess) -> Process {
    Process {
        pid,
        ppid,
        pgid,
        sid,
        inner: libmig::image::InnerIds::default(),
        kind: ProcessKind::Live(Box::new(live)),
    }
}

fn job(processes: Vec<Process>) -> JobImage {
    let mut clocks = clocks::machine().unwrap();
    clocks.monotonic_ns += 1_000_000_000_000;
    JobImage {
        shm: Vec::new(),
        system_v: libmig::image::SystemV::default(),
        namespaces: Vec::new(),
        systems: Vec::new(),
        capsule: CapsuleImage {
            hostname: String::new(),
            domainname: String::new(),
            clocks,
        },
        processes,
        files: Vec::new(),
        pipes: Vec::new(),
        ttys: Vec::new(),
        shared: Vec::new(),
        locks: Vec::new(),
    }
}

fn fill(building: &mut Building, image: &JobImage) {
    for process in &image.processes {
        if matches!(process.kind, ProcessKind::Live(_)) {
            building
                .bulk(
                    BulkTarget::Memory {
                        pid: process.pid,
                        address: CODE,
                    },
                    &code(),
                )
                .unwrap();
        }
    }
}

fn restore(capsule: &Capsule, image: &JobImage) -> Complete {
    let mut building = prepare(&capsule.reference())
        .unwrap()
        .build(image, &mut NoHost)
        .unwrap();
    fill(&mut building, image);
    building.finish(image).unwrap()
}

fn word(pid: i32, address: u64) -> u64 {
    let mut bytes = [0; 8];
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    memory.read_exact_at(&mut bytes, address).unwrap();
    u64::from_le_bytes(bytes)
}

fn host_pid(complete: &Complete, pid: Pid) -> i32 {
    complete
        .processes()
        .iter()
        .find(|(known, _)| *known == pid)
        .unwrap()
        .1
        .raw()
}

#[test]
fn a_process_goes_on_with_its_registers_and_memory() {
    let capsule = Capsule::new();
    let image = job(vec![process(
        77,
        INIT,
        77,
        INIT,
        live(vec![thread(77, COUNT)]),
    )]);
    let complete = restore(&capsule, &image);
    let pid = host_pid(&complete, 77);
    assert_eq!(word(pid, COUNTER), 0, "it runs before its release");
    complete.release().unwrap();
    until("the program", || (word(pid, COUNTER) > 1000).then_some(()));
    assert_eq!(word(pid, DATA), 0x1515_1515);
    assert_eq!(word(pid, DATA + 8), 0x1212_1212);
    assert_eq!(word(pid, DATA + 16), STACK + PAGE);
    assert_eq!(word(pid, DATA + 32), u64::from_le_bytes([0xab; 8]));
    let proc = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(proc("comm"), "by-hand\n");
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(
        line(&proc("status"), "Cpus_allowed_list:"),
        line(&own, "Cpus_allowed_list:")
    );
    assert!(proc("status").contains("Umask:\t0027"));
    assert_eq!(
        proc("maps")
            .lines()
            .filter(|line| !line.contains("vsyscall"))
            .count(),
        3,
        "{}",
        proc("maps")
    );
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(exe, fs::canonicalize("/bin/true").unwrap());
    assert_eq!(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 0);
    assert_eq!(capsule.processes(), [pid]);
}

#[test]
fn threads_keep_their_ids_and_all_run() {
    let capsule = Capsule::new();
    let threads: Vec<Thread> = [77, 90, 80, 79]
        .into_iter()
        .map(|tid| thread(tid, COUNT))
        .collect();
    let image = job(vec![process(77, INIT, 77, INIT, live(threads))]);
    let complete = restore(&capsule, &image);
    let pid = host_pid(&complete, 77);
    let ids = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let statuses =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
        let mut ids: Vec<i32> = statuses
            .map(|status| innermost(&status, "NSpid:"))
            .collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(), [77, 79, 80, 90]);
    complete.release().unwrap();
    until("the threads", || (word(pid, COUNTER) > 1000).then_some(()));
}

#[test]
fn threads_are_bound_to_those_of_their_cpus_that_the_node_has() {
    let capsule = Capsule::new();
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    let all = line(&own, "Cpus_allowed_list:");
    let last = all.rsplit([',', '-']).next().unwrap();
    let (number, absent) = (last.parse().unwrap(), 1023);
    let bound = |tid, cpus: &[u32]| {
        let mut thread = thread(tid, COUNT);
        thread.affinity = Some(cpus.to_vec());
        thread
    };
    let threads = vec![
        bound(77, &[number]),
        bound(78, &[number, absent]),
        bound(79, &[absent]),
    ];
    let image = job(vec![process(77, INIT, 77, INIT, live(threads))]);
    let complete = restore(&capsule, &image);
    let pid = host_pid(&complete, 77);
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut masks: Vec<(i32, String)> = tasks
        .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .map(|status| {
            let mask = line(&status, "Cpus_allowed_list:").to_owned();
            (innermost(&status, "NSpid:"), mask)
        })
        .collect();
    masks.sort_unstable();
    let expected = [(77, last), (78, last), (79, all)].map(|(tid, mask)| (tid, mask.to_owned()));
    assert_eq!(masks, expected);
}

#[test]
fn a_tree_has_its_sessions_groups_and_zombies() {
    let capsule = Capsule::new();
    let program = |pid| live(vec![thread(pid, COUNT)]);
    let zombie = |status| ProcessKind::Zombie {
        status,
        comm: b"departed".to_vec(),
    };
    let image = job(vec![
        process(10, INIT, 10, INIT, program(10)),
        process(11, 10, 11, 11, program(11)),
        process(12, 11, 12, 11, program(12)),
        Process {
            pid: 13,
            ppid: 10,
            pgid: 10,
            sid: INIT,
            inner: libmig::image::InnerIds::default(),
            kind: zombie(200 << 8),
        },
        Process {
            pid: 14,
            ppid: 10,
            pgid: 10,
            sid: INIT,
            inner: libmig::image::InnerIds::default(),
            kind: zombie(libc::SIGTERM),
        },
        // Orphans: of a living nested leader, and of one that is dead.
        process(20, INIT, 12, 11, program(20)),
        process(30, INIT, 29, 28, program(30)),
    ]);
    let complete = restore(&capsule, &image);
    let parent = host_pid(&complete, 10);
    for expected in &image.processes {
        let found = capsule
            .processes()
            .into_iter()
            .map(status)
            .find(|s| innermost(s, "NSpid:") == expected.pid);
        let Some(status) = found else {
            assert!(
                matches!(expected.kind, ProcessKind::Zombie { .. }),
                "pid {} is missing",
                expected.pid
            );
            continue;
        };
        assert_eq!(innermost(&status, "NSpgid:"), expected.pgid, "{status}");
        assert_eq!(innermost(&status, "NSsid:"), expected.sid, "{status}");
        let ppid = innermost(
            &self::status(line(&status, "PPid:").parse().unwrap()),
            "NSpid:",
        );
        assert_eq!(ppid, expected.ppid, "{status}");
    }
    let codes: Vec<String> = capsule::children(parent)
        .into_iter()
        .filter(|child| line(&status(*child), "State:").starts_with('Z'))
        .map(|child| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
            assert!(stat.contains("(departed)"), "{stat}");
            stat.split_whitespace().last().unwrap().to_owned()
        })
        .collect();
    assert_eq!(codes, [(200 << 8).to_string(), libc::SIGTERM.to_string()]);
    assert_eq!(
        line(&status(parent), "ShdPnd:"),
        "0000000000000000",
        "no SIGCHLD of ours is left"
    );
    complete.release().unwrap();
    until("the tree", || (word(parent, COUNTER) > 1000).then_some(()));
}

#[test]
fn a_sleep_takes_as_long_as_was_left() {
    let capsule = Capsule::new();
    let mut sleeper = thread(77, SLEEP);
    sleeper.registers[reg::RIP] += 2;
    sleeper.registers[reg::RAX] = (-514_i64).cast_unsigned();
    sleeper.registers[reg::ORIG_RAX] = libc::SYS_nanosleep.cast_unsigned();
    sleeper.sleep = Some(InterruptedSleep {
        number: libc::SYS_nanosleep.cast_unsigned(),
        remaining_ns: 300_000_000,
    });
    let image = job(vec![process(77, INIT, 77, INIT, live(vec![sleeper]))]);
    let complete = restore(&capsule, &image);
    let pid = host_pid(&complete, 77);
    complete.release().unwrap();
    let woken = until("the sleeper", || {
        let seconds = word(pid, DATA + 144);
        (seconds != 0)
            .then(|| i128::from(seconds) * 1_000_000_000 + i128::from(word(pid, DATA + 152)))
    });
    let slept = woken - i128::from(image.capsule.clocks.monotonic_ns);
    assert_eq!(word(pid, DATA + 128), 0, "nanosleep returns 0");
    assert!(
        (300_000_000..600_000_000).contains(&slept),
        "slept {slept} ns"
    );
}

#[test]
fn shared_memory_is_one_object_for_all() {
    let capsule = Capsule::new();
    let shared = |object| Backing::Shared {
        object,
        offset: 0,
        private: false,
        read_only: false,
    };
    let program = |pid, object| {
        let mut live = live(vec![thread(pid, COUNT)]);
        live.memory.mappings[1].backing = shared(object);
        live
    };
    let mut image = job(vec![
        process(10, INIT, 10, INIT, program(10, 0)),
        process(11, 10, 10, INIT, program(11, 0)),
        process(12, 10, 10, INIT, program(12, 1)),
    ]);
    image.shared = vec![
        SharedMemory {
            kind: SharedKind::Anonymous { hugetlb_kib: 0 },
            size: PAGE,
        },
        SharedMemory {
            kind: SharedKind::Memfd {
                name: b"spool".to_vec(),
                seals: 2,
                hugetlb_kib: 0,
                attributes: Attributes::default(),
            },
            size: PAGE,
        },
    ];
    let mut building = prepare(&capsule.reference())
        .unwrap()
        .build(&image, &mut NoHost)
        .unwrap();
    fill(&mut building, &image);
    let mut page = vec![0; 4096];
    page[1000..1008].copy_from_slice(&0x5eed_u64.to_le_bytes());
    building
        .bulk(
            BulkTarget::Shared {
                object: 0,
                offset: 0,
            },
            &page,
        )
        .unwrap();
    let complete = building.finish(&image).unwrap();
    let pids: Vec<i32> = [10, 11, 12]
        .iter()
        .map(|pid| host_pid(&complete, *pid))
        .collect();
    assert_eq!(word(pids[1], DATA + 1000), 0x5eed);
    let maps = |pid: i32| fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(
        maps(pids[0]).contains("/dev/zero (deleted)"),
        "{}",
        maps(pids[0])
    );
    assert!(
        maps(pids[2]).contains("/memfd:spool (deleted)"),
        "{}",
        maps(pids[2])
    );
    complete.release().unwrap();
    until("the counters", || {
        (word(pids[0], COUNTER) > 1000).then_some(())
    });
    until("the other process", || {
        (word(pids[2], COUNTER) > 1000).then_some(())
    });
    let seen = word(pids[0], COUNTER);
    assert!(
        word(pids[1], COUNTER) >= seen,
        "both count in the same place"
    );
}

#[test]
fn signals_timers_and_credentials_are_there() {
    let capsule = Capsule::new();
    let mut leader = thread(77, COUNT);
    leader.sigmask = 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGUSR2 - 1) | 1 << (libc::SIGALRM - 1);
    leader.credentials = Credentials {
        uids: [1000, 1001, 1002, 1001],
        gids: [2000, 2001, 2002, 2001],
        groups: vec![5, 6],
        capabilities: [0, 0, 0, 0b1000, 0],
        securebits: 0,
        no_new_privs: true,
    };
    leader.scheduling.nice = 5;
    leader.pending = vec![signal(libc::SIGUSR1)];
    leader.parent_death_signal = libc::SIGHUP;
    let mut live = live(vec![leader]);
    live.pending = vec![signal(libc::SIGUSR2)];
    live.actions[11] = SignalAction {
        handler: 1,
        ..SignalAction::default()
    };
    live.timers = vec![PosixTimer {
        id: 7,
        clock: libc::CLOCK_MONOTONIC,
        notify: libc::SIGEV_SIGNAL,
        signal: libc::SIGUSR1,
        value: 99,
        tid: 0,
        remaining_ns: 3_000_000_000_000,
        interval_ns: 0,
    }];
    live.itimers[0] = IntervalTimer {
        value_us: 3_000_000_000,
        interval_us: 0,
    };
    live.limits = vec![Limit {
        soft: 100,
        hard: 200,
    }];
    live.oom_score_adj = 10;
    let image = job(vec![process(77, INIT, 77, INIT, live)]);
    let complete = restore(&capsule, &image);
    let pid = host_pid(&complete, 77);
    let status = status(pid);
    for (key, value) in [
        ("Uid:", "1000\t1001\t1002\t1001"),
        ("Gid:", "2000\t2001\t2002\t2001"),
        ("Groups:", "5 6"),
        ("CapBnd:", "0000000000000008"),
        ("CapEff:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("SigPnd:", "0000000000000200"),
        ("ShdPnd:", "0000000000000800"),
        ("SigIgn:", "0000000000000800"),
        ("SigBlk:", "0000000000002a00"),
    ] {
        assert_eq!(line(&status, key), value, "{key}");
    }
    let proc = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert!(
        proc("timers").contains("ID: 7\nsignal: 10/"),
        "{}",
        proc("timers")
    );
    assert!(
        proc("limits").contains("100                  200                  seconds"),
        "{}",
        proc("limits")
    );
    assert_eq!(proc("oom_score_adj"), "10\n");
    assert_eq!(
        proc("stat")
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(16),
        Some("5"),
        "nice"
    );
    complete.destroy().unwrap();
    assert_eq!(capsule.processes(), [0; 0]);
}

#[test]
fn a_stopped_process_stays_stopped() {
    let capsule = Capsule::new();
    let mut stopped = live(vec![thread(77, COUNT), thread(78, COUNT)]);
    stopped.stopped = Some(libc::SIGSTOP);
    let image = job(vec![process(77, INIT, 77, INIT, stopped)]);
    let complete = restore(&capsule, &image);
    let pid = host_pid(&complete, 77);
    complete.release().unwrap();
    until("the stop", || {
        line(&status(pid), "State:").starts_with('T').then_some(())
    });
    let before = word(pid, COUNTER);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGCONT,
    )
    .unwrap();
    until("the program", || {
        (word(pid, COUNTER) > before + 1000).then_some(())
    });
}

#[test]
fn a_parent_does_not_hear_of_a_stop_twice() {
    let capsule = Capsule::new();
    let mut stopped = live(vec![thread(78, COUNT), thread(79, COUNT)]);
    stopped.stopped = Some(libc::SIGSTOP);
    let image = job(vec![
        process(77, INIT, 77, INIT, live(vec![thread(77, WAIT)])),
        process(78, 77, 78, INIT, stopped),
    ]);
    let complete = restore(&capsule, &image);
    let (parent, child) = (host_pid(&complete, 77), host_pid(&complete, 78));
    assert_eq!(line(&status(parent), "ShdPnd:"), "0000000000000000");
    complete.release().unwrap();
    until("the parent", || {
        (word(parent, DATA + 136) == 1).then_some(())
    });
    assert_eq!(word(parent, DATA + 128), 0, "no child has a new status");
    until("the stop", || {
        line(&status(child), "State:")
            .starts_with('T')
            .then_some(())
    });
    assert_eq!(word(child, COUNTER), 0);
}

#[test]
fn a_refusal_leaves_nothing_and_names_the_object() {
    type Damage = fn(&mut LiveProcess);
    let broken: [(Damage, &str); 4] = [
        (
            |live| {
                let file = FilePath {
                    space: None,
                    path: b"/no/such/file".to_vec(),
                    mode: libc::S_IFREG,
                    size: 1,
                };
                live.memory.mappings[1].backing =
                    Backing::FilePrivate(FileMapping { file, offset: 0 });
            },
            "/no/such/file",
        ),
        (
            |live| {
                let file = FilePath {
                    size: 1,
                    ..path("/bin/true")
                };
                live.memory.mappings[1].backing =
                    Backing::FilePrivate(FileMapping { file, offset: 0 });
            },
            "at the destination and 1 at the source",
        ),
        (
            |live| live.fs.cwd.path = b"/no/such/folder".to_vec(),
            "pid 77",
        ),
        (
            |live| live.threads[0].xstate.components = vec![(40, vec![0; 8])],
            "processor state 40",
        ),
    ];
    for (damage, named) in broken {
        let capsule = Capsule::new();
        let mut program = live(vec![thread(77, COUNT)]);
        damage(&mut program);
        let image = job(vec![process(77, INIT, 77, INIT, program)]);
        let result = prepare(&capsule.reference())
            .unwrap()
            .build(&image, &mut NoHost)
            .and_then(|mut building| {
                fill(&mut building, &image);
                building.finish(&image)
            });
        let error = result.expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
        assert_eq!(capsule.processes(), [0; 0], "{named}");
    }
}

fn signal(number: i32) -> SigInfo {
    let mut info = vec![0; 128];
    info[..4].copy_from_slice(&number.to_le_bytes());
    info[8..12].copy_from_slice(&(-1_i32).to_le_bytes()); // SI_QUEUE
    SigInfo(info)
}

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

fn line<'a>(status: &'a str, key: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap()
        .trim()
}

/// The ID in the capsule's pid namespace.
fn innermost(status: &str, key: &str) -> i32 {
    line(status, key)
        .split_whitespace()
        .last()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_foreign_vdso_leads_to_the_one_of_this_kernel() {
    let (mut code, length) = own_vdso();
    let clock = libmig::restore::vdso::functions(&code).unwrap()["__vdso_clock_gettime"];
    let identity = libmig::restore::vdso::build_id(&code).unwrap();
    // At another build ID the old code must never run: it is made to crash.
    let at = clock.offset as usize;
    code[at + 12..at + 32].fill(0xcc);
    for same in [true, false] {
        let capsule = Capsule::new();
        let mut caller = thread(77, CALL);
        caller.registers[reg::R15] = VDSO + clock.offset;
        let mut program = live(vec![caller]);
        program
            .memory
            .mappings
            .push(mapping(VDSO, length / PAGE, 5, Backing::Vdso));
        let build_id = if same { identity.clone() } else { vec![7; 20] };
        program.memory.vdso = Some(Vdso {
            build_id,
            code: code.clone(),
        });
        let image = job(vec![process(77, INIT, 77, INIT, program)]);
        let complete = restore(&capsule, &image);
        let pid = host_pid(&complete, 77);
        complete.release().unwrap();
        let seconds = until("the clock", || {
            Some(word(pid, DATA + 144)).filter(|seconds| *seconds != 0)
        });
        let expected = image.capsule.clocks.monotonic_ns.cast_unsigned() / 1_000_000_000;
        assert!(
            (expected..expected + 5).contains(&seconds),
            "{seconds}, not {expected}"
        );
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
        assert_eq!(vdso.starts_with(&format!("{VDSO:x}-")), same, "{maps}");
    }
}

/// The vDSO of the test itself, and the length of its mapping.
fn own_vdso() -> (Vec<u8>, u64) {
    let own = libmig::sys::HostPid::own();
    let areas = libmig::inspect::maps::read(own).unwrap();
    let area = areas.iter().find(|area| area.name == b"[vdso]").unwrap();
    let mut code = vec![0; area.len() as usize];
    libmig::sys::process_vm::force_read(own, area.start, &mut code).unwrap();
    (code, area.len())
}
