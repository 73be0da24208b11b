//! What the workloads do must move: the preflight has nothing against any of them.

use anyhow::{Result, ensure};
use libmig::{
    inspect::{preflight::preflight_process, process},
    sys::HostPid,
};
use mig_tests::workload::{Running, Workload};

use super::{argv, for_all, names};

/// Only what is the job's own goes along: a /dev/shm with all of its names (sem_open maps a
/// file by one and gives it another), and segments of System V.
const NEED_A_CAPSULE: [&str; 2] = ["shm-semaphores", "sysv-shm"];

#[test]
fn have_nothing_that_cannot_move() {
    let needs = |name: &str| NEED_A_CAPSULE.iter().any(|start| name.starts_with(start));
    for_all(names(|workload| !needs(workload.name)), |name| {
        acceptable(name)
    });
}

/// All processes of a workload, in a state that it has checked itself.
fn acceptable(name: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let running = Running::spawn(&argv(&Workload::named(name), directory.path(), &[])?)?;
    running.wait_ready()?;
    running.wait_tick_after(0)?;
    let top = HostPid::new(i32::try_from(running.pid())?);
    let below = process::tree(top).into_iter().map(|(host, _)| host);
    for host in std::iter::once(top).chain(below) {
        let mut found = preflight_process(host, HostPid::own());
        // A vfork in progress, say: the workload is allowed to.
        found.retain(|obstacle| !obstacle.transient);
        ensure!(found.is_empty(), "{name}: {found:?}");
    }
    running.finish()?.expect_pass()
}
