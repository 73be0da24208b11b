//! What `mig lab up` says on a machine that cannot hold a lab.

use std::process::Command;

use mig_tests::lab::{Lab, binary};

/// Runs `mig lab up` behind another command, and returns what it says.
fn up_behind(words: &[&str]) -> String {
    let lab = Lab::unborn();
    let mig = binary("mig");
    let up = [
        &mig.to_string_lossy(),
        "lab",
        "--name",
        lab.name(),
        "up",
        "1",
    ];
    let (program, arguments) = words.split_first().expect("a command");
    let mut command = Command::new(program);
    command.args(
        arguments
            .iter()
            .map(|word| word.replace("MIG_LAB_UP", &up.join(" "))),
    );
    if !words.iter().any(|word| word.contains("MIG_LAB_UP")) {
        command.args(up);
    }
    let output = command.output().expect("start it");
    assert_eq!(output.status.code(), Some(1), "{words:?}: a lab came up");
    lab.assert_clean();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_right_to_make_namespaces() {
    let says = up_behind(&["setpriv", "--bounding-set=-sys_admin"]);
    assert!(says.contains("the right to make namespaces"), "{says}");
}

#[test]
fn the_right_to_make_bridges() {
    let says = up_behind(&["setpriv", "--bounding-set=-net_admin"]);
    assert!(says.contains("network bridges"), "{says}");
}

#[test]
fn cgroups() {
    let unmount =
        "for dir in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do umount -l $dir; done";
    let says = up_behind(&[
        "unshare",
        "--mount",
        "sh",
        "-c",
        &format!("{unmount}; MIG_LAB_UP"),
    ]);
    assert!(says.contains("cgroup v2 is mounted nowhere"), "{says}");
}

#[test]
fn root() {
    // Read by root and run by nobody: the program may lie where nobody may look.
    let lab = Lab::up_with(1, &["--bare"]);
    let output = lab
        .node("n1")
        .command_as("nobody", &["mig", "lab", "up", "1"])
        .output();
    let output = output.expect("start mig");
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("a lab needs root"), "{says}");
}

#[test]
fn the_daemon() {
    let scratch = tempfile::tempdir().expect("a folder");
    let lonely = scratch.path().join("mig");
    std::fs::copy(binary("mig"), &lonely).expect("copy mig");
    let up = Command::new(&lonely)
        .args(["lab", "up", "1"])
        .env("PATH", "/bin")
        .output();
    let up = up.expect("start mig");
    assert_eq!(up.status.code(), Some(1));
    let says = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(says.contains("no migd beside"), "{says}");
}
