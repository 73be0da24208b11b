//! Images made by hand, restored by the real kernel: the program writes down
//! what it finds, the test reads its memory.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

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
    page
}

fn path(path: &str) -> FilePath {
    let found = fs::metadata(path).unwrap();
    let size = if found.is_file() { found.size() } else { 0 };
    FilePath {
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
        personality: 0,
        threads,
    }
}

fn process(pid: Pid, ppid: Pid, pgid: Pid, sid: Pid, live: LiveProcess) -> Process {
    Process {
        pid,
        ppid,
        pgid,
        sid,
        kind: ProcessKind::Live(Box::new(live)),
    }
}

fn job(processes: Vec<Process>) -> JobImage {
    let mut clocks = clocks::machine().unwrap();
    clocks.monotonic_ns += 1_000_000_000_000;
    JobImage {
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
