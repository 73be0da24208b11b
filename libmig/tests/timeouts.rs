//! System calls with relative timeouts of which the kernel keeps nothing at a
//! stop: however often they are frozen, they take as long as they were to take.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{convert::Infallible, thread, time::Duration};

use common::{Victim, until};
use libmig::{
    capture::{Tables, freeze},
    image::{JobImage, ProcessKind, Thread},
    inspect::process,
    sys::{HostPid, ptrace::reg},
};

const CALLS: [&str; 10] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "sigtimedwait",
    "ppoll_fixed",
    "pselect_fixed",
    "select_fixed",
    "semtimedop",
    "io_getevents",
    "io_pgetevents",
];

/// The program of a victim, asleep.
fn asleep(victim: &Victim) -> HostPid {
    let program = process::children(victim.init()).unwrap()[0];
    until("it sleeps", || {
        process::stat(program).unwrap().state == b'S'
    });
    program
}

fn tables(
    live: &[libmig::capture::LiveSource<'_>],
    _: &mut libmig::capture::SharedRegistry,
) -> Result<Tables, Infallible> {
    Ok(Tables {
        descriptors: vec![Vec::new(); live.len()],
        ..Tables::default()
    })
}

fn only_thread(image: &JobImage) -> &Thread {
    let ProcessKind::Live(live) = &image.processes[0].kind else {
        panic!("it lives")
    };
    &live.threads[0]
}

#[test]
fn a_freeze_that_is_given_up_does_not_lengthen_them() {
    for how in CALLS.into_iter().chain(["ppoll"]) {
        let victim = Victim::start_below_init("timeouts", &[how]);
        let mut freezes = 0;
        // On a busy machine its time is up before the fifth.
        while freezes < 5
            && let Ok(frozen) = freeze(victim.init())
        {
            thread::sleep(Duration::from_millis(50));
            frozen.thaw();
            thread::sleep(Duration::from_millis(50));
            freezes += 1;
        }
        assert!(freezes >= 2, "{how}");
        eprintln!("{how}");
        victim.assert_unharmed();
    }
}

#[test]
fn an_image_has_the_registers_of_the_call_and_the_time_that_is_left() {
    // Memory of asynchronous I/O cannot be captured.
    for how in CALLS.into_iter().filter(|how| !how.starts_with("io_")) {
        let victim = Victim::start_below_init("timeouts", &[how]);
        let mut last: Option<Thread> = None;
        for round in 0..4u64 {
            asleep(&victim);
            thread::sleep(Duration::from_millis(50));
            let mut frozen = freeze(victim.init()).unwrap();
            let captured = frozen.capture(tables).unwrap();
            frozen.thaw();
            let thread = only_thread(&captured.image).clone();
            let sleep = thread.sleep.unwrap();
            assert_eq!(sleep.number, thread.registers[reg::ORIG_RAX], "{how}");
            let left = Duration::from_nanos(sleep.remaining_ns).as_millis();
            let most = u128::from(700 - 50 * (round + 1) + 20);
            assert!(left > 50 && left <= most, "{how} {round}: {left} ms");
            if let Some(last) = &last {
                assert_eq!(last.registers, thread.registers, "{how}");
            }
            last = Some(thread);
        }
        victim.assert_unharmed();
    }
}

#[test]
fn a_handler_that_runs_meanwhile_interrupts_them() {
    for how in CALLS {
        let victim = Victim::start_below_init("timeouts", &[how, "handled"]);
        let program = asleep(&victim);
        freeze(victim.init()).unwrap().thaw();
        asleep(&victim);
        nix::sys::signal::kill(program.into(), nix::sys::signal::Signal::SIGUSR1).unwrap();
        until("the handler runs", || {
            process::stat(program).unwrap().state == b'R'
        });
        // Its way back is in the signal frame.
        freeze(victim.init()).unwrap().thaw();
        eprintln!("{how}");
        victim.assert_unharmed();
    }
}
