//! Pipes of a job, and what `mig exec` costs.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use mig_tests::lab::{Lab, in_a_lab};
use mig_tests::mover::Mover;

use super::{HOME, at_a_shell, leave};

/// A start takes less than this even on a machine that is busy with other things. What it takes is printed.
const START_US: u64 = 1_000_000;

#[test]
fn both_ends_of_a_pipeline_move() {
    in_a_lab(|lab| {
        let mut terminal = at_a_shell(lab)?;
        let left = "for i in $(seq 300); do echo $i; sleep 0.01; done";
        let right = "while read -r i; do sum=$((sum + i)); done; echo sum-$sum";
        terminal.type_in(&format!(
            "mig exec --name left -- bash -c '{left}' | mig exec --name right -- bash -c '{right}'\r"
        ))?;
        for (name, nodes) in [("left", ["n2", "n3"]), ("right", ["n3", "n2"])] {
            let mover = Mover::new(lab, HOME, name);
            mover.wait_started();
            for node in nodes {
                mover.move_to(node)?;
            }
        }
        terminal.expect("sum-45150\r\n")?;
        terminal.expect("at-home> ")?;
        leave(terminal)
    });
}

/// It ends before anybody can have come for its last words.
#[test]
fn what_a_job_says_as_it_arrives_and_ends_comes_home() {
    in_a_lab(|lab| {
        let made = lab.node("n2").command(&["touch", "/only-here"]).status()?;
        ensure!(made.success(), "touch: {made}");
        let script = "until [ -e /only-here ]; do :; done; echo bye; exit 3";
        for round in 0..5 {
            let name = format!("brief-{round}");
            let argv = ["mig", "exec", "--name", &name, "--", "bash", "-c", script];
            let child = lab.node(HOME).spawn(&argv);
            let mover = Mover::new(lab, HOME, &name);
            mover.wait_started();
            let moved = mover.move_to("n2");
            let output = child.wait_with_output()?;
            moved?;
            ensure!(output.status.code() == Some(3), "{output:?}");
            ensure!(output.stdout == b"bye\n", "{output:?}");
        }
        Ok(())
    });
}

/// Each end is a plain program on the user's node.
#[test]
fn a_job_in_the_middle_of_a_pipeline_moves() {
    in_a_lab(|lab| {
        let script = "seq 200000 | mig exec --name middle -- bash -c 'while read -r i; do echo \"$i\"; done' | md5sum; seq 200000 | md5sum";
        let child = lab.node(HOME).spawn(&["bash", "-c", script]);
        let mover = Mover::new(lab, HOME, "middle");
        mover.wait_started();
        let moved: Result<Vec<_>, _> = ["n2", "n3", "n1", "n2"]
            .into_iter()
            .map(|node| mover.move_to(node))
            .collect();
        let output = child.wait_with_output()?;
        moved?;
        let text = String::from_utf8(output.stdout)?;
        let sums: Vec<&str> = text.lines().collect();
        ensure!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
        Ok(())
    });
}

/// What is written before a move, between moves and after them arrives, and so does the end.
#[test]
fn a_pipe_feeds_a_job_until_its_end_of_file() {
    in_a_lab(|lab| {
        let mut child = lab
            .node(HOME)
            .command(&["mig", "exec", "--name", "count", "--", "wc", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("it is piped")?;
        let mover = Mover::new(lab, HOME, "count");
        mover.wait_started();
        let block = vec![b'x'; 300_000];
        for node in ["n2", "n3", "n1", "n2"] {
            stdin.write_all(&block)?;
            mover.move_to(node)?;
        }
        stdin.write_all(&block)?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let counted = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{}", output.status);
        ensure!(counted.trim() == "1500000", "{counted}");
        Ok(())
    });
}

#[test]
fn an_ordinary_start_is_quick() {
    in_a_lab(|lab| {
        let (plain, exec) = (mean(lab, "env true")?, mean(lab, "mig exec -- true")?);
        println!("20 starts of true: {plain} us plain, {exec} us under mig exec on average");
        ensure!(exec < START_US, "{exec} us");
        Ok(())
    });
}

/// Microseconds that a command takes on average.
fn mean(lab: &Lab, command: &str) -> Result<u64> {
    let script = format!(
        "a=${{EPOCHREALTIME/./}}; for i in $(seq 20); do {command} || exit; done; \
         b=${{EPOCHREALTIME/./}}; echo $(((b - a) / 20))"
    );
    let output = lab.node(HOME).run(&["bash", "-c", &script]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command}: {errors}");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
