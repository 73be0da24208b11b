//! Every workload, moved between nodes of a lab while it checks itself.
//!
//! Three generations each: A -> B -> C -> A, so that what a restore leaves behind is
//! captured again, and home takes its own job back.

mod affinity;
mod locks;
mod users;
mod waits;

use std::collections::VecDeque;
use std::sync::Mutex;

use anyhow::Result;
use mig_tests::job::Job;
use mig_tests::lab::Lab;
use mig_tests::workload::Workload;

/// Jobs at the same time: most of them sleep most of the time.
const WORKERS: usize = 3;

/// Workloads that have a test of their own, because they cannot hold on every node of a lab.
const ELSEWHERE: &[&str] = &[affinity::WORKLOAD];

mig_tests::test_each_group!(tour);

/// Takes all workloads of a group on a tour, and reports all failures together.
fn tour(group: &str) {
    let lab = Lab::up(3);
    let queue: VecDeque<Workload> = Workload::all()
        .into_iter()
        .filter(|workload| workload.name.starts_with(group) && !ELSEWHERE.contains(&workload.name))
        .collect();
    assert!(!queue.is_empty(), "no workload is left to test");
    let queue = Mutex::new(queue);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(workload) = queue.lock().expect("no worker panics").pop_front() else {
                        break;
                    };
                    if let Err(error) = one(&lab, &workload) {
                        let failure = format!("{} ({}): {error:#}", workload.name, workload.proves);
                        failures.lock().expect("no worker panics").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no worker panics");
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    lab.down_and_check();
}

fn one(lab: &Lab, workload: &Workload) -> Result<()> {
    let job = Job::start(lab, "n1", workload.name, workload)?;
    let slow = workload.tick_ms > 1000;
    job.running.wait_tick_after(0)?;
    job.tour(&["n2", "n3", "n1"], if slow { 1 } else { 2 })?;
    job.finish()?.expect_pass()
}
