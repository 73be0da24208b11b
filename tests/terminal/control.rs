//! Job control, signals, and jobs that are left and found again.

use anyhow::{Result, ensure};
use mig_tests::lab::{Lab, in_a_lab};
use mig_tests::mover::Mover;

use super::{HOME, SHELL, at_a_shell, expect_code, leave};

#[test]
fn a_signal_that_ends_a_job_ends_its_exec() {
    in_a_lab(|lab| {
        let mut terminal = at_a_shell(lab)?;
        for (name, signal, code) in [("term", "TERM", 143), ("segv", "SEGV", 139)] {
            let command =
                format!("mig exec --name {name} -- sh -c 'echo star''ted; exec sleep 100'\r");
            terminal.type_in(&command)?;
            terminal.expect("started\r\n")?;
            Mover::new(lab, HOME, name).move_to("n2")?;
            let output = lab.node(HOME).mig(&["kill", "--signal", signal, name]);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "mig kill: {errors}");
            expect_code(&mut terminal, code)?;
        }
        leave(terminal)
    });
}

/// ^Z gives the prompt back, and `fg` the job, at home and away.
#[test]
fn a_job_is_suspended_and_continued_wherever_it_is() {
    in_a_lab(|lab| {
        let mut terminal = at_a_shell(lab)?;
        let mover = Mover::new(lab, HOME, "cat");
        terminal.type_in("mig exec --name cat -- sed -u s/^/got-/\r")?;
        for node in ["n1", "n2", "n3", "n1"] {
            if mover.node().is_ok_and(|there| there != node) {
                mover.move_to(node)?;
            }
            terminal.type_in("one\r")?;
            terminal.expect("got-one\r\n")?;
            terminal.type_in("\x1a")?;
            terminal.expect("Stopped")?;
            terminal.expect("at-home> ")?;
            expect_state(lab, node, "stopped")?;
            // The shell has its terminal back, in its own modes.
            terminal.type_in("echo at-ho''me-again\r")?;
            terminal.expect("at-home-again\r\n")?;
            terminal.type_in("fg\r")?;
            terminal.expect("mig exec")?;
            terminal.type_in("two\r")?;
            terminal.expect("got-two\r\n")?;
            expect_state(lab, node, "running")?;
        }
        terminal.type_in("\x04")?;
        expect_code(&mut terminal, 0)?;
        leave(terminal)
    });
}

/// What `mig ps` says at home of the only job, and the kernel where it is.
fn expect_state(lab: &Lab, node: &str, state: &str) -> Result<()> {
    let output = lab.node(HOME).mig(&["ps", "--json"]);
    let jobs: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let said = (&jobs[0]["state"], &jobs[0]["node"]);
    ensure!(said == (&state.into(), &node.into()), "{jobs}");
    let comm = format!("/proc/{}/comm", jobs[0]["pid"]);
    let read = lab.node(node).command(&["cat", &comm]).output()?;
    ensure!(read.stdout == b"sed\n", "{comm} of {node}: {read:?}");
    Ok(())
}

/// A job in the background writes, does not take the keyboard, and waits for it when it reads.
#[test]
fn a_job_in_the_background_leaves_the_keyboard_to_the_shell() {
    in_a_lab(|lab| {
        let mut terminal = at_a_shell(lab)?;
        let script = "echo star''ted; until [ -e /shared/go ]; do sleep 0.02; done; echo wri''tten; read line; echo got-\\$line; exit 5";
        terminal.type_in(&format!("mig exec --name back -- bash -c \"{script}\" &\r"))?;
        terminal.expect("started\r\n")?;
        Mover::new(lab, HOME, "back").move_to("n2")?;
        terminal.type_in("echo keyb''oard; touch /shared/go\r")?;
        terminal.expect("keyboard\r\n")?;
        terminal.expect("written\r\n")?;
        terminal.type_in("until jobs | grep -q Stopped; do sleep 0.02; done; echo stop''ped\r")?;
        terminal.expect("stopped\r\n")?;
        terminal.type_in("fg\r")?;
        terminal.expect("mig exec")?;
        terminal.type_in("line\r")?;
        terminal.expect("got-line\r\n")?;
        expect_code(&mut terminal, 5)?;
        leave(terminal)
    });
}

/// Started detached, moved, attached, left by the detach keys, moved, attached, ended.
#[test]
fn a_job_is_left_and_found_again() {
    in_a_lab(|lab| {
        let mut terminal = at_a_shell(lab)?;
        let mover = Mover::new(lab, HOME, "left");
        terminal.type_in(&format!("mig exec --detach --name left -- {SHELL}\r"))?;
        expect_code(&mut terminal, 0)?;
        for (count, node) in (1..).zip(["n2", "n3", "n1"]) {
            mover.move_to(node)?;
            terminal.type_in("mig attach left\r")?;
            terminal.type_in(&format!("value=x$value; echo {count}-$value-\r"))?;
            terminal.expect(&format!("{count}-{}-\r\n", "x".repeat(count)))?;
            terminal.type_in("\x1dd")?;
            terminal.expect("runs on\r\n")?;
            expect_code(&mut terminal, 0)?;
        }
        mover.move_to("n2")?;
        terminal.type_in("mig attach left\r")?;
        terminal.type_in("exit 3\r")?;
        expect_code(&mut terminal, 3)?;
        leave(terminal)
    });
}
