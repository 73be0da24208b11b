//! A mask of CPUs, on nodes that have other CPUs.

use mig_tests::job::Job;
use mig_tests::lab::Lab;
use mig_tests::workload::Workload;

/// Binds itself to the last CPU of the machine.
pub(crate) const WORKLOAD: &str = "identity-affinity";

/// A lab pins its nodes to CPUs in turn. A mask that has all of a node's CPUs is none
/// there, and none when the job goes on: so these are nodes without the last CPU.
#[test]
fn a_mask_of_cpus_goes_along() {
    let lab = Lab::up(3);
    let nodes = lab.status().nodes;
    let last = nodes.iter().filter_map(|node| node.cpu).max();
    let others: Vec<&str> = nodes
        .iter()
        .filter(|node| node.cpu != last)
        .map(|node| node.name.as_str())
        .collect();
    let [home, away, ..] = others[..] else {
        println!("the machine has too few CPUs to pin nodes to different ones");
        return;
    };
    let workload = Workload::named(WORKLOAD);
    let job = Job::start(&lab, home, WORKLOAD, &workload).unwrap();
    job.tour(&[away, home, away], 2).unwrap();
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}
