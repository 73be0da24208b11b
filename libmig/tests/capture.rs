//! Live trees, frozen and captured: the image says what is so, and the tree
//! that is thawed has noticed nothing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use common::{Victim, until};
use libmig::{
    capture::{
        BulkSink, Captured, Frozen, Tables,
        files::{self, CapsuleStdio, FileSource, StdioEnd},
        freeze,
    },
    image::{
        Backing, BulkTarget, LiveProcess, Mapping, Process, ProcessKind, SharedAccess, SharedKind,
        Stdio,
    },
    inspect::process,
    sys::{
        HostPid,
        cgroup::JobGroup,
        ptrace::reg,
        sched::{self, Shared},
    },
};

/// Keeps every page.
#[derive(Default)]
struct Pages(BTreeMap<(i32, u64), Vec<u8>>, BTreeMap<(u32, u64), Vec<u8>>);

impl BulkSink for Pages {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len().is_multiple_of(4096) && bytes.len() <= 1 << 20);
        for (index, page) in bytes.chunks(4096).enumerate() {
            let at = u64::try_from(index * 4096).unwrap();
            let known = match target {
                BulkTarget::Memory { pid, address } => {
                    self.0.insert((pid, address + at), page.to_vec())
                }
                BulkTarget::Shared { object, offset } => {
                    self.1.insert((object, offset + at), page.to_vec())
                }
                BulkTarget::File { .. } => panic!("no files here"),
            };
            assert_eq!(known, None, "a page was sent twice");
        }
        Ok(())
    }
}

fn capture(frozen: &mut Frozen) -> Captured {
    frozen
        .capture(|sources, _| {
            Ok::<_, Infallible>(Tables {
                descriptors: vec![Vec::new(); sources.len()],
                ..Tables::default()
            })
        })
        .unwrap()
}

fn live(process: &Process) -> &LiveProcess {
    match &process.kind {
        ProcessKind::Live(live) => live,
        ProcessKind::Zombie { .. } => panic!("a zombie"),
    }
}

fn settled(init: HostPid, how: &str) {
    if how != "spin" {
        until("it sleeps", || {
            process::children(init)
                .unwrap()
                .iter()
                .all(|child| process::stat(*child).unwrap().state == b'S')
        });
    }
}

#[test]
fn a_captured_program_notices_nothing() {
    for how in [
        "spin",
        "nanosleep",
        "poll",
        "ppoll",
        "clock_nanosleep-absolute",
        "epoll_wait",
        "sigtimedwait",
    ] {
        let before = Instant::now();
        let victim = Victim::start_below_init("steady", &[how]);
        settled(victim.init(), how);
        let asleep = Instant::now();
        thread::sleep(Duration::from_millis(100));
        let at_least = asleep.elapsed();
        let mut frozen = freeze(victim.init()).unwrap();
        let at_most = before.elapsed();
        let captured = capture(&mut frozen);
        let mut pages = Pages::default();
        frozen.send_memory(&captured, None, &mut pages).unwrap();
        frozen.thaw();
        victim.assert_unharmed();

        assert_eq!(captured.image.processes.len(), 1);
        let process = live(&captured.image.processes[0]);
        let registers = process.threads[0].registers;
        assert!(!pages.0.is_empty());
        match how {
            "spin" => assert_eq!(process.threads[0].sleep, None),
            "nanosleep" | "poll" | "epoll_wait" | "sigtimedwait" => {
                let sleep = process.threads[0].sleep.unwrap();
                assert_eq!(registers[reg::RAX].cast_signed(), -514);
                assert_eq!(sleep.number, registers[reg::ORIG_RAX]);
                let elapsed = Duration::from_millis(700) - Duration::from_nanos(sleep.remaining_ns);
                let slack = Duration::from_millis(5);
                assert!(
                    elapsed + slack >= at_least && elapsed <= at_most + slack,
                    "{how}: {elapsed:?}, not {at_least:?} to {at_most:?}"
                );
            }
            _ => {
                assert_eq!(registers[reg::RAX].cast_signed(), -514, "{how}");
                assert_eq!(process.threads[0].sleep, None);
            }
        }
        // SIGTRAP, SIGUSR2 and SIGURG.
        assert_eq!(process.threads[0].sigmask, 1 << 4 | 1 << 11 | 1 << 22);
        assert_eq!(process.actions[4].handler, 1);
    }
}

/// What a handler interrupts fails with EINTR, as it would have without us.
#[test]
fn a_signal_during_the_freeze_is_delivered_as_ever() {
    for how in ["pause-handled", "epoll-handled"] {
        let victim = Victim::start_below_init("steady", &[how]);
        settled(victim.init(), how);
        let program = process::children(victim.init()).unwrap()[0];
        let mut frozen = freeze(victim.init()).unwrap();
        nix::sys::signal::kill(program.into(), nix::sys::signal::Signal::SIGUSR1).unwrap();
        let captured = capture(&mut frozen);
        frozen.thaw();
        victim.assert_unharmed();
        assert_eq!(
            live(&captured.image.processes[0]).pending[0].0[0],
            10,
            "{how}"
        );
    }
}

/// Most of the time a parent waits in vfork, where it cannot stop.
#[test]
fn a_program_that_spawns_all_the_time_is_frozen_at_once() {
    let victim = Victim::start_below_init("spawner", &[]);
    for _ in 0..60 {
        let frozen = freeze(victim.init()).unwrap();
        let all: Vec<HostPid> = frozen.processes().collect();
        assert!(!all.is_empty());
        let sharing = |child: &HostPid| sched::share(all[0], *child, Shared::Memory).unwrap();
        assert!(!all[1..].iter().any(sharing), "a child before its exec");
        frozen.thaw();
        thread::sleep(Duration::from_millis(3));
    }
    victim.assert_unharmed();
}

/// It lasts, so nobody tries again.
#[test]
fn processes_that_share_something_are_refused_for_good() {
    for (flags, what) in [
        ("0", None),
        ("100", Some("its address space")),
        ("200", Some("its current directory and umask")),
        ("400", Some("its descriptor table")),
        // Handlers come with memory only.
        ("900", Some("its signal handlers")),
    ] {
        let victim = Victim::start_below_init("sharer", &[flags]);
        let frozen = freeze(victim.init());
        let Some(what) = what else {
            assert_eq!(frozen.unwrap().processes().count(), 3);
            continue;
        };
        let error = frozen.expect_err(what);
        let ids = process::tree(victim.init());
        let reason = format!("it shares {what} with process {}", ids[1].1);
        let told = error.obstacles();
        assert!(
            told.iter().any(|found| found.reason == reason),
            "{reason}: {told:?}"
        );
        assert!(told.iter().all(|found| !found.transient), "{told:?}");
    }
}

#[test]
fn whose_system_calls_are_handed_over_is_refused_and_unharmed() {
    let victim = Victim::start_below_init("dispatched", &[]);
    let error = freeze(victim.init()).expect_err("its calls are handed over");
    let told = error.obstacles();
    assert!(told[0].reason.contains("PR_SET_SYSCALL_USER_DISPATCH"));
    victim.assert_unharmed();
}

#[test]
fn a_terminal_opened_with_o_cloexec_has_duplicates_that_exec_keeps() {
    let mut victim = Victim::start_below_init("peers", &[]);
    let [closed, kept] = [(); 2].map(|()| victim.line().parse::<i32>().unwrap());
    let mut frozen = freeze(victim.init()).unwrap();
    let host = frozen.processes().next().unwrap();
    let captured = frozen.capture(|sources, shared| {
        let sources: Vec<FileSource<'_>> = sources.iter().map(FileSource::from).collect();
        let stdio = CapsuleStdio {
            streams: vec![stream(host)],
            ..CapsuleStdio::default()
        };
        files::capture(&sources, &stdio, shared, &mut files::NoHold).map(|tables| tables.split().0)
    });
    let image = captured.unwrap().image;
    let by_exec = |number| {
        let mut all = live(&image.processes[0]).descriptors.iter();
        all.find(|one| one.number == number).unwrap().close_on_exec
    };
    assert!(by_exec(closed), "its own");
    assert!(!by_exec(kept), "the duplicate");
    assert!(
        image
            .files
            .iter()
            .all(|file| file.flags & libc::O_CLOEXEC == 0)
    );
    frozen.thaw();
    nix::sys::signal::kill(host.into(), nix::sys::signal::Signal::SIGUSR1).unwrap();
    victim.assert_unharmed();
}

/// The pipe that a victim writes to.
fn stream(victim: HostPid) -> StdioEnd {
    let pipe = fs::metadata(format!("/proc/{victim}/fd/1")).unwrap();
    StdioEnd {
        device: pipe.dev(),
        inode: pipe.ino(),
        stream: Stdio::Out,
    }
}

/// `state.c`, with what it says of itself.
fn state() -> (Victim, BTreeMap<String, u64>) {
    let mut victim = Victim::start_below_init("state", &[]);
    let mut facts = BTreeMap::new();
    loop {
        let line = victim.line();
        if line == "end" {
            return (victim, facts);
        }
        let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        facts.insert(key.to_owned(), value.parse().unwrap());
    }
}

struct Tree {
    captured: Captured,
    pages: Pages,
    facts: BTreeMap<String, u64>,
    /// In the capsule.
    main: i32,
    host: HostPid,
}

impl Tree {
    fn process(&self, pid: i32) -> &Process {
        self.captured
            .image
            .processes
            .iter()
            .find(|process| process.pid == pid)
            .unwrap()
    }

    fn named(&self, key: &str) -> &Process {
        self.process(i32::try_from(self.facts[key]).unwrap())
    }

    fn main(&self) -> &LiveProcess {
        live(self.process(self.main))
    }

    fn mapping(&self, key: &str) -> &Mapping {
        let address = self.facts[key];
        self.main()
            .memory
            .mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
            .unwrap()
    }

    /// Text in page `page` of a mapping, if that page was sent.
    fn text(&self, key: &str, page: u64) -> Option<String> {
        self.pages
            .0
            .get(&(self.main, self.facts[key] + page * 4096))
            .map(|page| text(page))
    }
}

fn text(page: &[u8]) -> String {
    String::from_utf8(page.iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
}

/// Until the main thread is in sigsuspend(2), and the one that waits in futex(2).
fn pauses(host: HostPid) {
    let waits = |thread: &HostPid| {
        let call = process::small_file(*thread, "syscall").unwrap();
        process::comm(*thread).unwrap() == b"state-waits" && call.starts_with("202 ")
    };
    until("a thread waits", || {
        process::threads(host).unwrap().iter().any(waits)
    });
    until("the main thread waits", || {
        process::small_file(host, "syscall")
            .unwrap()
            .starts_with("130 ")
    });
}

fn capture_state() -> (Victim, Tree) {
    let (victim, facts) = state();
    let host = process::children(victim.init()).unwrap()[0];
    let main = process::status(host).unwrap().own_id().unwrap();
    pauses(host);
    let mut frozen = freeze(victim.init()).unwrap();
    let captured = capture(&mut frozen);
    let mut pages = Pages::default();
    frozen.send_memory(&captured, None, &mut pages).unwrap();
    frozen.thaw();
    (
        victim,
        Tree {
            captured,
            pages,
            facts,
            main,
            host,
        },
    )
}

fn finish(victim: Victim, tree: &Tree) {
    nix::sys::signal::kill(tree.host.into(), nix::sys::signal::Signal::SIGUSR1).unwrap();
    victim.assert_unharmed();
}

#[test]
fn a_tree_is_captured_with_all_its_relations() {
    let (victim, tree) = capture_state();
    let main = tree.process(tree.main);
    assert_eq!(tree.captured.image.processes.len(), 6);
    assert_eq!(
        (main.ppid, tree.captured.image.processes[0].pid),
        (1, tree.main)
    );
    let zombie = |key| match &tree.named(key).kind {
        ProcessKind::Zombie { status, .. } => *status,
        ProcessKind::Live(_) => panic!("{key} lives"),
    };
    assert_eq!(
        (zombie("zombie"), zombie("killed")),
        (207 << 8, libc::SIGKILL)
    );
    assert_eq!(live(tree.named("stopped")).stopped, Some(libc::SIGSTOP));
    assert_eq!(tree.main().stopped, None);
    let (leader, grandchild) = (tree.named("leader"), tree.named("grandchild"));
    assert_eq!((leader.sid, leader.pgid), (leader.pid, leader.pid));
    assert_eq!(
        (grandchild.ppid, grandchild.sid, grandchild.pgid),
        (leader.pid, leader.pid, grandchild.pid)
    );
    finish(victim, &tree);
}

#[test]
fn the_state_of_a_process_is_captured() {
    let (victim, tree) = capture_state();
    let process = tree.main();
    let leader = &process.threads[0];
    assert_eq!(
        (
            process.fs.umask,
            process.fs.cwd.path.as_slice(),
            process.fs.root.path.as_slice()
        ),
        (0o027, &b"/tmp"[..], &b"/"[..])
    );
    assert_eq!(
        (
            leader.comm.as_slice(),
            leader.scheduling.nice,
            leader.timer_slack_ns
        ),
        (&b"a) (state"[..], 3, 70_000)
    );
    assert_eq!(leader.parent_death_signal, libc::SIGUSR2);
    let usr1 = process.actions[9];
    assert!(usr1.handler > 1 && usr1.restorer > 0 && usr1.mask == 1);
    assert_eq!(usr1.flags & 0x1000_0004, 0x1000_0004);
    assert_eq!(process.actions[12].handler, 1);
    assert_eq!(leader.sigmask, 1 << 9 | 1 << 11 | 1 << 34);
    assert_eq!(leader.pending.len(), 1);
    let values: Vec<u8> = process.pending.iter().map(|info| info.0[24]).collect();
    assert_eq!(values, [77, 78]);
    assert_eq!(
        (leader.altstack.address, leader.altstack.size),
        (tree.facts["altstack"], 65536)
    );
    let real = process.itimers[0];
    assert!(
        real.interval_us == 5_000_000 && (900_000_000..=1_000_000_000).contains(&real.value_us)
    );
    assert_eq!(process.itimers[1].value_us, 0);
    let [one, two] = process.timers.as_slice() else {
        panic!("{:?}", process.timers)
    };
    assert_eq!(
        (one.clock, one.notify, one.signal, one.value, one.tid),
        (1, 4, 35, 0x1234, tree.main)
    );
    assert!(
        one.interval_ns == 7_000_000_005
            && (1_900_000_000_000..=2_000_000_000_000).contains(&one.remaining_ns)
    );
    assert_eq!(
        (two.clock, two.notify, two.remaining_ns),
        (0, libc::SIGEV_NONE, 0)
    );
    assert_eq!(process.limits.len(), 16);
    assert_eq!(process.threads.len(), 3);
    assert!(
        process
            .threads
            .iter()
            .any(|thread| thread.comm == b"state-waits")
    );
    for thread in &process.threads {
        assert!(
            thread.clear_child_tid > 0 && thread.robust_list.1 == 24,
            "{thread:?}"
        );
        assert!(thread.xstate.legacy.len() == 512 && thread.credentials.uids == [0; 4]);
        assert_eq!(thread.affinity, None);
    }
    let clocks = tree.captured.image.capsule.clocks;
    assert!(
        clocks.realtime_ns > 1_600_000_000_000_000_000 && clocks.boottime_ns >= clocks.monotonic_ns
    );
    finish(victim, &tree);
}

#[test]
fn memory_of_every_kind_is_captured() {
    let (victim, tree) = capture_state();
    let own = |key, page: u64| tree.text(key, page);
    assert_eq!(
        (own("plain", 0), own("plain", 1)),
        (None, Some("plain".into()))
    );
    assert_eq!(
        (own("none", 0), own("none", 1)),
        (None, Some("none".into()))
    );
    assert_eq!(tree.mapping("none").protection, 0);
    // Of a private view only what was written.
    assert_eq!(
        (own("copied", 0), own("copied", 1)),
        (None, Some("copied".into()))
    );
    assert!(
        matches!(&tree.mapping("copied").backing, Backing::FilePrivate(file) if file.file.size == 4 * 4096)
    );
    assert!(tree.mapping("copied").flags.accounted && tree.mapping("copied").protection == 1);
    assert!(matches!(
        &tree.mapping("through").backing,
        Backing::FileShared(_, SharedAccess::ReadWrite)
    ));
    assert_eq!(own("through", 2), None);

    let object = |key| match tree.mapping(key).backing {
        Backing::Shared {
            object,
            private: false,
            ..
        } => object,
        ref other => panic!("{key}: {other:?}"),
    };
    assert_eq!(object("memfd"), object("memfd-again"));
    assert_ne!(object("memfd"), object("common"));
    let memfd = &tree.captured.image.shared[object("memfd") as usize];
    assert_eq!(memfd.size, 3 * 4096);
    assert!(matches!(&memfd.kind, SharedKind::Memfd { name, seals: 4, .. } if name == b"a memfd"));
    let shared = |key, page: u64| {
        tree.pages
            .1
            .get(&(object(key), page * 4096))
            .map(|page| text(page))
    };
    assert_eq!(
        (shared("common", 0), shared("common", 1)),
        (None, Some("common".into()))
    );
    assert_eq!(shared("memfd", 1), Some("memfd".into()));

    if tree.facts["guards"] == 1 {
        let at = tree.facts["guarded"];
        assert_eq!(
            tree.mapping("guarded").guards,
            [(at + 2 * 4096, at + 3 * 4096)]
        );
    }
    assert_eq!(
        (own("guarded", 1), own("guarded", 2)),
        (Some("guarded".into()), None)
    );
    let advised = tree.mapping("advised").flags;
    assert!(advised.dont_fork && advised.dont_dump && advised.wipe_on_fork && advised.no_reserve);
    let memory = &tree.main().memory;
    assert_eq!(memory.layout.brk, tree.facts["brk"]);
    assert!(
        memory
            .vdso
            .as_ref()
            .is_some_and(|vdso| vdso.build_id.len() == 20)
    );
    assert!(
        memory.exe.file.path.ends_with(
            tree.main()
                .memory
                .exe
                .file
                .path
                .rsplit(|b| *b == b'/')
                .next()
                .unwrap()
        )
    );
    assert!(
        memory
            .mappings
            .iter()
            .any(|mapping| mapping.flags.grows_down)
    );
    assert!(memory.mappings.is_sorted_by_key(|mapping| mapping.start));
    finish(victim, &tree);
}

/// The oracle of every later test: what is captured twice is the same twice.
#[test]
fn a_second_capture_finds_the_same() {
    let (victim, facts) = state();
    let mut images = Vec::new();
    for _ in 0..3 {
        // On its way back into a call a thread has other registers than in it.
        pauses(process::children(victim.init()).unwrap()[0]);
        let mut frozen = freeze(victim.init()).unwrap();
        let mut image = capture(&mut frozen).image;
        frozen.thaw();
        image.capsule.clocks = libmig::image::Clocks::default();
        for process in &mut image.processes {
            if let ProcessKind::Live(live) = &mut process.kind {
                live.itimers[0].value_us = 0;
                live.timers
                    .iter_mut()
                    .for_each(|timer| timer.remaining_ns = 0);
                // One thread runs.
                let spinner = live.threads.len() == 3;
                live.threads.truncate(if spinner { 2 } else { 1 });
            }
        }
        images.push(image);
    }
    for again in &images[1..] {
        for (first, second) in images[0].processes.iter().zip(&again.processes) {
            same(first, second);
        }
        assert!(images[0] == *again);
    }
    assert_eq!(
        facts["brk"],
        live(&images[0].processes[0]).memory.layout.brk
    );
    let host = process::children(victim.init()).unwrap()[0];
    nix::sys::signal::kill(host.into(), nix::sys::signal::Signal::SIGUSR1).unwrap();
    victim.assert_unharmed();
}

/// Compares field by field, so that a difference can be read.
fn same(first: &Process, second: &Process) {
    let (ProcessKind::Live(first), ProcessKind::Live(second)) = (&first.kind, &second.kind) else {
        assert_eq!(first, second);
        return;
    };
    assert_eq!(first.memory.layout, second.memory.layout);
    for (one, other) in first.memory.mappings.iter().zip(&second.memory.mappings) {
        assert_eq!(one, other);
    }
    for (one, other) in first.threads.iter().zip(&second.threads) {
        assert_eq!(one.registers, other.registers);
        assert_eq!(one.xstate.present, other.xstate.present);
        assert!(one == other, "thread {}", one.tid);
    }
    assert_eq!(first.actions, second.actions);
    assert!(first.memory == second.memory && first.pending == second.pending);
}

/// A sleep that was stopped is restart_syscall(2) from then on: the second
/// capture must know what it is and how much is left all the same.
#[test]
fn a_sleep_is_known_however_often_it_is_captured() {
    for how in ["nanosleep", "poll"] {
        let before = Instant::now();
        let victim = Victim::start_below_init("steady", &[how]);
        settled(victim.init(), how);
        let mut last = None;
        for _ in 0..4 {
            let asleep = Instant::now();
            thread::sleep(Duration::from_millis(50));
            settled(victim.init(), how);
            let mut frozen = freeze(victim.init()).unwrap();
            let (at_least, at_most) = (asleep.elapsed(), before.elapsed());
            let captured = capture(&mut frozen);
            frozen.thaw();
            let thread = live(&captured.image.processes[0]).threads[0].clone();
            let sleep = thread.sleep.unwrap();
            assert_eq!(sleep.number, thread.registers[reg::ORIG_RAX], "{how}");
            assert_ne!(sleep.number, libc::SYS_restart_syscall.cast_unsigned());
            let left = Duration::from_nanos(sleep.remaining_ns);
            let slack = Duration::from_millis(5);
            assert!(
                left + at_most + slack >= Duration::from_millis(700),
                "{how}: {left:?}"
            );
            if let Some(last) = last {
                assert!(
                    left + at_least <= last + slack,
                    "{how}: {left:?} after {last:?}"
                );
            }
            last = Some(left);
        }
        victim.assert_unharmed();
    }
}

/// A cgroup of the v2 hierarchy, of this test alone.
struct Group(JobGroup);

impl Group {
    fn around(program: HostPid) -> Self {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = roots
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists())
            .unwrap();
        let path = root.join(format!("mig-hold-{}-{program}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.procs"), program.to_string()).unwrap();
        Self(JobGroup::new(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.0.thaw());
        until("the cgroup is empty", || {
            fs::remove_dir(self.0.path()).is_ok() || !self.0.path().exists()
        });
    }
}

#[test]
fn a_held_tree_stays_where_it_is_without_a_tracer() {
    for how in ["spin", "nanosleep", "poll", "clock_nanosleep-absolute"] {
        let victim = Victim::start_below_init("steady", &[how]);
        let program = process::children(victim.init()).unwrap()[0];
        let group = Group::around(program);
        settled(victim.init(), how);
        let mut frozen = freeze(victim.init()).unwrap();
        capture(&mut frozen);
        frozen.hold(&group.0).unwrap();
        frozen.release_tracing().unwrap();
        assert_eq!(process::status(program).unwrap().tracer, 0);
        // Detached, it goes from one stop in the kernel to another.
        until("it is at rest", || {
            process::stat(program).unwrap().state == b'S'
        });
        let ran = process::last_ran_ns(program);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(
            process::last_ran_ns(program),
            ran,
            "{how} ran while it was held"
        );
        group.0.thaw().unwrap();
        victim.assert_unharmed();
    }
}

#[test]
fn a_process_that_has_left_the_cgroup_is_not_held_without_a_word() {
    let first = Victim::start_below_init("steady", &["spin"]);
    let group = Group::around(process::children(first.init()).unwrap()[0]);
    let second = Victim::start_below_init("steady", &["spin"]);
    let frozen = freeze(second.init()).unwrap();
    let error = frozen.hold(&group.0).unwrap_err();
    assert!(
        error.obstacles()[0]
            .reason
            .contains("not in the control group"),
        "{error}"
    );
    frozen.thaw();
    second.assert_unharmed();
    first.assert_unharmed();
}

/// Its parent must be able to wait for it.
#[test]
fn a_tree_that_is_killed_while_frozen_leaves_no_zombie() {
    let (mut victim, _) = state();
    let program = process::children(victim.init()).unwrap()[0];
    let frozen = freeze(victim.init()).unwrap();
    nix::sys::signal::kill(program.into(), nix::sys::signal::Signal::SIGKILL).unwrap();
    frozen.thaw();
    // The init ends with its program.
    assert!(!victim.status().success());
}
