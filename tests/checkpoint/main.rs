//! Every workload, copied into a file while it checks itself, then ended in a file and restored
//! from it: it must not notice, and the files must be whole.

mod golden;
mod incremental;
mod restore;

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use mig_tests::job::Job;
use mig_tests::lab::{Lab, eventually};
use mig_tests::pool::for_all;
use mig_tests::workload::Workload;
use serde_json::Value;

/// Jobs at the same time: most of them sleep most of the time.
const WORKERS: usize = 4;

/// The file that the daemons of a lab read their failpoints from.
const FAILPOINTS: &str = "/run/mig/failpoints";

/// Workloads whose files come and go: a checkpoint wants those that were open when it was begun, and may want
/// one that was gone when the job was stopped.
const FLEETING: &[&str] = &["chaos-files", "chaos-all"];

mig_tests::test_each_group!(saved);

/// Saves all workloads of a group, and reports all failures together.
fn saved(group: &str) {
    let lab = Lab::up(1);
    let all = Workload::all().into_iter();
    for_all(
        all.filter(|one| one.name.starts_with(group) && !FLEETING.contains(&one.name)),
        WORKERS,
        |workload| format!("{} ({})", workload.name, workload.proves),
        |workload| one(&lab, workload),
    );
    lab.down_and_check();
}

/// A copy beside it, and two restores: what the first leaves out would be missing in the second file.
fn one(lab: &Lab, workload: &Workload) -> Result<()> {
    let name = workload.name;
    let mut job = Job::start(lab, "n1", name, workload)?;
    let seen = job.running.wait_tick_after(0)?;
    copy(lab, workload)?;
    job.running.wait_tick_after(seen)?;
    for round in 0..2 {
        let file = format!("/shared/{name}.{round}.mig");
        restore::end(lab, job, name, &file)?;
        job = Job::restore(lab, "n1", name, &[&file])?;
        job.running.wait_tick_after(0)?;
    }
    job.finish()?.expect_pass()
}

fn copy(lab: &Lab, workload: &Workload) -> Result<()> {
    let file = format!("/shared/{}.mig", workload.name);
    let output = checkpoint(lab, workload.name, &file);
    ensure!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["pause_us"].as_u64() > Some(0), "{report}");
    let found = inspect(lab, &file)?;
    ensure!(found["uuid"] == report["uuid"], "{found}\n{report}");
    let processes = found["processes"].as_array().map_or(0, Vec::len);
    let files = found["files"].as_array().context("a list of files")?;
    // One that has been deleted goes with its contents instead.
    let program = match workload.name {
        "shm-exe" | "memfds-run" => "libc.so",
        _ => workload.program,
    };
    let named = files
        .iter()
        .any(|file| file.as_str().is_some_and(|path| path.contains(program)));
    ensure!(processes > 0 && named, "{found}");
    Ok(())
}

fn checkpoint(lab: &Lab, job: &str, file: &str) -> Output {
    let argv = ["checkpoint", "--leave-running", "--json", job, file];
    lab.node("n1").mig(&argv)
}

fn inspect(lab: &Lab, file: &str) -> Result<Value> {
    let output = lab.node("n1").mig(&["inspect", "--json", file]);
    ensure!(output.status.success(), "{}", said(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whatever goes wrong, the job runs on, and what was there before is all that is there.
#[test]
fn a_checkpoint_that_fails_leaves_no_file_and_the_job_as_it_was() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    let job = Job::start(&lab, "n1", "it", &Workload::named("spin-pages")).unwrap();
    drop(
        node.sh(
            "mkdir /small && mount -t tmpfs -o size=64k none /small && echo before > /small/file",
        ),
    );
    let goes_on = |what: &str| {
        let before = job.running.ticks();
        job.running.wait_tick_after(before + 1).expect(what);
        assert_eq!(
            node.sh("ls -A /small; cat /small/file"),
            "file\nbefore\n",
            "{what}"
        );
    };
    let full = checkpoint(&lab, "it", "/small/file");
    assert!(!full.status.success());
    assert!(said(&full).contains("No space left"), "{}", said(&full));
    goes_on("after a full disk");
    drop(node.sh("mount -o remount,size=1g /small"));
    for (point, action) in [
        ("checkpoint.frozen", "error"),
        ("checkpoint.written", "error"),
        ("checkpoint.frozen", "kill"),
        ("checkpoint.written", "kill"),
    ] {
        let what = format!("{action} at {point}");
        drop(node.sh(&format!("echo {point} {action} > {FAILPOINTS}")));
        let output = checkpoint(&lab, "it", "/small/file");
        assert!(!output.status.success(), "{what}");
        if action == "kill" {
            eventually("the killed migd is gone", || {
                node.status().migd_pid.is_none()
            });
            node.start_migd();
        }
        goes_on(&what);
    }
    let whole = checkpoint(&lab, "it", "/small/file");
    assert!(whole.status.success(), "{}", said(&whole));
    inspect(&lab, "/small/file").unwrap();
    job.finish().unwrap().expect_pass().unwrap();
    drop(node.sh("umount /small"));
    lab.down_and_check();
}

#[test]
fn a_file_belongs_to_whoever_asked_and_shows_only_what_they_may_see() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    let job = Job::start(&lab, "n1", "it", &Workload::named("spin-pages")).unwrap();
    drop(node.sh("mkdir -m 1777 /tmp/all"));
    let argv = ["mig", "checkpoint", "--leave-running", "n1-1", "/tmp/all"];
    let other = node.command_as("nobody", &argv).output().unwrap();
    assert_eq!(other.status.code(), Some(5), "{}", said(&other));
    let argv = ["mig", "checkpoint", "--leave-running", "n1-1", "/etc/mig/x"];
    let other = node.command_as("nobody", &argv).output().unwrap();
    assert!(
        said(&other).contains("Permission denied"),
        "{}",
        said(&other)
    );
    assert_eq!(node.sh("ls -A /tmp/all"), "");
    let own = node.mig(&["checkpoint", "--leave-running", "n1-1", "/tmp/all"]);
    assert!(own.status.success(), "{}", said(&own));
    let listed = node.sh("stat -c '%a %n' /tmp/all/*");
    assert!(listed.starts_with("600 /tmp/all/n1-1."), "{listed}");
    job.finish().unwrap().expect_pass().unwrap();
    let argv = ["mig", "exec", "--detach", "sleep", "1000"];
    let started = node.command_as("nobody", &argv).output().unwrap();
    let theirs = String::from_utf8(started.stdout).unwrap();
    let argv = [
        "mig",
        "checkpoint",
        "--leave-running",
        theirs.trim(),
        "/tmp/all/own",
    ];
    let own = node.command_as("nobody", &argv).output().unwrap();
    assert!(own.status.success(), "{}", said(&own));
    assert_eq!(node.sh("stat -c '%a %U' /tmp/all/own"), "600 nobody\n");
    assert!(node.mig(&["kill", theirs.trim()]).status.success());
    lab.down_and_check();
}

#[test]
fn damage_is_named_with_its_place() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    let job = Job::start(&lab, "n1", "it", &Workload::named("spin-pages")).unwrap();
    assert!(checkpoint(&lab, "it", "/shared/it.mig").status.success());
    job.finish().unwrap().expect_pass().unwrap();
    let path = PathBuf::from("/shared/it.mig");
    let spoil = |script: &str, wanted: &str| {
        drop(node.sh(&format!("cp {} /tmp/x && {script}", path.display())));
        let output = node.mig(&["inspect", "/tmp/x"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(wanted), "{}", said(&output));
    };
    let byte = |at: &str| {
        format!("printf '\\377\\376' | dd of=/tmp/x bs=1 conv=notrunc status=none seek={at}")
    };
    spoil(&byte("40"), "the header, at byte 0, is damaged");
    spoil(&byte("2000"), "block 1 of");
    spoil("truncate -s -20 /tmp/x", "it is not complete");
    spoil("echo hello > /tmp/x", "it is no checkpoint of mig");
    lab.down_and_check();
}
