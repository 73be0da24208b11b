//! Every workload, moved between nodes of a lab while it checks itself.
//!
//! Three generations each: A -> B -> C -> A, so that what a restore leaves behind is
//! captured again, and home takes its own job back.

mod affinity;
mod ipc;
mod locks;
mod users;
mod waits;

use anyhow::Result;
use mig_tests::job::Job;
use mig_tests::lab::Lab;
use mig_tests::pool::for_all;
use mig_tests::workload::Workload;

/// Jobs at the same time: most of them sleep most of the time.
const WORKERS: usize = 3;

/// Workloads that have a test of their own, because they cannot hold on every node of a lab.
const ELSEWHERE: &[&str] = &[affinity::WORKLOAD];

mig_tests::test_each_group!(tour);

/// Takes all workloads of a group on a tour, and reports all failures together.
fn tour(group: &str) {
    let lab = Lab::up(3);
    let mut all = Workload::all();
    all.retain(|workload| workload.name.starts_with(group) && !ELSEWHERE.contains(&workload.name));
    for_all(
        all,
        WORKERS,
        |workload| format!("{} ({})", workload.name, workload.proves),
        |workload| one(&lab, workload),
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
