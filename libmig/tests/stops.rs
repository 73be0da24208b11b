//! How often a thread is stopped and waited for while it is captured. A round trip costs 20 to
//! 80 us of the pause, for each thread or mapping that has one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;

use common::{Victim, until};
use libmig::{
    capture::{Tables, freeze},
    inspect::process,
    sys::HostPid,
};

/// What the first thread of a process is stopped for: the freeze, the injected pages, one batch
/// of questions, and the end of the pages.
const LEADER: u64 = 4;
/// Any other thread: the freeze and one batch.
const OTHERS: u64 = 2;
/// A trial that was disturbed is repeated: injected calls may wait for a lock of the kernel.
const TRIALS: usize = 5;

/// How often the threads of a process have gone to sleep, the first thread apart. While they
/// are captured they sleep in ptrace stops alone.
fn sleeps(process: HostPid) -> Vec<u64> {
    let threads = process::threads(process).unwrap();
    let switches = |thread: HostPid| process::status(thread).unwrap().voluntary_switches;
    threads.into_iter().map(switches).collect()
}

/// Stops of the first thread, and the most of any other, to capture a process.
fn stops(threads: usize, mappings: usize) -> (u64, u64) {
    let (threads, mappings) = (threads.to_string(), mappings.to_string());
    let victim = Victim::start_below_init("crowd", &[&threads, &mappings]);
    let program = process::children(victim.init()).unwrap()[0];
    let asleep = |thread: HostPid| process::stat(thread).unwrap().state == b'S';
    let all_asleep = || process::threads(program).unwrap().into_iter().all(asleep);
    let trial = || {
        until("all sleep", all_asleep);
        let before = sleeps(program);
        let mut frozen = freeze(victim.init()).unwrap();
        let captured = frozen.capture(|sources, _| {
            Ok::<_, Infallible>(Tables {
                descriptors: vec![Vec::new(); sources.len()],
                ..Tables::default()
            })
        });
        captured.unwrap();
        let after = sleeps(program);
        frozen.thaw();
        let mut each = before
            .iter()
            .zip(&after)
            .map(|(before, after)| after - before);
        (each.next().unwrap(), each.max().unwrap_or(0))
    };
    let trials: Vec<(u64, u64)> = (0..TRIALS).map(|_| trial()).collect();
    let leader = trials.iter().map(|trial| trial.0).min();
    let others = trials.iter().map(|trial| trial.1).min();
    (leader.unwrap(), others.unwrap())
}

#[test]
fn a_capture_makes_as_many_round_trips_for_a_thousand_mappings_as_for_one() {
    for (threads, mappings) in [(0, 1), (0, 1000), (1, 1), (50, 1), (50, 1000)] {
        let (leader, others) = stops(threads, mappings);
        let what = format!("{threads} threads, {mappings} mappings");
        assert!(
            leader <= LEADER,
            "{leader} stops of the first thread: {what}"
        );
        assert!(others <= OTHERS, "{others} stops of another thread: {what}");
    }
}
