//! Waits that last longer than a move takes: several moves in each.

use std::time::{Duration, Instant};

use mig_tests::job::Job;
use mig_tests::lab::Lab;
use mig_tests::workload::Workload;

const ROUTE: [&str; 3] = ["n2", "n3", "n1"];

/// The program checks the time that each of its waits takes.
#[test]
fn a_wait_takes_its_time_however_often_it_is_moved() {
    let lab = Lab::up(3);
    let waits = Workload::all();
    let mut long = waits
        .iter()
        .filter(|wait| wait.name.starts_with("sleep-long"))
        .peekable();
    assert!(long.peek().is_some());
    for wait in long {
        let job = Job::start(&lab, "n1", wait.name, wait).unwrap();
        let began = Instant::now();
        let mut moves = 0;
        while job.running.ticks() == 0 && began.elapsed() < Duration::from_secs(20) {
            let moved = job.move_to(ROUTE[moves % 3]);
            moved.unwrap_or_else(|error| panic!("{}: {error:#}", wait.name));
            moves += 1;
        }
        assert!(moves >= 2, "{}: {moves} moves in a wait", wait.name);
        job.running.wait_tick_after(0).unwrap();
        job.finish().unwrap().expect_pass().unwrap();
    }
    lab.down_and_check();
}
