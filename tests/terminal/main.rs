//! A job's terminal and streams stay connected to its user wherever it runs.
//!
//! The user is at a shell on n1, in a terminal of its own, and types; jobs are moved from outside meanwhile. What is typed is
//! echoed, so what is waited for is always spelt differently from what is typed.

mod control;
mod streams;

use anyhow::{Context, Result, ensure};
use mig_tests::lab::{Lab, in_a_lab};
use mig_tests::mover::Mover;
use mig_tests::terminal::Terminal;

/// Where the user is.
const HOME: &str = "n1";

/// A shell without the user's own settings.
const SHELL: &str = "bash --norc --noprofile -i";

/// The user's shell, at its prompt.
fn at_a_shell(lab: &Lab) -> Result<Terminal> {
    let argv: Vec<&str> = SHELL.split(' ').collect();
    let mut terminal = Terminal::start(&lab.node(HOME).command(&argv))?;
    terminal.type_in("PS1='at-'home'> '\r")?;
    terminal.expect("at-home> ")?;
    Ok(terminal)
}

/// What the last command of the user's shell came to.
fn expect_code(terminal: &mut Terminal, code: i32) -> Result<()> {
    terminal.expect("at-home> ")?;
    terminal.type_in("echo code-$?-\r")?;
    let wanted = format!("code-{code}-\r\n");
    terminal.expect("code-$?-\r\n")?;
    let before = terminal.expect("\r\n")?;
    ensure!(format!("{before}\r\n") == wanted, "{before}, not {wanted}");
    terminal.expect("at-home> ").map(drop)
}

/// Ends the user's shell.
fn leave(mut terminal: Terminal) -> Result<()> {
    terminal.type_in("exit 0\r")?;
    let (status, output) = terminal.wait()?;
    let output = String::from_utf8_lossy(&output).into_owned();
    ensure!(status.success(), "{status}: {output}");
    Ok(())
}

#[test]
fn an_interactive_shell_is_used_while_it_travels() {
    in_a_lab(|lab| {
        let mut terminal = at_a_shell(lab)?;
        terminal.type_in(&format!("mig exec --name shell -- {SHELL}\r"))?;
        terminal.type_in("PS1='in-'job'> '\r")?;
        terminal.expect("in-job> ")?;
        let mover = Mover::new(lab, HOME, "shell");
        for (round, node) in (1..).zip(["n2", "n3", "n1"]) {
            type_during_a_move(&mut terminal, &mover, node, round)
                .and_then(|()| resize(&mut terminal, round))
                .and_then(|()| interrupt(&mut terminal))
                .with_context(|| format!("on {node}"))?;
        }
        terminal.type_in("exit 7\r")?;
        expect_code(&mut terminal, 7)?;
        leave(terminal)
    });
}

/// Half of a line before the move, and one key after the other under way.
fn type_during_a_move(
    terminal: &mut Terminal,
    mover: &Mover<'_>,
    node: &str,
    round: u16,
) -> Result<()> {
    terminal.type_in(&format!("value={round}; echo sum-"))?;
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| mover.move_to(node));
        for key in "$((40 + value))-'of'".chars() {
            terminal.type_in(&key.to_string())?;
            // As a fast typist; the move takes some of these keys with it.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        moving.join().expect("the mover does not panic")
    })?;
    terminal.type_in("\r")?;
    terminal.expect(&format!("sum-{}-of\r\n", 40 + round))?;
    terminal.expect("in-job> ").map(drop)
}

/// The job's terminal has the window's size, and its programs hear of a change.
fn resize(terminal: &mut Terminal, round: u16) -> Result<()> {
    terminal.type_in("trap 'echo win''dow' WINCH; echo rea''dy\r")?;
    terminal.expect("ready\r\n")?;
    // At its prompt: bash loses its place when a trap comes while it reads a $().
    terminal.expect("in-job> ")?;
    terminal.resize(30 + round, 100 + round)?;
    let (lines, columns) = (30 + round, 100 + round);
    terminal.expect("window\r\n")?;
    terminal.type_in(&format!(
        "until [ \"$(stty size)\" = '{lines} {columns}' ]; do sleep 0.02; done; echo resiz''ed\r"
    ))?;
    terminal.expect("resized\r\n")?;
    terminal.type_in("trap - WINCH; stty size; echo si''ze\r")?;
    let before = terminal.expect("size\r\n")?;
    let size = format!("{lines} {columns}");
    ensure!(before.contains(&size), "no {size} in {before:?}");
    terminal.expect("in-job> ").map(drop)
}

/// ^C ends the sleep, and not the shell. What says that it sleeps is of the group that has
/// the keyboard then; bash itself, between two commands, would take the ^C for its own.
fn interrupt(terminal: &mut Terminal) -> Result<()> {
    terminal.type_in("sh -c \"echo slee''ping; exec sleep 100\"\r")?;
    terminal.expect("sleeping\r\n")?;
    terminal.type_in("\x03")?;
    terminal.expect("in-job> ")?;
    terminal.type_in("echo code-$?-\r")?;
    terminal.expect("code-130-\r\n")?;
    terminal.expect("in-job> ").map(drop)
}
