//! A pool of different CPUs: n1 has all that this machine has, n2 says that it lacks AVX-512,
//! and n3 all beyond x86-64-v2. What relies on more than its destination has is refused.

use std::process::Output;

use mig_tests::job::Job;
use mig_tests::lab::{Lab, SHARED, eventually};

/// The instruction sets of x86-64-v4 and v3.
const V4: &str = "'avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'";
const V3: &str = "'avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe'";

/// A machine that is itself below x86-64-v4 cannot show the difference.
fn is_v4() -> bool {
    let cpu = libmig::inspect::cpu::CpuFeatures::of_this_machine();
    let is = cpu.level() == Some(libmig::api::CpuLevel::V4);
    if !is {
        eprintln!("skipped: this CPU is below x86-64-v4");
    }
    is
}

fn mixed() -> Lab {
    let lab = Lab::up(3);
    for (node, lacks) in [("n2", V4.to_owned()), ("n3", format!("{V4}, {V3}"))] {
        let node = lab.node(node);
        node.kill_migd();
        drop(node.sh(&format!(
            "sed -i \"1i cpu_lacks = [{lacks}]\" /etc/mig/migd.toml"
        )));
        node.start_migd();
    }
    wait_until_connected(&lab);
    lab
}

fn wait_until_connected(lab: &Lab) {
    let all_up = || {
        ["n1", "n2", "n3"].iter().all(|node| {
            let nodes = json(&lab.node(node).mig(&["nodes", "--json"]));
            let mut nodes = nodes.as_array().expect("a list").iter();
            nodes.all(|node| node["state"] != "down")
        })
    };
    eventually("the nodes know each other", all_up);
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("the documented shape")
}

/// A shell that says what the dynamic linker takes this CPU for.
fn start<'a>(lab: &'a Lab, home: &str, name: &str, options: &[&str]) -> Job<'a> {
    let script =
        "/lib64/ld-linux-x86-64.so.2 --help | sed -n 's/(supported.*/taken/p'; echo ready; tick=0
        until read -r -t 0.02 line; do tick=$((tick+1)); echo tick $tick; done; echo PASS";
    let argv = ["bash", "-c", script].map(str::to_owned);
    let job = Job::start_with(lab, home, name, options, &argv).expect("it starts");
    job.running.wait_ready().expect("it is ready");
    job
}

fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

fn assert_passes(job: Job<'_>) -> Vec<String> {
    let outcome = job.finish().expect("it ends");
    outcome.expect_pass().expect("it finds nothing amiss");
    outcome.output
}

fn keeps_to(lab: &Lab, name: &str) -> serde_json::Value {
    let jobs = json(&lab.node("n1").mig(&["ps", "--json"]));
    let mut jobs = jobs.as_array().expect("a list").iter();
    let job = jobs.find(|job| job["name"] == name).expect("it is listed");
    job["cpu_level"].clone()
}

#[test]
fn a_job_may_go_where_what_it_may_have_found_is() {
    if !is_v4() {
        return;
    }
    let lab = mixed();
    let job = start(&lab, "n1", "plain", &[]);
    let words = ["cpu of n2", "avx512f", "mig exec --cpu x86-64-v3"];
    assert_refused(&job.try_move("n2"), &words);
    let why = lab.node("n1").mig(&["why", "plain", "n3"]);
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(said.contains("mig exec --cpu x86-64-v2"), "{said}");
    assert_eq!(keeps_to(&lab, "plain"), serde_json::Value::Null);
    assert_passes(job);

    let job = start(&lab, "n1", "middle", &["--cpu", "x86-64-v3"]);
    job.tour(&["n2", "n1"], 2).unwrap();
    assert_refused(
        &job.try_move("n3"),
        &["cpu of n3", "avx2", "mig exec --cpu x86-64-v2"],
    );
    let taken = assert_passes(job).join("\n");
    assert!(
        taken.contains("x86-64-v3 taken") && !taken.contains("x86-64-v4 taken"),
        "{taken}"
    );
    lab.down_and_check();
}

#[test]
fn a_job_of_the_pool_may_go_everywhere() {
    if !is_v4() {
        return;
    }
    let lab = mixed();
    let job = start(&lab, "n1", "pooled", &["--cpu", "pool"]);
    job.tour(&["n2", "n3", "n1", "n3", "n2"], 2).unwrap();
    assert_eq!(keeps_to(&lab, "pooled"), "x86-64-v2");
    let why = lab.node("n1").mig(&["why", "pooled", "n3"]);
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(
        said.contains("can move") && said.contains("keeps to x86-64-v2"),
        "{said}"
    );
    // The level is in the records on the disk.
    lab.node("n2").kill_migd();
    lab.node("n2").start_migd();
    wait_until_connected(&lab);
    job.tour(&["n3"], 1).unwrap();
    let taken = assert_passes(job).join("\n");
    assert!(
        taken.contains("x86-64-v2 taken") && !taken.contains("x86-64-v3 taken"),
        "{taken}"
    );

    let beyond = lab.node("n3").mig(&["exec", "--cpu", "x86-64-v3", "true"]);
    let said = String::from_utf8_lossy(&beyond.stderr).into_owned();
    assert_eq!(beyond.status.code(), Some(125), "{said}");
    assert!(
        said.contains("not of level x86-64-v3") && said.contains("--cpu pool"),
        "{said}"
    );
    lab.down_and_check();
}

/// Built where every node sees it.
fn avx(lab: &Lab) -> String {
    let program = format!("{SHARED}/avx");
    // By its text: a node does not see all folders of the machine, /tmp for one.
    let source = include_str!("avx.c");
    let flags = "-O1 -Wall -Werror -mno-red-zone";
    let compile =
        format!("gcc {flags} -x c -o {program} - << 'END OF SOURCE'\n{source}\nEND OF SOURCE");
    drop(lab.node("n1").sh(&compile));
    program
}

#[test]
fn what_a_program_uses_all_the_same_is_honoured() {
    if !is_v4() {
        return;
    }
    let lab = mixed();
    let program = avx(&lab);
    let start = |name: &str, level: &str, arguments: &[&str]| {
        let argv: Vec<String> = std::iter::once(program.as_str())
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect();
        let job = Job::start_with(&lab, "n1", name, &["--cpu", level], &argv).unwrap();
        job.running.wait_ready().unwrap();
        job
    };
    let uses = start("uses", "x86-64-v2", &["use"]);
    let words = ["uses instructions that x86-64-v2 does not have"];
    assert_refused(&uses.try_move("n3"), &words);
    assert_refused(&uses.try_move("n2"), &words);
    assert_passes(uses);

    let file = format!("{SHARED}/leave");
    let handles = start("handles", "x86-64-v3", &["handler", &file]);
    assert_refused(&handles.try_move("n2"), &["it is in a signal handler"]);
    drop(lab.node("n1").sh(&format!("touch {file}")));
    let seen = handles.running.ticks();
    handles.running.wait_tick_after(seen + 2).unwrap();
    handles.tour(&["n2", "n1"], 2).unwrap();
    assert_passes(handles);
    lab.down_and_check();
}
