//! What cannot be moved is named, and nothing happens to it.

use anyhow::{Result, ensure};
use mig_tests::lab::{Lab, eventually, in_a_lab};

use super::text;

/// Both commands name it; `mig why` finds it without a destination.
fn refused(lab: &Lab, pid: &str, wanted: &str) -> Result<()> {
    for arguments in [vec!["move", pid, "n2"], vec!["why", pid]] {
        let output = lab.node("n1").mig(&arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        ensure!(!output.status.success(), "{arguments:?}: {said}");
        ensure!(
            said.contains(wanted),
            "{arguments:?}: no {wanted:?} in {said}"
        );
    }
    Ok(())
}

/// Starts a process in the background of n1, which tells its own number in /shared/pid.
fn start(lab: &Lab, script: &str) -> String {
    drop(lab.node("n1").sh(&format!(
        "rm -f /shared/pid; setsid sh -c '{script}' </dev/null >/dev/null 2>&1 &"
    )));
    eventually("it has started", || {
        lab.node("n1")
            .run(&["test", "-s", "/shared/pid"])
            .status
            .success()
    });
    lab.node("n1").sh("cat /shared/pid").trim().to_owned()
}

#[test]
fn what_is_shared_with_strangers_is_named() {
    in_a_lab(|lab| {
        let ends = "sleep 1000 | sh -c \"exec 9<&0 </dev/null; echo \\$\\$ >/shared/pid; exec sleep 1000\"";
        refused(lab, &start(lab, ends), "the other end is held by")?;
        let memory = "python3 -c \"import mmap, os, time; m = mmap.mmap(-1, 4096); \
            c = os.fork(); c and open(\\\"/shared/pid\\\", \\\"w\\\").write(str(c)); time.sleep(1000)\"";
        refused(lab, &start(lab, memory), "has it mapped too")?;
        let named = "exec 9>/dev/shm/of-the-node; echo $$ >/shared/pid; exec sleep 1000";
        refused(lab, &start(lab, named), "in the /dev/shm of the node")
    });
}

#[test]
fn a_process_in_namespaces_of_its_own_is_named() {
    in_a_lab(|lab| {
        let script = "unshare --uts setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!";
        let pid = lab.node("n1").sh(script);
        refused(lab, pid.trim(), "uts namespace")?;
        drop(lab.node("n1").sh(&format!("kill -0 {pid}")));
        Ok(())
    });
}

#[test]
fn the_first_process_of_the_node_stays() {
    in_a_lab(|lab| refused(lab, "1", "daemon is below it"));
}
