//! The workloads by kind, so that a test that fails names the kind of state it failed with.

/// Makes one test for each group of workloads: it calls the given function with the first words of their names.
#[macro_export]
macro_rules! test_each_group {
    ($run:path) => {
        $crate::test_each_group! {
            $run;
            registers: "regs-";
            sleeping_calls: "sleep-";
            waiting_calls: "wait-";
            the_smallest: "spin";
            heaps: "heap-";
            areas: "areas-";
            huge_pages: "hugepages-";
            placement: "place-";
            memfds: "memfds-";
            shared_memory: "shared-";
            shm: "shm-";
            system_v: "sysv-";
            threads: "threads-";
            clocks: "clocks";
            identity: "identity-";
            confined: "seccomp-";
            signals: "signals-";
            timers: "timers-";
            trees: "tree-";
            namespaces: "nested-";
            files: "files-";
            names: "names-";
            locks: "locks-";
            pipes: "pipes-";
            sockets: "sockets-";
            internet: "inet-";
            events: "events-";
            watches: "watches-";
            message_queues: "mqueues-";
            pidfds: "pidfds-";
            rings: "uring-";
            terminals: "ptys-";
            stress: "stress-";
            chaos: "chaos-";
        }
    };
    ($run:path; $($test:ident: $prefix:literal;)+) => {
        $(
            #[test]
            fn $test() {
                $run($prefix);
            }
        )+

        #[test]
        fn every_workload_is_in_a_group() {
            let groups = [$($prefix),+];
            for workload in $crate::workload::Workload::all() {
                let grouped = groups
                    .iter()
                    .any(|prefix| workload.name.starts_with(prefix));
                assert!(grouped, "{} is in no group", workload.name);
            }
        }
    };
}
