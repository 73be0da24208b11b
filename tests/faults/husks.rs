//! A husk that does not do what it is told: the move ends, and the job stays.

use mig_tests::job::Job;
use mig_tests::lab::{Lab, eventually};
use mig_tests::workload::Workload;

use super::{one_copy, point::Point};

/// Freezes all that is in the cgroups of jobs.
const FREEZE: &str = "for root in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do
    for group in $root/mig/*/job; do echo 1 >$group/cgroup.freeze; done; done";

#[test]
fn a_husk_that_never_stops_ends_the_move_and_not_the_job() {
    let lab = Lab::up(2);
    let job = Job::start(&lab, "n1", "stuck", &Workload::named("spin-pages")).unwrap();
    job.running.wait_tick_after(0).unwrap();
    let reserved = Point::named("destination.reserved");
    drop(lab.node("n2").sh(&reserved.armed("stall 600")));
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| job.try_move("n2"));
        reserved.wait_hit(&lab).unwrap();
        // A frozen husk that is told to go on neither runs nor stops.
        drop(lab.node("n2").sh(FREEZE));
        let moved = moving.join().unwrap();
        let says = String::from_utf8_lossy(&moved.stderr).into_owned();
        assert_eq!(moved.status.code(), Some(1), "{says}");
        assert!(says.contains("has not stopped within"), "{says}");
        assert!(says.contains("the other node refused"), "{says}");
    });
    let seen = job.running.ticks();
    job.running.wait_tick_after(seen + 1).unwrap();
    one_copy(&lab, "stuck", 1).unwrap();
    assert_eq!(job.node().unwrap(), "n1");
    eventually("it can move", || job.move_to("n2").is_ok());
    job.tour(&["n1"], 2).unwrap();
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}
