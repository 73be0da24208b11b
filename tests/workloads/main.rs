//! The workloads themselves, unmoved: each must pass alone and under stops that change nothing, and fail when its state is damaged.
//! A workload that cannot fail would prove nothing about a move.

mod disturb;
mod preflight;
mod programs;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use mig_tests::pool;
use mig_tests::workload::{Running, Workload, build};

/// Programs run at once: most of them sleep most of the time.
const WORKERS: usize = 4;

/// Runs `work` for every item, a few at a time, and reports all failures together.
fn for_all<T: Send + std::fmt::Debug>(items: Vec<T>, work: impl Fn(&T) -> Result<()> + Sync) {
    pool::for_all(items, WORKERS, |item| format!("{item:?}"), work);
}

fn names(keep: impl Fn(&Workload) -> bool) -> Vec<&'static str> {
    Workload::all()
        .into_iter()
        .filter(keep)
        .map(|workload| workload.name)
        .collect()
}

fn argv(workload: &Workload, directory: &Path, extra: &[&str]) -> Result<Vec<String>> {
    let mut argv = workload.argv(&build(workload)?, directory);
    argv.extend(extra.iter().map(ToString::to_string));
    Ok(argv)
}

/// Runs it with a disturbance between its ticks, and wants PASS.
fn passes(name: &str, times: u32, disturbance: impl Fn(&Running) -> Result<()>) -> Result<()> {
    let workload = Workload::named(name);
    let directory = tempfile::tempdir()?;
    let running = Running::spawn(&argv(&workload, directory.path(), &[])?)?;
    running.wait_ready()?;
    let mut tick = running.wait_tick_after(0)?;
    let times = if workload.tick_ms > 1000 { 1 } else { times };
    for _ in 0..times {
        disturbance(&running)?;
        tick = running.wait_tick_after(tick)?;
    }
    running.finish()?.expect_pass()
}

#[test]
fn names_are_unique_and_every_program_has_an_entry() {
    let mut all = names(|_| true);
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")).unwrap()
    {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "c") {
            let program = path.file_stem().unwrap().to_str().unwrap();
            assert!(
                Workload::all()
                    .iter()
                    .any(|workload| workload.program == program),
                "{program}"
            );
        }
    }
}

/// Starts `argv` by the shell words `run` with a /dev/shm and IPC objects of its own, which
/// end with it: two with the same pid are not in each other's way.
fn unshared(options: &[&str], run: &str, argv: &[String]) -> Result<Child> {
    let script = format!("mount -t tmpfs none /dev/shm && {run}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--ipc"]).args(options);
    command.args(["sh", "-c", &script, "sh"]).args(argv);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

#[test]
fn pass_when_left_alone() {
    for_all(names(|workload| !workload.stoppable), |name| {
        passes(name, 3, |_| Ok(()))
    });
}

#[test]
fn pass_under_stop_and_continue() {
    for_all(names(|workload| workload.stoppable), |name| {
        passes(name, 4, disturb::stop_and_continue)
    });
}

#[test]
fn pass_under_a_tracer() {
    for_all(names(|workload| workload.stoppable), |name| {
        passes(name, 4, disturb::interrupt_by_ptrace)
    });
}

#[test]
fn fail_when_damaged() {
    let every = |workload: Workload| {
        workload
            .sabotages
            .iter()
            .map(move |sabotage| (workload.name, *sabotage))
    };
    for_all(
        Workload::all().into_iter().flat_map(every).collect(),
        |(name, sabotage)| {
            let directory = tempfile::tempdir()?;
            let damaged = argv(
                &Workload::named(name),
                directory.path(),
                &["--seconds", "8", "--sabotage", sabotage],
            )?;
            let running = Running::launch(&damaged, |argv| unshared(&[], "exec \"$@\"", argv))?;
            let outcome = running.wait_end()?;
            ensure!(
                !outcome.passed && outcome.failure.is_some(),
                "not noticed: {outcome:?}"
            );
            ensure!(outcome.status.code() == Some(1), "{:?}", outcome.status);
            Ok(())
        },
    );
}

/// The kernel itself gives EINTR to these: that they say so shows that they would notice a careless mover.
#[test]
fn notice_calls_that_a_stop_interrupts() {
    for_all(
        vec![
            "sleep-epoll",
            "sleep-sigtimedwait",
            "wait-epoll",
            "wait-sigwaitinfo",
        ],
        |name| {
            let error = passes(name, 50, disturb::stop_and_continue)
                .err()
                .context("a stop went unnoticed")?;
            ensure!(
                format!("{error:#}").contains("Interrupted system call"),
                "{error:#}"
            );
            Ok(())
        },
    );
}

/// As in a capsule: a parent with pid 1, and low pids.
#[test]
fn pass_in_a_fresh_pid_namespace() {
    for_all(names(|_| true), |name| {
        let workload = Workload::named(name);
        let directory = tempfile::tempdir()?;
        let running = Running::launch(&argv(&workload, directory.path(), &[])?, |argv| {
            let pids = ["--pid", "--fork", "--mount-proc", "--kill-child"];
            unshared(&pids, "\"$@\"; exit $?", argv)
        })?;
        running.wait_ready()?;
        let tick = running.wait_tick_after(0)?;
        running.wait_tick_after(tick)?;
        running.finish()?.expect_pass()
    });
}
