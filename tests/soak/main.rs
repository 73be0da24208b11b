//! One job moves again and again; none of the moves loses it, and none leaves anything behind.
//!
//! `MIG_SOAK` is the number of moves: 100 unless it is set, 1000 for the real thing.

mod census;
mod chaos;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use census::{Census, daemon_memory};
use mig_tests::job::{Job, MoveReport};
use mig_tests::lab::{Lab, eventually};
use mig_tests::workload::Workload;

/// Where the job goes, round and round.
const NODES: [&str; 2] = ["n1", "n2"];

/// Moves before the first count: pools and caches of the daemons fill once.
const WARM_UP: usize = 20;

/// What a daemon's memory may grow by, whatever the number of moves: allocators keep pages in odd places.
const GROWTH_KIB: usize = 8 << 10;

#[test]
fn a_job_moves_often_and_leaves_nothing_behind() {
    let moves = moves().unwrap_or(100);
    let lab = Lab::up(2);
    if let Err(error) = soak(&lab, moves) {
        panic!("{error:#}");
    }
    lab.down_and_check();
}

/// What `MIG_SOAK` says.
fn moves() -> Option<usize> {
    let count = std::env::var("MIG_SOAK").ok()?;
    Some(count.parse().expect("MIG_SOAK is a number of moves"))
}

fn soak(lab: &Lab, moves: usize) -> Result<()> {
    // The first job makes what all later ones share, for example the cgroup that theirs are in.
    let fresh = Census::of(lab, &NODES)?;
    let first = Job::start(lab, "n1", "first", &Workload::named("spin"))?;
    to_and_fro(&first, 2)?;
    first.finish()?.expect_pass()?;
    eventually("the first job is tidied up", || {
        Census::of(lab, &NODES).is_ok_and(|now| now.processes() <= fresh.processes())
    });
    let idle = Census::of(lab, &NODES)?;
    let job = Job::start(lab, "n1", "soak", &Workload::named("pipes-passed"))?;
    to_and_fro(&job, WARM_UP)?;
    let before = Census::of(lab, &NODES)?;
    let memory = memory(lab)?;
    let start = Instant::now();
    let reports = to_and_fro(&job, moves)?;
    println!(
        "{moves} moves in {:?}; {}",
        start.elapsed(),
        pauses(&reports)
    );
    settles(lab, &before, "while the job lives");
    for ((node, before), now) in NODES.iter().zip(memory).zip(self::memory(lab)?) {
        println!("memory of the daemon on {node}: {before} KiB, then {now} KiB");
        let limit = before + GROWTH_KIB;
        ensure!(
            now <= limit,
            "the daemon on {node} grew from {before} to {now} KiB"
        );
    }
    job.finish()?.expect_pass()?;
    settles(lab, &idle, "after the job");
    Ok(())
}

/// Moves it away and home again until it has moved `count` times; it must be at work at each stop.
fn to_and_fro(job: &Job<'_>, count: usize) -> Result<Vec<MoveReport>> {
    let mut reports = Vec::with_capacity(count);
    // An even number: the counts are taken with the job at home.
    for number in 0..count.next_multiple_of(2) {
        let node = NODES[(number + 1) % 2];
        let moved = job.tour(&[node], 1);
        reports.extend(moved.with_context(|| format!("move {number} of {count}"))?);
    }
    Ok(reports)
}

/// Waits until there is no more of anything than `before`: what a move leaves to be
/// tidied up goes a moment after it.
fn settles(lab: &Lab, before: &Census, when: &str) {
    let growth = || match Census::of(lab, &NODES) {
        Ok(now) => now.growth_since(before),
        Err(error) => vec![format!("{error:#}")],
    };
    let mut left = growth();
    eventually(&format!("nothing is left {when}"), || {
        let now = growth();
        if now != left {
            println!("{when}: {now:?}");
        }
        left = now;
        left.is_empty()
    });
}

fn memory(lab: &Lab) -> Result<Vec<usize>> {
    NODES.iter().map(|node| daemon_memory(lab, node)).collect()
}

fn pauses(reports: &[MoveReport]) -> String {
    let mut pauses: Vec<u64> = reports.iter().map(|report| report.pause_us).collect();
    pauses.sort_unstable();
    let (middle, worst) = (pauses.get(pauses.len() / 2), pauses.last());
    format!("pause {middle:?} us in the middle, {worst:?} us at worst")
}
