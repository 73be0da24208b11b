//! What must not be restored: twice, beside a living original, damaged, made up. And that
//! whatever dies on the way, the job is in one place: it runs, or the file can be restored.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Result, ensure};
use mig_tests::job::Job;
use mig_tests::lab::{Lab, eventually};
use mig_tests::workload::Workload;

use super::{FAILPOINTS, checkpoint, said};

/// docs/exit-codes.md: the job has ended in a checkpoint.
const CHECKPOINTED: i32 = 124;
/// docs/exit-codes.md: refused.
const REFUSED: i32 = 3;

const FILE: &str = "/shared/it.mig";

/// Ends a job in a file, and sees that its `mig exec` says so.
pub(crate) fn end(lab: &Lab, job: Job<'_>, name: &str, file: &str) -> Result<()> {
    let output = lab.node("n1").mig(&["checkpoint", name, file]);
    ensure!(output.status.success(), "{}", said(&output));
    let outcome = job.running.wait_end()?;
    ensure!(
        outcome.status.code() == Some(CHECKPOINTED),
        "{}, {:?}",
        outcome.status,
        outcome.failure
    );
    Ok(())
}

fn start<'a>(lab: &'a Lab, workload: &str) -> Job<'a> {
    Job::start(lab, "n1", "it", &Workload::named(workload)).expect("the workload starts")
}

fn refused(lab: &Lab, node: &str, args: &[&str], wanted: &str) {
    let output = lab.node(node).mig(&[&["restore"], args].concat());
    assert_eq!(output.status.code(), Some(REFUSED), "{}", said(&output));
    assert!(said(&output).contains(wanted), "{}", said(&output));
}

#[test]
fn a_job_is_restored_once_and_never_beside_itself() {
    let lab = Lab::up(2);
    let job = start(&lab, "spin");
    assert!(checkpoint(&lab, "it", FILE).status.success());
    refused(&lab, "n1", &[FILE], "job n1-1 lives, on node n1");
    job.move_to("n2").unwrap();
    refused(&lab, "n1", &[FILE], "job n1-1 lives, on node n2");
    job.move_to("n1").unwrap();
    // A copy of its own lives beside the original, and both check themselves.
    let copy = Job::restore(&lab, "n1", "copy", &["--new-job", "--name", "copy", FILE]).unwrap();
    copy.running.wait_tick_after(0).unwrap();
    refused(&lab, "n1", &[FILE], "job n1-1 lives");
    let before = job.running.ticks();
    job.running.wait_tick_after(before).unwrap();
    end(&lab, job, "it", "/shared/last.mig").unwrap();
    refused(&lab, "n1", &[FILE], "has been restored before, as job n1-2");
    let job = Job::restore(&lab, "n1", "it", &["/shared/last.mig"]).unwrap();
    job.running.wait_tick_after(0).unwrap();
    job.move_to("n2").unwrap();
    let before = job.running.ticks();
    job.running.wait_tick_after(before).unwrap();
    refused(&lab, "n1", &["/shared/last.mig"], "lives, on node n2");
    job.finish().unwrap().expect_pass().unwrap();
    copy.finish().unwrap().expect_pass().unwrap();
    refused(
        &lab,
        "n1",
        &["/shared/last.mig"],
        "has been restored before",
    );
    lab.down_and_check();
}

#[test]
fn a_job_is_restored_where_it_is_wanted() {
    let lab = Lab::up(2);
    let node = lab.node("n1");
    end(&lab, start(&lab, "spin"), "it", FILE).expect("it ends");
    let output = node.mig(&["restore", "--node", "n9", FILE]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let job = Job::restore(&lab, "n1", "it", &["--node", "n2", FILE]).expect("mig starts");
    job.running.wait_tick_after(0).expect("it runs");
    // It is made at its home first.
    let there = || job.node().is_ok_and(|node| node == "n2");
    eventually("it is on n2", there);
    let before = job.running.ticks();
    job.running.wait_tick_after(before).expect("it runs there");
    // It is away: its file is written where the command runs.
    assert!(checkpoint(&lab, "it", "/root/copy.mig").status.success());
    let before = job.running.ticks();
    job.running.wait_tick_after(before).expect("it runs on");
    refused(&lab, "n1", &["/root/copy.mig"], "lives, on node n2");
    end(&lab, job, "it", "/root/again.mig").expect("it ends");
    let again = Job::restore(&lab, "n1", "it", &["/root/again.mig"]).expect("mig starts");
    again.running.wait_tick_after(0).expect("it runs");
    end(&lab, again, "it", "/shared/again.mig").expect("it ends");
    // The ID is its home's to give away; a new one is anybody's.
    refused(
        &lab,
        "n2",
        &["/shared/again.mig"],
        "known on its home, node n1",
    );
    let other = ["--new-job", "--name", "other", "/shared/again.mig"];
    let other = Job::restore(&lab, "n2", "other", &other).expect("mig starts");
    other.running.wait_tick_after(0).expect("it runs");
    other.move_to("n1").expect("it moves");
    let before = other.running.ticks();
    other.running.wait_tick_after(before).expect("it runs");
    other
        .finish()
        .expect("it ends")
        .expect_pass()
        .expect("it passes");
    lab.down_and_check();
}

#[test]
fn what_the_node_lacks_is_named_before_anything_is_restored() {
    let lab = Lab::up(2);
    let node = lab.node("n1");
    drop(node.sh("echo here > /root/only"));
    let script = "exec 3< /root/only; echo ready > /shared/ready; exec sleep 1000";
    let argv = ["exec", "--name", "it", "--detach", "--", "sh", "-c", script];
    assert!(node.mig(&argv).status.success());
    eventually("it has its file", || {
        node.sh("cat /shared/ready 2> /dev/null; true") == "ready\n"
    });
    let output = node.mig(&["checkpoint", "it", FILE]);
    assert!(output.status.success(), "{}", said(&output));
    refused(&lab, "n1", &["--node", "n2", FILE], "/root/only");
    assert_eq!(node.sh("ls /run/mig/jobs"), "");
    let output = node.mig(&["restore", FILE]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(node.mig(&["kill", "-s", "KILL", "it"]).status.success());
    lab.down_and_check();
}

#[test]
fn what_is_damaged_or_made_up_is_not_restored() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    let job = start(&lab, "spin");
    end(&lab, job, "it", FILE).unwrap();
    let spoil = |script: &str, wanted: &str| {
        drop(node.sh(&format!("cp {FILE} /tmp/x && {script}")));
        let output = node.mig(&["restore", "/tmp/x"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(wanted), "{}", said(&output));
        assert_eq!(node.sh("ls /run/mig/jobs"), "", "{script}");
    };
    let byte = |at: &str| {
        format!("printf '\\377\\376' | dd of=/tmp/x bs=1 conv=notrunc status=none seek={at}")
    };
    spoil(&byte("40"), "the header, at byte 0, is damaged");
    spoil(&byte("2000"), "block 1 of");
    spoil("truncate -s -20 /tmp/x", "it is not complete");
    spoil("echo hello > /tmp/x", "it is no checkpoint of mig");
    // Another cluster's nodes have other certificates.
    let other = Lab::up(1);
    let stranger = start(&other, "spin");
    end(&other, stranger, "it", FILE).unwrap();
    let bytes = other.node("n1").run(&["cat", FILE]).stdout;
    other.down_and_check();
    let mut put = node.command(&["tee", "/tmp/other"]);
    let mut put = put
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(put.wait().unwrap().success());
    refused(
        &lab,
        "n1",
        &["/tmp/other"],
        "no node of this cluster has written it",
    );
    let job = Job::restore(&lab, "n1", "it", &[FILE]).unwrap();
    job.running.wait_tick_after(0).unwrap();
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

/// Where a restore fails, and whether the job lives afterwards.
const RESTORING: [(&str, bool); 5] = [
    ("restore.reserved", false),
    ("destination.image", false),
    ("destination.bulk", false),
    ("restore.built", false),
    ("restore.owned", true),
];

#[test]
fn a_restore_that_dies_can_be_done_again() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    let mut job = start(&lab, "spin");
    for (point, lives) in RESTORING {
        for action in ["error", "kill"] {
            let what = format!("{action} at {point}");
            end(&lab, job, "it", FILE).expect(&what);
            drop(node.sh(&format!("echo {point} {action} > {FAILPOINTS}")));
            let output = node.mig(&["restore", "--detach", FILE]);
            assert!(!output.status.success(), "{what}");
            if action == "kill" {
                eventually("the killed migd is gone", || {
                    node.status().migd_pid.is_none()
                });
                node.start_migd();
            }
            let again: &[&str] = if lives {
                eventually(&what, || said_out(&node.mig(&["ps"])).contains("running"));
                refused(&lab, "n1", &[FILE], "lives, on node n1");
                // Its streams lead nowhere: another one is to go on.
                assert!(node.mig(&["kill", "-s", "KILL", "it"]).status.success());
                let gone = "has been restored before";
                eventually(&what, || !said_out(&node.mig(&["ps"])).contains("running"));
                refused(&lab, "n1", &[FILE], gone);
                &["--new-job", "--name", "it", FILE]
            } else {
                assert!(
                    !said_out(&node.mig(&["ps", "--all"])).contains(" it "),
                    "{what}"
                );
                &[FILE]
            };
            job = Job::restore(&lab, "n1", "it", again).expect(&what);
            job.running.wait_tick_after(0).expect(&what);
        }
    }
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

fn said_out(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the end of a job in a file fails, and whether it has ended afterwards.
const ENDING: [(&str, bool); 5] = [
    ("checkpoint.frozen", false),
    ("checkpoint.written", false),
    ("checkpoint.kept", false),
    ("checkpoint.held", false),
    ("checkpoint.committed", true),
];

#[test]
fn a_job_runs_on_or_is_in_its_file_whatever_dies() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    let mut job = start(&lab, "spin");
    for (point, ends) in ENDING {
        let what = format!("kill at {point}");
        let before = job.running.wait_tick_after(0).unwrap();
        drop(node.sh(&format!("echo {point} kill > {FAILPOINTS}")));
        let output = node.mig(&["checkpoint", "it", FILE]);
        assert!(!output.status.success(), "{what}");
        eventually("the killed migd is gone", || {
            node.status().migd_pid.is_none()
        });
        node.start_migd();
        if ends {
            let outcome = job.running.wait_end().expect(&what);
            assert_eq!(outcome.status.code(), Some(CHECKPOINTED), "{what}");
            job = Job::restore(&lab, "n1", "it", &[FILE]).expect(&what);
            job.running.wait_tick_after(0).expect(&what);
        } else {
            job.running.wait_tick_after(before + 1).expect(&what);
        }
    }
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}
