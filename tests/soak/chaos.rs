//! Programs that never rest are moved while they do what they do: files and memory, threads, children, signals and
//! connections, all in transition. Every second move sends memory ahead.
//!
//! `MIG_SOAK` is the number of moves, as for the other job here.

use anyhow::Result;
use mig_tests::job::Job;
use mig_tests::lab::Lab;
use mig_tests::pool::for_all;
use mig_tests::workload::Workload;

/// As many as `MIG_SOAK` says, or as the suite has the time for.
const MOVES: usize = 8;

#[test]
fn what_never_rests_is_moved_at_any_moment() {
    let moves = super::moves().unwrap_or(MOVES);
    let lab = Lab::up(2);
    let all = ["chaos-memory", "chaos-all", "heap-big"].map(Workload::named);
    for_all(
        all.to_vec(),
        all.len(),
        |workload| workload.name.to_owned(),
        |workload| one(&lab, workload, moves),
    );
    lab.down_and_check();
}

/// Every third time it is waited for; the others find it where it is.
fn one(lab: &Lab, workload: &Workload, moves: usize) -> Result<()> {
    let job = Job::start(lab, "n1", workload.name, workload)?;
    for number in 0..moves {
        job.move_to(super::NODES[(number + 1) % 2])?;
        if number % 3 == 0 {
            job.running.wait_tick_after(job.running.ticks())?;
        }
    }
    job.finish()?.expect_pass()
}
