//! `mig demo`, as a newcomer runs it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use mig_tests::lab::binary;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn start() -> Child {
    let mut demo = Command::new(binary("mig"));
    demo.arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    demo.spawn().expect("start mig")
}

/// The demo's lab is called after its process.
fn assert_gone(pid: u32) {
    let folder = format!("/run/mig-lab/demo-{pid}");
    assert!(!Path::new(&folder).exists(), "the demo left its lab");
}

#[test]
fn it_shows_what_it_promises() {
    let demo = start();
    let pid = demo.id();
    let output = demo.wait_with_output().expect("wait for it");
    let [shown, errors] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    assert!(output.status.success(), "{shown}\n{errors}");
    for act in [
        "n1 → n2",
        "n2 → n3",
        "n3 → n1",
        "over all nodes",
        "All of it happened",
    ] {
        assert!(shown.contains(act), "no `{act}` in {shown}");
    }
    assert_gone(pid);
}

#[test]
fn interrupted_it_removes_its_lab() {
    let mut demo = start();
    let stdout = BufReader::new(demo.stdout.take().expect("a pipe"));
    let mut lines = stdout.lines().map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("n1, n2 and n3 are up")),
        "no lab came up"
    );
    let pid = Pid::from_raw(i32::try_from(demo.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("interrupt it");
    // To the end, so that it is not the closed pipe that ends it.
    lines.for_each(drop);
    let status = demo.wait().expect("wait for it");
    assert_eq!(status.code(), Some(128 + Signal::SIGINT as i32));
    assert_gone(demo.id());
}
