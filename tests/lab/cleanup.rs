//! Nothing is left of a lab.

use std::{process::Stdio, time::Duration};

use mig_tests::lab::{Lab, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn kill_hard(pid: Option<i32>) {
    kill(Pid::from_raw(pid.expect("it lives")), Signal::SIGKILL).expect("kill it");
}

#[test]
fn down_leaves_nothing() {
    let lab = Lab::up_with(3, &["--bare"]);
    lab.down_and_check();
    // There is nothing to remove, and that is no error.
    lab.down_and_check();
}

#[test]
fn down_ends_what_runs_and_what_is_frozen() {
    let lab = Lab::up_with(2, &["--bare"]);
    let mut busy = lab.node("n1").spawn(&["sh", "-c", "while :; do :; done"]);
    let ice = "mkdir /sys/fs/cgroup/ice && cd /sys/fs/cgroup/ice \
               && echo $$ > cgroup.procs && echo 1 > cgroup.freeze; sleep 1000";
    let mut frozen = lab.node("n2").spawn(&["sh", "-c", ice]);
    eventually("the job is frozen", || {
        let events = lab
            .node("n2")
            .run(&["cat", "/sys/fs/cgroup/ice/cgroup.events"])
            .stdout;
        String::from_utf8_lossy(&events).contains("frozen 1")
    });
    lab.run(&["down"]);
    assert_eq!(busy.wait().unwrap().code(), Some(137));
    assert_eq!(frozen.wait().unwrap().code(), Some(137));
    lab.assert_clean();
}

#[test]
fn up_killed_at_any_moment_can_be_cleaned_up() {
    // `up` takes about a tenth of a second; the last rounds kill one that has ended.
    for round in 0..40 {
        let lab = Lab::unborn();
        let mut up = lab
            .command(&["up", "2", "--bare"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(4 * round));
        up.kill().unwrap();
        up.wait().unwrap();
        lab.down_and_check();
    }
}

#[test]
fn a_lab_that_lost_its_keeper_is_replaced() {
    let lab = Lab::up_with(2, &["--bare"]);
    let status = lab.status();
    kill_hard(status.keeper);
    eventually("the nodes go with their keeper", || {
        lab.status().nodes.iter().all(|node| node.pid.is_none())
    });
    assert!(!lab.status().up);
    lab.run(&["up", "1", "--bare"]);
    assert_eq!(lab.status().nodes.len(), 1);
    lab.down_and_check();
}

#[test]
fn a_lab_that_lost_a_node_is_cleaned_up() {
    let lab = Lab::up_with(2, &["--bare"]);
    let pid = lab.node("n1").status().pid;
    kill_hard(pid);
    eventually("the node is seen dead", || {
        lab.node("n1").status().pid.is_none()
    });
    assert!(lab.node("n2").status().pid.is_some());
    assert_eq!(lab.node("n1").run(&["true"]).status.code(), Some(1));
    lab.down_and_check();
}

#[test]
fn a_lab_that_is_up_is_not_replaced() {
    let lab = Lab::up_with(1, &["--bare"]);
    let before = lab.status();
    let output = lab.command(&["up", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is up already"));
    assert_eq!(lab.status().keeper, before.keeper);
}

#[test]
fn labs_do_not_know_each_other() {
    let (one, other) = (Lab::up_with(1, &["--bare"]), Lab::up_with(1, &["--bare"]));
    let _ = one.node("n1").sh("echo one > /shared/who; echo one > /who");
    assert!(
        !other
            .node("n1")
            .run(&["cat", "/shared/who"])
            .status
            .success()
    );
    assert!(!other.node("n1").run(&["cat", "/who"]).status.success());
    one.down_and_check();
    assert_eq!(other.node("n1").sh("hostname"), "n1\n");
}
