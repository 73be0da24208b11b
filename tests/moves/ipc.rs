//! What a capsule keeps at home of the objects of a job that is away.

use mig_tests::job::Job;
use mig_tests::lab::in_a_lab;
use mig_tests::workload::Workload;

/// Lines of all tables of System V in the namespaces of the node's capsules.
const OBJECTS: &str = "for init in $(pgrep -x mig-init); do \
    nsenter -i -t $init cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg; done | grep -vc key || :";

/// The memory of a segment that nobody removed would be in use at both nodes.
#[test]
fn home_keeps_no_objects_of_a_job_that_is_away() {
    in_a_lab(|lab| {
        let workload = Workload::named("sysv-shm-detached");
        let job = Job::start(lab, "n1", "objects", &workload)?;
        job.running.wait_tick_after(0)?;
        assert_eq!(lab.node("n1").sh(OBJECTS).trim(), "3");
        job.tour(&["n2"], 1)?;
        assert_eq!(lab.node("n1").sh(OBJECTS).trim(), "0");
        job.tour(&["n1"], 1)?;
        assert_eq!(lab.node("n1").sh(OBJECTS).trim(), "3");
        job.finish()?.expect_pass()
    });
}
