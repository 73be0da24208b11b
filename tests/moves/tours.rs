//! One test for each group of workloads, so that a failure names its kind.

use super::tour;

macro_rules! tours {
    ($($test:ident: $($prefix:literal)|+;)+) => {
        /// First words of the names of all groups.
        const GROUPS: &[&str] = &[$($($prefix),+),+];

        $(
            #[test]
            fn $test() {
                tour(|workload| [$($prefix),+].iter().any(|prefix| workload.name.starts_with(prefix)));
            }
        )+
    };
}

tours! {
    registers: "regs-";
    sleeping_calls: "sleep-";
    waiting_calls: "wait-";
    the_smallest: "spin";
    heaps: "heap-";
    areas: "areas-";
    shared_memory: "shared-";
    threads: "threads-";
    clocks: "clocks";
    identity: "identity-";
    signals: "signals-";
    timers: "timers-";
    trees: "tree-";
    files: "files-";
    locks: "locks-";
    pipes: "pipes-";
    events: "events-";
    terminals: "ptys-";
    stress: "stress-";
}

#[test]
fn every_workload_is_in_a_group() {
    for workload in mig_tests::workload::Workload::all() {
        let grouped = GROUPS
            .iter()
            .any(|prefix| workload.name.starts_with(prefix));
        assert!(grouped, "{} is moved by no test", workload.name);
    }
}
