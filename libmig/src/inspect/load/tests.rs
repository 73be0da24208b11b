//! Sampling of this machine and of children of the test.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{job::from_ticks, *};

/// A child that ends with the test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        self.0
            .kill()
            .and_then(|()| self.0.wait())
            .expect("our own child");
    }
}

fn shell(script: &str) -> Reaped {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    Reaped(command.spawn().unwrap())
}

/// Waits until `happened`, for ten seconds at most.
fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !happened() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid(child: &Reaped) -> i32 {
    i32::try_from(child.0.id()).unwrap()
}

#[test]
fn busy_processes_are_counted_in_both_ways() {
    let busy: Vec<_> = (0..3).map(|_| shell("while :; do :; done")).collect();
    let mut sampler = NodeSampler::new().unwrap();
    assert!(sampler.cores() >= 1);
    wait_until("three runnable tasks", || {
        sampler.runnable().unwrap() >= 3.0
    });
    sampler.counts = Counts::Tasks;
    sampler.cpus = sched_getaffinity(getpid()).unwrap();
    wait_until("three tasks in R", || sampler.runnable().unwrap() >= 3.0);
    drop(busy);
}

#[test]
fn a_scan_beyond_its_budget_goes_on_where_it_stopped() {
    let mut sampler = NodeSampler::new().unwrap();
    let pids = numbers_in(Path::new("/proc")).unwrap().len();
    let mut stops = Vec::new();
    for _ in 0..pids + 20 {
        sampler.runnable_tasks(1).unwrap();
        stops.push(sampler.resume_after);
    }
    let wraps = stops.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(wraps >= 1, "never came round: {stops:?}");
    assert!(stops.contains(&getpid().as_raw()), "missed this process");
}

#[test]
fn a_busy_job_shows_its_cpu_time_memory_and_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let child = shell("while :; do :; done");
    fs::write(
        folder.path().join("cgroup.procs"),
        format!("0\n{}\n", pid(&child)),
    )
    .unwrap();
    let look = || JobUse::of_cgroup(folder.path()).unwrap();
    wait_until("0.2 s of CPU time", || {
        look().cpu >= Duration::from_millis(200)
    });
    let used = look();
    assert_eq!((used.processes, used.threads), (1, 1));
    assert!(used.memory > 100 << 10, "{used:?}");
    wait_until("a runnable task", || look().runnable == 1);
}

#[test]
fn dead_children_count_once_they_are_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let child = shell(&format!("sh -c '{burn}'; exec sleep 60"));
    fs::write(folder.path().join("cgroup.procs"), pid(&child).to_string()).unwrap();
    // The shell itself does nothing but wait.
    let used = || JobUse::of_cgroup(folder.path()).unwrap();
    wait_until("the child's time in its parent", || {
        used().cpu >= Duration::from_millis(20)
    });
}

#[test]
fn groups_below_count_and_missing_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("a/b");
    fs::create_dir_all(&below).unwrap();
    let child = shell("exec sleep 60");
    fs::write(folder.path().join("cgroup.procs"), "").unwrap();
    fs::write(folder.path().join("a/cgroup.procs"), "").unwrap();
    fs::write(below.join("cgroup.procs"), pid(&child).to_string()).unwrap();
    assert_eq!(JobUse::of_cgroup(folder.path()).unwrap().processes, 1);
    let gone = JobUse::of_cgroup(&folder.path().join("gone")).unwrap();
    assert_eq!(gone, JobUse::default());
}

#[test]
fn the_meter_averages_and_never_runs_backwards() {
    let mut meter = JobMeter::new();
    for step in 0..=40 {
        let now = Duration::from_millis(250 * step);
        let used = JobUse {
            cpu: now / 2,
            runnable: u32::from(step % 2 == 0),
            ..JobUse::default()
        };
        meter.sample(now, used);
    }
    assert!((meter.cores() - 0.5).abs() < 0.01, "{meter:?}");
    assert!((meter.runnable() - 0.5).abs() < 0.2, "{meter:?}");
    meter.sample(Duration::from_secs(11), JobUse::default());
    assert_eq!(meter.cpu(), Duration::from_secs(5));
}

#[test]
fn memory_and_ticks_are_in_sane_units() {
    let memory = NodeSampler::new().unwrap().memory().unwrap();
    assert!(memory.available <= memory.total && memory.total > 64 << 20);
    let second = procfs::ticks_per_second();
    assert_eq!(from_ticks(second * 3 / 2), Duration::from_millis(1500));
    assert!(from_ticks(u64::MAX) > Duration::from_secs(1 << 40));
}
