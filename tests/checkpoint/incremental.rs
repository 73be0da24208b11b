//! Files that hold only what has changed: each is restored with those that it builds on, and
//! with nothing else in their place.

use anyhow::{Context, Result, ensure};
use mig_tests::job::Job;
use mig_tests::lab::{Lab, Node, eventually};
use mig_tests::workload::Workload;
use serde_json::Value;

use super::{FAILPOINTS, inspect, said};

/// Where the files of a chain are.
const DIR: &str = "/shared/chain";

/// Memory of every kind, and files without a name.
const WORKLOADS: [&str; 6] = [
    "spin-pages",
    "heap-malloc",
    "shared-anonymous",
    "shared-memfd",
    "files-unlinked",
    "stress-memory",
];

fn save(node: &Node<'_>, args: &[&str]) -> Result<Value> {
    let output = node.mig(&[&["checkpoint", "--json"], args].concat());
    ensure!(output.status.success(), "{}", said(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The file of a report.
fn path(report: &Value) -> String {
    let text = |field: &str| report[field].as_str().unwrap_or_default();
    format!("{DIR}/{}.{}.mig", text("job"), text("uuid"))
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_default()
}

/// Copies of a job while it runs, each upon the one before; the last one ends it.
fn chain(lab: &Lab, job: Job<'_>, name: &str) -> Result<Vec<Value>> {
    let node = lab.node("n1");
    let running = ["--leave-running", "--incremental", name, DIR];
    let mut reports = Vec::new();
    for copies in 0..3 {
        let before = job.running.ticks();
        let report = save(&node, &running)?;
        let bases = report["bases"].as_array().map_or(0, Vec::len);
        ensure!(bases == copies, "{report}");
        reports.push(report);
        job.running.wait_tick_after(before + 1)?;
    }
    // From another node, which hears what the files have.
    job.move_to("n2")?;
    reports.push(save(&node, &running)?);
    job.move_to("n1")?;
    reports.push(save(&node, &["--incremental", name, DIR])?);
    job.running.wait_end()?;
    Ok(reports)
}

fn one(lab: &Lab, name: &str) -> Result<()> {
    let node = lab.node("n1");
    drop(node.sh(&format!("mkdir -p {DIR}")));
    let job = Job::start(lab, "n1", name, &Workload::named(name))?;
    job.running.wait_tick_after(0)?;
    let reports = chain(lab, job, name)?;
    for (at, report) in reports.iter().enumerate() {
        let found = inspect(lab, &path(report))?;
        let links = found["chain"].as_array().context("a chain")?;
        let contents: u64 = links
            .iter()
            .map(|link| number(link, "contents_bytes"))
            .sum();
        ensure!(links.len() == at + 1, "{found}");
        ensure!(contents == number(report, "memory_bytes"), "{found}");
        let reused = contents - number(&links[at], "contents_bytes");
        ensure!(reused == number(report, "reused_bytes"), "{found}");
    }
    let last = reports.last().map(path).context("a report")?;
    let job = Job::restore(lab, "n1", name, &[&last])?;
    job.running.wait_tick_after(0)?;
    job.finish()?.expect_pass()?;
    for report in &reports {
        let copy = path(report);
        let job = Job::restore(lab, "n1", name, &["--new-job", "--name", name, &copy])?;
        job.running.wait_tick_after(0)?;
        job.finish()?.expect_pass().with_context(|| copy)?;
    }
    Ok(())
}

#[test]
fn every_file_of_a_chain_is_the_whole_job() {
    let lab = Lab::up(2);
    for name in WORKLOADS {
        one(&lab, name).expect(name);
    }
    lab.down_and_check();
}

#[test]
fn what_stays_as_it_is_is_written_once() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    drop(node.sh(&format!("mkdir -p {DIR}")));
    let script =
        "x=$(head -c 8000000 /dev/urandom | base64); echo > /shared/ready; read y < /shared/fifo";
    drop(node.sh("mkfifo /shared/fifo"));
    let argv = [
        "exec", "--name", "it", "--detach", "--", "bash", "-c", script,
    ];
    assert!(node.mig(&argv).status.success());
    eventually("it has its memory", || {
        node.sh("ls /shared").contains("ready")
    });
    let running = ["--leave-running", "--incremental", "it", DIR];
    let first = save(&node, &running).unwrap();
    for _ in 0..3 {
        let report = save(&node, &running).unwrap();
        let (reused, contents) = (
            number(&report, "reused_bytes"),
            number(&report, "memory_bytes"),
        );
        assert!(reused > contents / 10 * 9, "{report}");
        let written = number(&report, "bytes_written");
        assert!(written < number(&first, "bytes_written") / 10, "{report}");
    }
    // One that is not asked to build on others does not.
    let full = save(&node, &["--leave-running", "it", DIR]).unwrap();
    assert_eq!(full["bases"].as_array().map(Vec::len), Some(0), "{full}");
    assert!(node.mig(&["kill", "-s", "KILL", "it"]).status.success());
    lab.down_and_check();
}

#[test]
fn a_base_that_is_missing_damaged_or_another_is_named() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    drop(node.sh(&format!("mkdir -p {DIR}")));
    let job = Job::start(&lab, "n1", "it", &Workload::named("spin-pages")).unwrap();
    let running = ["--leave-running", "--incremental", "it", DIR];
    let first = save(&node, &running).unwrap();
    let head = save(&node, &running).unwrap();
    let (first, uuid) = (path(&first), first["uuid"].as_str().unwrap().to_owned());
    let refused = |script: &str, command: &[&str], wanted: &str| {
        drop(node.sh(&format!("cp {first} /root/first && {script}")));
        let output = node.mig(command);
        assert!(!output.status.success(), "{script}");
        assert!(
            said(&output).contains(wanted),
            "{script}: {}",
            said(&output)
        );
        eventually(script, || node.sh("ls /run/mig/jobs") == "n1-1\n");
        drop(node.sh(&format!("rm -rf {first}; cp /root/first {first}")));
    };
    let head = path(&head);
    let restore = ["restore", "--new-job", &head];
    let missing = format!("checkpoint {uuid}, on which it builds, is not in {DIR}");
    for command in [
        &restore[..],
        &["inspect", &head],
        &["checkpoint", "--leave-running", "--incremental", "it", DIR],
    ] {
        refused(&format!("rm {first}"), command, &missing);
    }
    let spoil = |at: &str| {
        format!("printf '\\377\\376' | dd of={first} bs=1 conv=notrunc status=none seek={at}")
    };
    refused(
        &spoil("3000"),
        &restore,
        &format!("checkpoint {uuid}, on which it builds: block 1 of"),
    );
    // Signed by this cluster, but not what was meant: its name in another file's place.
    let other = Job::start(&lab, "n1", "other", &Workload::named("spin")).unwrap();
    let theirs = save(&node, &["--leave-running", "other", "/root/other"]).unwrap();
    other.finish().unwrap().expect_pass().unwrap();
    eventually("it is gone", || node.sh("ls /run/mig/jobs") == "n1-1\n");
    refused(&format!("cp /root/other {first}"), &restore, &missing);
    let foreign = [
        "checkpoint",
        "--leave-running",
        "--base",
        "/root/other",
        "it",
        "/root/it",
    ];
    let said_of = format!(
        "checkpoint {} is not one of job n1-1",
        theirs["uuid"].as_str().unwrap()
    );
    refused("true", &foreign, &said_of);
    let beside = [
        "checkpoint",
        "--leave-running",
        "--base",
        &head,
        "it",
        "/root/it",
    ];
    refused("true", &beside, "what builds on it is to lie beside it");
    let onto = [
        "checkpoint",
        "--leave-running",
        "--base",
        &head,
        "it",
        &first,
    ];
    refused("true", &onto, "File exists");
    // Under another name it is found.
    drop(node.sh(&format!("mv {first} {DIR}/first")));
    let copy = ["--new-job", "--name", "copy", &head];
    let copy = Job::restore(&lab, "n1", "copy", &copy).unwrap();
    copy.running.wait_tick_after(0).unwrap();
    copy.finish().unwrap().expect_pass().unwrap();
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

#[test]
fn a_chain_never_has_half_a_head() {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    drop(node.sh(&format!("mkdir -p {DIR}")));
    let job = Job::start(&lab, "n1", "it", &Workload::named("spin-pages")).unwrap();
    let running = ["--leave-running", "--incremental", "it", DIR];
    save(&node, &running).unwrap();
    let before = node.sh(&format!("ls -A {DIR}"));
    for point in ["draft", "round", "frozen", "written"] {
        drop(node.sh(&format!("echo checkpoint.{point} kill > {FAILPOINTS}")));
        assert!(save(&node, &running).is_err(), "{point}");
        eventually("the killed migd is gone", || {
            node.status().migd_pid.is_none()
        });
        node.start_migd();
        assert_eq!(node.sh(&format!("ls -A {DIR}")), before, "{point}");
        let ticks = job.running.ticks();
        job.running.wait_tick_after(ticks + 1).expect(point);
    }
    // What goes wrong while it runs costs a longer pause, and nothing else.
    for point in ["draft", "round"] {
        drop(node.sh(&format!("echo checkpoint.{point} error > {FAILPOINTS}")));
        let report = save(&node, &running).expect(point);
        assert_eq!(
            inspect(&lab, &path(&report)).unwrap()["uuid"],
            report["uuid"]
        );
    }
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}
