//! Injection into programs that check themselves: results, and no trace left,
//! also when the tracer is killed in the middle of a batch.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Victim, until};
use libmig::{
    inspect::maps,
    sys::{
        HostPid,
        ptrace::{self, Options, PtraceError, SignalState, Stopped, Waited},
        remote::{Arg, Batch, Foothold, Injector, Outcome, RemoteError, Site},
    },
};

fn stop(pid: HostPid) -> Stopped {
    ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(pid).unwrap();
    let Waited::Stopped(mut stopped, _) = ptrace::wait(pid).unwrap() else {
        panic!("it died")
    };
    stopped.guard(SignalState::default()).unwrap();
    stopped
}

/// In the given call or, for `spin`, just running.
fn settled(victim: &Victim, how: &str) {
    if how != "spin" {
        until("it sleeps", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", victim.pid())).unwrap();
            stat.rsplit(')').next().unwrap().starts_with(" S")
        });
    }
}

const PROGRAMS: [&str; 7] = [
    "spin",
    "nanosleep",
    "poll",
    "ppoll",
    "clock_nanosleep-absolute",
    "epoll_wait",
    "sigtimedwait",
];

#[test]
fn a_batch_forwards_results_and_moves_data() {
    let victim = Victim::start("steady", &["spin"]);
    let mut stopped = stop(victim.pid());
    let site = maps::injection_site(victim.pid()).unwrap();
    assert!(matches!(site.foothold, Foothold::Padding(_)), "{site:?}");
    let before = maps::read(victim.pid()).unwrap();
    let injector = Injector::install(&mut stopped, &site).unwrap();

    let mut batch = Batch::new();
    let pid = batch.call(libc::SYS_getpid, &[]);
    let name = batch.string(b"name");
    let memfd = batch.call(libc::SYS_memfd_create, &[name.into(), 0.into()]);
    let text = batch.data(b"hello");
    batch.call(
        libc::SYS_pwrite64,
        &[memfd.into(), text.into(), 5.into(), 0.into()],
    );
    let back = batch.reserve(16);
    let read = batch.call(
        libc::SYS_pread64,
        &[memfd.into(), back.into(), 16.into(), 0.into()],
    );
    let vector = batch.reserve(16);
    batch.link(vector, text.at(1));
    let slot = batch.reserve(8);
    batch.store(memfd, slot);
    let failing = batch.attempt(libc::SYS_close, &[(-1).into()]);
    let closed = batch.call(libc::SYS_close, &[memfd.into()]);
    let stopper = batch.call(libc::SYS_close, &[memfd.into()]);
    let never = batch.call(libc::SYS_getpid, &[]);
    let results = injector.run(&mut stopped, &batch).unwrap();

    assert_eq!(
        results.value(pid).unwrap(),
        u64::try_from(victim.pid().raw()).unwrap()
    );
    assert_eq!(results.value(read).unwrap(), 5);
    assert_eq!(&results.data(back)[..6], b"hello\0");
    assert_eq!(u64::from(results.half(slot)), results.value(memfd).unwrap());
    assert_eq!(results.outcome(failing), Outcome::Failed(libc::EBADF));
    assert_eq!(results.outcome(closed), Outcome::Value(0));
    assert_eq!(results.outcome(stopper), Outcome::Failed(libc::EBADF));
    assert_eq!(results.outcome(never), Outcome::NotRun);
    assert!(results.complete().is_err());

    injector.remove(&mut stopped, site.foothold).unwrap();
    assert_eq!(maps::read(victim.pid()).unwrap(), before);
    stopped.release().unwrap();
    victim.assert_unharmed();
}

#[test]
fn a_batch_larger_than_the_data_area_is_run_in_pieces() {
    let victim = Victim::start("steady", &["spin"]);
    let mut stopped = stop(victim.pid());
    let site = maps::injection_site(victim.pid()).unwrap();
    let injector = Injector::install(&mut stopped, &site).unwrap();
    let mut batch = Batch::new();
    let pid = batch.call(libc::SYS_getpid, &[]);
    let groups: Vec<_> = (0..10_000)
        .map(|_| batch.call(libc::SYS_getpgid, &[pid.into()]))
        .collect();
    let results = injector.run(&mut stopped, &batch).unwrap();
    results.complete().unwrap();
    assert!(
        groups
            .iter()
            .all(|slot| results.value(*slot).unwrap() == u64::try_from(victim.pid().raw()).unwrap())
    );
    injector.remove(&mut stopped, site.foothold).unwrap();
    stopped.release().unwrap();
    victim.assert_unharmed();
}

#[test]
fn a_borrowed_system_call_instruction_serves_too() {
    for how in PROGRAMS {
        let victim = Victim::start("steady", &[how]);
        settled(&victim, how);
        let mut stopped = stop(victim.pid());
        let site = Site {
            foothold: syscall_in_vdso(victim.pid()),
            ..maps::injection_site(victim.pid()).unwrap()
        };
        inject_getpid(&mut stopped, &site);
        release_as_source(stopped);
        victim.assert_unharmed();
    }
}

#[test]
fn injection_does_not_disturb_what_was_interrupted() {
    for how in PROGRAMS {
        let victim = Victim::start("steady", &[how]);
        settled(&victim, how);
        let mut stopped = stop(victim.pid());
        let site = maps::injection_site(victim.pid()).unwrap();
        inject_getpid(&mut stopped, &site);
        thread::sleep(Duration::from_millis(50));
        release_as_source(stopped);
        victim.assert_unharmed();
    }
}

#[test]
fn dropping_a_guarded_thread_in_mid_batch_puts_it_back() {
    for how in PROGRAMS {
        let victim = Victim::start("steady", &[how]);
        settled(&victim, how);
        let mut stopped = stop(victim.pid());
        restart_if_leaked(&mut stopped);
        let mut foreign = stopped.registers().unwrap();
        foreign[libmig::sys::ptrace::reg::RIP] = 0x1000;
        foreign[libmig::sys::ptrace::reg::ORIG_RAX] = u64::MAX;
        stopped.set_sigmask(u64::MAX).unwrap();
        stopped.set_registers(&foreign).unwrap();
        drop(stopped);
        victim.assert_unharmed();
    }
}

#[test]
fn a_tracer_killed_in_mid_batch_leaves_the_program_as_it_was() {
    for how in PROGRAMS {
        let victim = Victim::start("steady", &[how]);
        settled(&victim, how);
        let mut tracer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "helper_runs_a_long_batch",
                "--ignored",
                "--nocapture",
            ])
            .env("MIG_TEST_VICTIM", victim.pid().to_string())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        // In the batch the victim sleeps in small steps, or works: wait until
        // it executes injected code.
        let hole = maps::injection_site(victim.pid()).unwrap().hole;
        until("it executes the batch", || {
            let Ok(text) = std::fs::read_to_string(format!("/proc/{}/syscall", victim.pid()))
            else {
                return false;
            };
            let rip = text
                .split_whitespace()
                .last()
                .and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
            text.starts_with("270 ") && rip.is_some_and(|rip| (hole..hole + 4096).contains(&rip))
        });
        tracer.kill().unwrap();
        tracer.wait().unwrap();
        victim.assert_unharmed();
    }
}

#[test]
fn a_batch_that_takes_too_long_is_given_up_and_the_program_finds_home() {
    for how in PROGRAMS {
        let victim = Victim::start("steady", &[how]);
        settled(&victim, how);
        let pid = victim.pid();
        // The tracing ends with its thread.
        let given_up = thread::spawn(move || {
            let mut stopped = stop(pid);
            restart_if_leaked(&mut stopped);
            let site = maps::injection_site(pid).unwrap();
            let injector = Injector::install(&mut stopped, &site).unwrap();
            ptrace::limit_waits(Duration::from_millis(50));
            let mut batch = Batch::new();
            rest(&mut batch, Duration::from_millis(200));
            injector.run(&mut stopped, &batch).unwrap_err()
        });
        let error = given_up.join().unwrap();
        assert!(
            matches!(&error, RemoteError::Ptrace(late @ PtraceError::Late { .. })
                if late.to_string().contains("system call 270")),
            "{how}: {error:?}"
        );
        victim.assert_unharmed();
    }
}

/// pselect leaves no restart block; a nanosleep would replace the program's own.
fn rest(batch: &mut Batch, time: Duration) {
    let mut timeout = time.as_secs().to_le_bytes().to_vec();
    timeout.extend(u64::from(time.subsec_nanos()).to_le_bytes());
    let timeout = batch.data(&timeout);
    let none = || Arg::from(0);
    batch.attempt(
        libc::SYS_pselect6,
        &[none(), none(), none(), none(), timeout.into(), none()],
    );
}

/// Not a test: the tracer that a test above kills.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn helper_runs_a_long_batch() {
    let Ok(victim) = std::env::var("MIG_TEST_VICTIM") else {
        return;
    };
    let pid = HostPid::new(victim.parse().unwrap());
    let mut stopped = stop(pid);
    restart_if_leaked(&mut stopped);
    let site = maps::injection_site(pid).unwrap();
    let injector = Injector::install(&mut stopped, &site).unwrap();
    let mut batch = Batch::new();
    for _ in 0..30 {
        rest(&mut batch, Duration::from_millis(10));
    }
    drop(injector.run(&mut stopped, &batch));
    panic!("nobody killed the tracer");
}

fn inject_getpid(stopped: &mut Stopped, site: &Site) {
    let injector = Injector::install(stopped, site).unwrap();
    let mut batch = Batch::new();
    for _ in 0..5 {
        batch.call(libc::SYS_getpid, &[]);
    }
    injector.run(stopped, &batch).unwrap().complete().unwrap();
    injector.remove(stopped, site.foothold).unwrap();
}

/// What capture does with a call that leaks EINTR at a stop.
fn restart_if_leaked(stopped: &mut Stopped) {
    use libmig::sys::ptrace::reg;
    let mut registers = stopped.registers().unwrap();
    if registers[reg::ORIG_RAX].cast_signed() >= 0 && registers[reg::RAX].cast_signed() == -4 {
        registers[reg::RAX] = (-514i64).cast_unsigned();
        stopped.amend_registers(&registers).unwrap();
    }
}

fn release_as_source(mut stopped: Stopped) {
    restart_if_leaked(&mut stopped);
    stopped.release().unwrap();
}

fn syscall_in_vdso(pid: HostPid) -> Foothold {
    let areas = maps::read(pid).unwrap();
    let vdso = areas.iter().find(|area| area.name == b"[vdso]").unwrap();
    let mut code = vec![0; usize::try_from(vdso.len()).unwrap()];
    libmig::sys::process_vm::read_exact(pid, vdso.start, &mut code).unwrap();
    let at = code
        .windows(2)
        .position(|pair| pair == [0x0f, 0x05])
        .unwrap();
    Foothold::Syscall(vdso.start + at as u64)
}
