//! A real program, in mid-work, put into a capsule: with its loader, libc,
//! vDSO, stack and heap. What of it only `capture` can read is left at its
//! default; the program has no need of it.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

#[expect(dead_code, reason = "other tests look at children, too")]
mod capsule;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use capsule::{Capsule, NoHost, until};
use libmig::{
    image::*,
    inspect::maps::{self, Area},
    restore::{clocks, prepare, xstate},
    sys::{
        HostPid, process_vm,
        ptrace::{self, Stopped, Waited},
    },
};

#[test]
fn role() {
    capsule::play_role();
}

#[test]
fn a_shell_script_goes_on_where_it_was() {
    const ROUNDS: u64 = 300_000;
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("result");
    let script = format!(
        "cd /; for ((i = 0; i < {ROUNDS}; i++)); do s=$((s + i % 7)); done; echo $s >{}",
        result.display()
    );
    let mut original = Command::new("/bin/bash");
    original
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env_clear();
    let mut original = original.spawn().unwrap();
    let pid = HostPid::new(original.id().cast_signed());
    until("the shell to be at work", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let ticks: u64 = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(11)
            .unwrap()
            .parse()
            .unwrap();
        (ticks > 5).then_some(())
    });
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(pid).unwrap();
    let Waited::Stopped(stopped, _) = ptrace::wait(pid).unwrap() else {
        panic!("it ended too early")
    };
    let (image, contents) = look(&stopped);
    original.kill().unwrap();
    original.wait().unwrap();
    assert!(!result.exists(), "the original ended by itself");

    let capsule = Capsule::new();
    let mut building = prepare(&capsule.reference())
        .unwrap()
        .build(&image, &mut NoHost)
        .unwrap();
    for (address, bytes) in &contents {
        let target = BulkTarget::Memory {
            pid: pid.raw(),
            address: *address,
        };
        building.bulk(target, bytes).unwrap();
    }
    let complete = building.finish(&image).unwrap();
    let restored = complete.processes()[0].1;
    assert_eq!(
        outline(&maps::read(restored).unwrap()),
        outline(&image_areas(&image))
    );
    complete.release().unwrap();
    until("the result", || {
        fs::read_to_string(&result)
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    let expected: u64 = (0..ROUNDS).map(|i| i % 7).sum();
    assert_eq!(
        fs::read_to_string(&result).unwrap(),
        format!("{expected}\n")
    );
}

type Contents = Vec<(u64, Vec<u8>)>;

/// What can be seen of a process with one thread from outside.
fn look(stopped: &Stopped) -> (JobImage, Contents) {
    let pid = stopped.thread();
    let areas: Vec<Area> = maps::read(pid)
        .unwrap()
        .into_iter()
        .filter(|area| area.name != b"[vsyscall]")
        .collect();
    let mut contents = Vec::new();
    let mut vdso = Vec::new();
    for area in areas.iter().filter(|area| !area.name.starts_with(b"[vvar")) {
        let mut bytes = vec![0; area.len() as usize];
        process_vm::force_read(pid, area.start, &mut bytes).unwrap();
        if area.name == b"[vdso]" {
            vdso = bytes;
        } else {
            contents.push((area.start, bytes));
        }
    }
    let memory = MemoryImage {
        layout: numbers(pid, &areas),
        exe: FileMapping {
            file: file(
                fs::read_link(format!("/proc/{pid}/exe"))
                    .unwrap()
                    .to_str()
                    .unwrap(),
            ),
            offset: 0,
        },
        mappings: mappings(pid, &areas),
        vdso: Some(Vdso {
            build_id: libmig::restore::vdso::build_id(&vdso).unwrap(),
            code: vdso,
        }),
        membarrier: 0,
    };
    let live = LiveProcess {
        memory,
        descriptors: Vec::new(),
        fs: FsContext {
            cwd: file("/"),
            root: file("/"),
            umask: 0o22,
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
        threads: vec![thread(stopped)],
    };
    let kind = ProcessKind::Live(Box::new(live));
    let image = JobImage {
        capsule: CapsuleImage {
            hostname: String::new(),
            domainname: String::new(),
            clocks: clocks::machine().unwrap(),
        },
        processes: vec![Process {
            pid: pid.raw(),
            ppid: INIT,
            pgid: pid.raw(),
            sid: INIT,
            kind,
        }],
        files: Vec::new(),
        pipes: Vec::new(),
        ttys: Vec::new(),
        shared: Vec::new(),
    };
    (image, contents)
}

fn numbers(pid: HostPid, areas: &[Area]) -> Layout {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit(')').next().unwrap().to_owned();
    // Field 3 (state) is the first after the name.
    let field = |number: usize| {
        rest.split_whitespace()
            .nth(number - 3)
            .unwrap()
            .parse()
            .unwrap()
    };
    let heap = areas.iter().find(|area| area.name == b"[heap]").unwrap();
    Layout {
        start_code: field(26),
        end_code: field(27),
        start_stack: field(28),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk: heap.end,
        arg_start: field(48),
        arg_end: field(49),
        env_start: field(50),
        env_end: field(51),
        auxv: fs::read(format!("/proc/{pid}/auxv")).unwrap(),
    }
}

/// With the flags that decide which neighbours the kernel keeps apart.
fn mappings(pid: HostPid, areas: &[Area]) -> Vec<Mapping> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let flags = smaps
        .lines()
        .filter_map(|line| line.strip_prefix("VmFlags:"));
    let mut mappings: Vec<Mapping> = areas.iter().map(mapping).collect();
    for (mapping, flags) in mappings.iter_mut().zip(flags) {
        mapping.flags.accounted = flags.split_whitespace().any(|flag| flag == "ac");
        mapping.flags.grows_down = flags.split_whitespace().any(|flag| flag == "gd");
    }
    mappings
}

fn mapping(area: &Area) -> Mapping {
    let backing = match area.name.as_slice() {
        b"[vdso]" => Backing::Vdso,
        b"[vvar]" => Backing::Vvar,
        b"[vvar_vclock]" => Backing::VvarClock,
        name if name.starts_with(b"/") && area.shared => {
            Backing::FileShared(behind(area), SharedAccess::ReadOnly)
        }
        name if name.starts_with(b"/") => Backing::FilePrivate(behind(area)),
        _ => Backing::Anonymous,
    };
    Mapping {
        start: area.start,
        end: area.end,
        protection: area.protection,
        backing,
        flags: MappingFlags::default(),
        guards: Vec::new(),
    }
}

fn behind(area: &Area) -> FileMapping {
    FileMapping {
        file: file(std::str::from_utf8(&area.name).unwrap()),
        offset: area.offset,
    }
}

fn file(path: &str) -> FilePath {
    let found = fs::metadata(path).unwrap();
    let size = if found.is_file() { found.size() } else { 0 };
    FilePath {
        path: path.as_bytes().to_vec(),
        mode: found.mode(),
        size,
    }
}

fn thread(stopped: &Stopped) -> Thread {
    let area = stopped.xstate().unwrap();
    let present = u64::from_le_bytes(area[512..520].try_into().unwrap());
    let components = xstate::components();
    let used = components
        .iter()
        .filter(|component| present & 1 << component.number != 0);
    let rseq = stopped.rseq().unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    Thread {
        tid: stopped.thread().raw(),
        comm: b"bash".to_vec(),
        registers: stopped.registers().unwrap(),
        xstate: XState {
            legacy: area[..512].to_vec(),
            present,
            components: used
                .map(|c| (c.number, area[c.offset..c.offset + c.size].to_vec()))
                .collect(),
        },
        sigmask: stopped.sigmask().unwrap(),
        pending: Vec::new(),
        altstack: AltStack {
            flags: 2,
            ..AltStack::default()
        },
        clear_child_tid: 0,
        robust_list: (0, 0),
        rseq: Some(Rseq {
            address: rseq.address,
            length: rseq.length,
            signature: rseq.signature,
        }),
        sleep: None,
        scheduling: Scheduling::default(),
        affinity: None,
        credentials: Credentials {
            capabilities: [0, set("CapPrm:"), set("CapEff:"), set("CapBnd:"), 0],
            ..Credentials::default()
        },
        parent_death_signal: 0,
        timer_slack_ns: 50_000,
        io_priority: 0,
        tsc_mode: 1,
    }
}

/// Addresses, protection and names, which must be the same again.
fn outline(areas: &[Area]) -> Vec<String> {
    let shown = areas.iter().filter(|area| area.name != b"[vsyscall]");
    shown
        .map(|area| format!("{:x}-{:x} {}", area.start, area.end, area.protection))
        .collect()
}

fn image_areas(image: &JobImage) -> Vec<Area> {
    let ProcessKind::Live(live) = &image.processes[0].kind else {
        panic!("it lives")
    };
    let area = |mapping: &Mapping| Area {
        start: mapping.start,
        end: mapping.end,
        protection: mapping.protection,
        shared: false,
        offset: 0,
        device: (0, 0),
        inode: 0,
        name: Vec::new(),
    };
    live.memory.mappings.iter().map(area).collect()
}
