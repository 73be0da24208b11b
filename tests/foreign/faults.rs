//! A fault at any point of a move: before the commit nothing has happened to the
//! process, after it the process lives elsewhere; in one place at a time, always.

use anyhow::{Result, ensure};
use mig_tests::lab::{Lab, eventually, in_a_lab};

use super::{COUNTER, Shell, counts_on};

/// Points before the commit, and the node whose daemon passes them.
const BEFORE: [(&str, &str); 7] = [
    ("source.offer", "n1"),
    ("source.prepared", "n1"),
    ("source.frozen", "n1"),
    ("source.image", "n1"),
    ("destination.bulk", "n2"),
    ("source.built", "n1"),
    ("source.held", "n1"),
];
const AFTER: [(&str, &str); 4] = [
    ("source.committed", "n1"),
    ("source.told", "n1"),
    ("destination.committed", "n2"),
    ("source.released", "n1"),
];

fn arm(lab: &Lab, (point, node): (&str, &str), action: &str) {
    let file = "/run/mig/failpoints";
    drop(
        lab.node(node)
            .sh(&format!("echo '{point} {action}' > {file}")),
    );
}

/// What others see of a process: its parent, session, program and control group.
fn look(lab: &Lab, pid: i32) -> String {
    lab.node("n1").sh(&format!(
        "ps -o pid=,ppid=,pgid=,sid=,args= -p {pid}; grep 0:: /proc/{pid}/cgroup"
    ))
}

fn revive(lab: &Lab, node: &str, action: &str) {
    if action == "kill" {
        eventually("the daemon is dead", || {
            !lab.node(node).mig(&["ps"]).status.success()
        });
        lab.node(node).start_migd();
    }
}

fn no_jobs(lab: &Lab) -> bool {
    let listed = lab.node("n1").sh("mig ps --json");
    let left = lab.node("n1").sh("ls /run/mig/jobs");
    !listed.contains("\"id\"") && left.trim().is_empty()
}

fn stays(action: &str) {
    in_a_lab(|lab| {
        let (shell, pid) = Shell::start(lab, "root", COUNTER)?;
        let before = look(lab, pid);
        for point in BEFORE {
            arm(lab, point, action);
            let moved = lab.node("n1").mig(&["move", &pid.to_string(), "n2"]);
            ensure!(!moved.status.success(), "{point:?}: it moved");
            revive(lab, point.1, action);
            counts_on(lab, pid, "n1")?;
            eventually("nothing is left of the attempt", || {
                look(lab, pid) == before && no_jobs(lab)
            });
        }
        // And nothing is left that would be in the way.
        super::move_to(lab, &pid.to_string(), "n2")?;
        counts_on(lab, pid, "n2")?;
        let status = shell.finish(lab)?;
        ensure!(status == 7, "it ended with {status}");
        Ok(())
    });
}

fn goes(point: (&str, &str), action: &str) -> Result<()> {
    in_a_lab(|lab| {
        let (shell, pid) = Shell::start(lab, "root", COUNTER)?;
        arm(lab, point, action);
        // The answer may be lost; the move is not.
        drop(lab.node("n1").mig(&["move", &pid.to_string(), "n2"]));
        revive(lab, point.1, action);
        counts_on(lab, pid, "n2")?;
        eventually("mig is in its place", || {
            look(lab, pid).contains("mig internal-adopted")
        });
        let status = shell.finish(lab)?;
        ensure!(status == 7, "{point:?}: it ended with {status}");
        Ok(())
    });
    Ok(())
}

#[test]
fn an_error_before_the_commit_leaves_it_as_it_was() {
    stays("error");
}

#[test]
fn the_death_of_a_daemon_before_the_commit_leaves_it_as_it_was() {
    stays("kill");
}

#[test]
fn the_death_of_a_daemon_after_the_commit_costs_nothing() -> Result<()> {
    AFTER.into_iter().try_for_each(|point| goes(point, "kill"))
}
