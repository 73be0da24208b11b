//! A move that fails at any point, by an error, by a killed daemon or by a cut link,
//! leaves exactly one live copy, which is whole and can move again.
//!
//! The daemons under test carry the failpoints of `libmig::migration::failpoint`
//! (cargo feature `failpoints`, which tests/run turns on).

mod husks;
mod point;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mig_tests::job::Job;
use mig_tests::lab::{Lab, eventually};
use mig_tests::workload::Workload;
use point::{Owner, POINTS, Point, WITH_FILTERS, WITH_LOCKS, WITH_QUEUES, WITH_SOCKETS};

/// How long the daemons may take to find out who owns the job.
const SETTLED: Duration = Duration::from_secs(30);

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Error,
    Kill,
    Cut,
    Panic,
}

#[test]
fn an_error_at_any_point_leaves_one_live_copy() {
    at_every_point(Fault::Error);
}

#[test]
fn a_killed_daemon_at_any_point_leaves_one_live_copy() {
    at_every_point(Fault::Kill);
}

#[test]
fn a_cut_link_at_any_point_leaves_one_live_copy() {
    at_every_point(Fault::Cut);
}

/// A bug in a mover costs the move, and not the job.
#[test]
fn a_mover_that_panics_leaves_one_live_copy() {
    strike_all(Fault::Panic, WITH_FILTERS, "spin-pages", 1);
}

/// Whoever looked at it may be killed: what no filter of its allows is not made in it.
#[test]
fn a_confined_job_survives_the_daemon_that_looked_at_it() {
    strike_all(Fault::Kill, WITH_FILTERS, "seccomp-strict", 2);
    strike_all(Fault::Kill, WITH_FILTERS, "seccomp-norestart", 1);
}

/// The destination waits for the locks until the daemon of the source is there again and ends the copy that holds them.
#[test]
fn locks_are_kept_whatever_happens_while_they_are_handed_over() {
    for fault in [Fault::Error, Fault::Kill, Fault::Cut] {
        strike_all(fault, WITH_LOCKS, "locks-posix", 2);
    }
}

/// A look at a queue takes nothing from it, and an address at the destination is free again.
#[test]
fn what_waits_in_sockets_is_there_after_a_move_that_failed() {
    for fault in [Fault::Error, Fault::Kill] {
        strike_all(fault, WITH_SOCKETS, "sockets-messages", 1);
        strike_all(fault, WITH_SOCKETS, "sockets-abstract", 2);
        strike_all(fault, WITH_SOCKETS, "sockets-path", 2);
        strike_all(fault, WITH_SOCKETS, "inet-served", 4);
        strike_all(fault, WITH_QUEUES, "inet-bulk", 3);
    }
}

/// Nobody but the job has a segment attached that goes with its last attachment.
#[test]
fn segments_are_whole_after_a_move_that_failed() {
    for fault in [Fault::Error, Fault::Kill] {
        strike_all(fault, WITH_SOCKETS, "sysv-shm-removed", 1);
    }
}

fn at_every_point(fault: Fault) {
    strike_all(fault, POINTS, "spin-pages", 1);
}

/// `processes` is how many the workload consists of.
fn strike_all(fault: Fault, points: &[Point], workload: &str, processes: u32) {
    let lab = Lab::up(2);
    let mut failures = Vec::new();
    for point in points {
        if let Err(error) = strike(&lab, point, fault, workload, processes) {
            failures.push(format!("{fault:?} at {}: {error:#}", point.name));
        }
    }
    for node in ["n1", "n2"] {
        if !failures.is_empty() {
            eprintln!("--- {node}\n{}", lab.log(node));
        }
    }
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    lab.down_and_check();
}

/// One job, one fault in its move from n1 to n2; then it must still be whole, and movable.
fn strike(lab: &Lab, point: &Point, fault: Fault, workload: &str, processes: u32) -> Result<()> {
    let name = format!("{}-{fault:?}", point.name.replace('.', "-")).to_lowercase();
    let job = Job::start(lab, "n1", &name, &Workload::named(workload))?;
    job.running.wait_tick_after(0)?;
    point.arm(lab, fault)?;
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| job.try_move("n2"));
        let struck = point.wait_hit(lab);
        if struck.is_ok() && fault == Fault::Cut {
            lab.cut("n1", "n2");
        }
        let moved = moving.join().expect("the mover does not panic");
        struck.with_context(|| String::from_utf8_lossy(&moved.stderr).into_owned())
    })?;
    match fault {
        Fault::Error | Fault::Panic => {}
        Fault::Kill => {
            let node = lab.node(point.node);
            eventually("the killed migd is gone", || {
                node.status().migd_pid.is_none()
            });
            node.start_migd();
        }
        Fault::Cut => lab.heal(),
    }
    let before = job.running.ticks();
    settle(lab, &job, point, fault).context("nobody lives")?;
    job.running
        .wait_tick_after(before + 1)
        .context("it does not go on")?;
    one_copy(lab, &name, processes)?;
    // Both daemons are well: it can go to where it is not, and come home.
    connected(lab);
    let other = if job.node()? == "n2" { "n1" } else { "n2" };
    job.tour(&[other], 2).context("moving again")?;
    job.finish()?.expect_pass()
}

/// Waits until the nodes talk to each other: a cut is felt for as long as the kernel waits
/// before it sends again.
fn connected(lab: &Lab) {
    for node in ["n1", "n2"] {
        eventually("the nodes talk again", || {
            let output = lab.node(node).mig(&["nodes", "--json"]);
            let nodes: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_default();
            let up = |one: &serde_json::Value| one["state"] != "down";
            nodes.as_array().is_some_and(|nodes| nodes.iter().all(up))
        });
    }
}

/// Waits until the home node knows where the job is, and checks that it is where it must be.
fn settle(lab: &Lab, job: &Job<'_>, point: &Point, fault: Fault) -> Result<()> {
    // A source that has everything that it needs commits without noticing a cut.
    let unnoticed = fault == Fault::Cut && matches!(point.name, "source.built" | "source.held");
    let expected = match point.owner {
        Owner::Source if !unnoticed => "n1",
        _ => "n2",
    };
    let deadline = Instant::now() + SETTLED;
    loop {
        let ticks = job.running.ticks();
        let alive = job.running.wait_tick_after(ticks).is_ok();
        let there = job.node()?;
        if alive && there == expected {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after {fault:?} at {} it is on {there}, not on {expected}\n{}",
            point.name,
            lab.log(point.node)
        );
    }
}

/// Counts the job's processes on all nodes, frozen ones too, by their folder under /shared.
fn one_copy(lab: &Lab, name: &str, processes: u32) -> Result<()> {
    let script = format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^/[^ ]* --dir /shared/{name} ' && echo $p; done | wc -l"
    );
    let deadline = Instant::now() + SETTLED;
    loop {
        let count: u32 = ["n1", "n2"]
            .iter()
            .map(|node| {
                lab.node(node)
                    .sh(&script)
                    .trim()
                    .parse::<u32>()
                    .unwrap_or(99)
            })
            .sum();
        if count == processes {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{count} processes of it, not {processes}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
