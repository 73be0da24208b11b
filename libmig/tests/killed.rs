//! A daemon that is killed with SIGKILL, at any instruction of a capture, harms no program:
//! not even one whose seccomp filters end it for any call but its own.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    convert::Infallible,
    env, fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{Victim, until};
use libmig::{
    capture::{Tables, freeze},
    inspect::process,
    sys::{HostPid, signal, survivor},
};

/// Names the init of the tree that is captured, in a process that [`tracer`] started.
const TREE: &str = "MIG_TEST_TREE";
const ROUNDS: u64 = 300;

/// Captures over and over again, until it is killed.
fn capture_for_ever(init: HostPid) -> ! {
    survivor::run(|| {
        loop {
            let mut frozen = freeze(init).unwrap();
            let captured = frozen.capture(|sources, _| {
                Ok::<_, Infallible>(Tables {
                    descriptors: vec![Vec::new(); sources.len()],
                    ..Tables::default()
                })
            });
            captured.unwrap();
            frozen.thaw();
        }
    })
    .unwrap()
}

/// A process that captures the tree of `init`.
fn tracer(init: HostPid) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([
            "--nocapture",
            "--exact",
            "a_confined_program_survives_the_death_of_its_tracer_at_any_moment",
        ])
        .env(TREE, init.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether any thread of a process has a tracer.
fn is_traced(process: HostPid) -> bool {
    let threads = process::threads(process).unwrap();
    let traced = |thread| process::status(thread).is_ok_and(|status| status.tracer != 0);
    threads.into_iter().any(traced)
}

fn pages_of(process: HostPid) -> usize {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    maps.lines().count()
}

#[test]
fn a_confined_program_survives_the_death_of_its_tracer_at_any_moment() {
    if let Ok(init) = env::var(TREE) {
        capture_for_ever(HostPid::new(init.parse().unwrap()));
    }
    let victim = Victim::start_below_init("confined", &[]);
    let program = process::children(victim.init()).unwrap()[0];
    let confined = || process::status(program).unwrap().seccomp == 2;
    until("it is confined", confined);
    let mappings = pages_of(program);
    for round in 0..ROUNDS {
        let mut tracer = tracer(victim.init());
        until("it is traced", || is_traced(program));
        // Captures take some milliseconds each: spread over several of them.
        thread::sleep(Duration::from_micros(round * 7919 % 6000));
        let survivors = process::children(HostPid::new(tracer.id().cast_signed())).unwrap();
        tracer.kill().unwrap();
        tracer.wait().unwrap();
        // Not only "nobody traces it": a survivor may be about to begin once more.
        until("its survivor has ended", || {
            let lives = |&pid| process::stat(pid).is_ok_and(|stat| !stat.is_dead());
            !survivors.iter().any(lives)
        });
        assert!(!is_traced(program), "it is still traced in round {round}");
        let alive = process::stat(program).is_ok_and(|stat| !stat.is_dead());
        assert!(alive, "it has died in round {round}");
    }
    until("nothing of the captures is left in it", || {
        pages_of(program) == mappings
    });
    signal::send(program, libc::SIGUSR1).unwrap();
    victim.assert_unharmed();
}
