//! Processes that `mig exec` did not start are moved, and whoever started them sees
//! them run on: the same process ID, output, keyboard and exit status.

mod faults;
mod refusals;

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use mig_tests::lab::{Lab, eventually, in_a_lab};
use mig_tests::terminal::Terminal;

/// Counts, one line each, until told to stop: no number twice and none left out, whatever
/// becomes of it, and the number of its process with each. Exits with 7.
const COUNTER: &str = "i=0; while [ ! -e /shared/stop ]; do \
    i=$((i+1)); echo $i $$ $(cat /proc/sys/kernel/hostname); sleep 0.02; done; exit 7";

/// A shell in the background of a test that has started a program, as its child.
struct Shell {
    child: Child,
}

impl Shell {
    /// Starts `program` with its output in /shared/out, as the child of a shell that tells how it
    /// ends. Whatever the test itself has open is closed.
    fn start(lab: &Lab, user: &str, program: &str) -> Result<(Shell, i32)> {
        drop(lab.node("n1").sh(&format!(
            "rm -f /shared/*; chmod 777 /shared; echo '{program}' > /shared/program"
        )));
        let script = "for f in $(ls /proc/self/fd); do [ $f -lt 3 ] || eval \"exec $f<&-\"; done; \
            setsid sh /shared/program >/shared/out 2>&1 </dev/null & \
            echo $! >/shared/pid.new; mv /shared/pid.new /shared/pid; \
            wait $!; echo $? >/shared/status.new; mv /shared/status.new /shared/status";
        let mut command = lab.node("n1").command_as(user, &["bash", "-c", script]);
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = quiet.spawn().context("starting a shell")?;
        eventually("it has started", || shared(lab, "out").contains("3 "));
        let pid = shared(lab, "pid").trim().parse()?;
        Ok((Shell { child }, pid))
    }

    /// Ends the program, and returns what the shell says of its end.
    fn finish(mut self, lab: &Lab) -> Result<i32> {
        drop(lab.node("n1").sh("touch /shared/stop"));
        eventually("it has ended", || !shared(lab, "status").is_empty());
        self.child.wait()?;
        Ok(shared(lab, "status").trim().parse()?)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shared(lab: &Lab, file: &str) -> String {
    lab.node("n1")
        .sh(&format!("cat /shared/{file} 2>/dev/null || true"))
}

/// Numbers without a gap, all of one process; returns the last, and where that was.
fn check_count(lab: &Lab, pid: i32) -> Result<(u64, String)> {
    let out = shared(lab, "out");
    let mut last = (0, String::new());
    // The last line may be on its way.
    for line in out.lines().take(out.matches('\n').count()) {
        let words: Vec<&str> = line.split(' ').collect();
        let [number, owner, node] = words.as_slice() else {
            anyhow::bail!("{line}");
        };
        ensure!(number.parse() == Ok(last.0 + 1), "{line} after {}", last.0);
        ensure!(owner.parse() == Ok(pid), "{line} is not from {pid}");
        last = (last.0 + 1, (*node).to_owned());
    }
    Ok(last)
}

/// It counts on, and on that node.
fn counts_on(lab: &Lab, pid: i32, node: &str) -> Result<()> {
    let (before, _) = check_count(lab, pid)?;
    eventually("it counts on", || {
        check_count(lab, pid).is_ok_and(|(now, at)| now > before + 3 && at == node)
    });
    check_count(lab, pid).map(drop)
}

/// A user's shell, which has nothing open that the test has.
fn at_a_shell(lab: &Lab) -> Result<Terminal> {
    const CLOSE: &str = "for f in $(ls /proc/self/fd); do \
        case $f in 0|1|2|255) ;; *) eval \"exec $f<&-\" ;; esac; done\r";
    let argv = ["bash", "--norc", "--noprofile", "-i"];
    let mut terminal = Terminal::start(&lab.node("n1").command(&argv))?;
    terminal.type_in("PS1='at-'home'> '\r")?;
    terminal.expect("at-home> ")?;
    terminal.type_in(CLOSE)?;
    terminal.expect("at-home> ")?;
    Ok(terminal)
}

fn move_to(lab: &Lab, target: &str, node: &str) -> Result<()> {
    let output = lab.node("n1").mig(&["move", target, node]);
    let errors = text(&output.stderr);
    ensure!(
        output.status.success(),
        "mig move {target} {node}: {errors}"
    );
    Ok(())
}

#[test]
fn its_parent_sees_it_run_on_and_end() {
    in_a_lab(|lab| {
        let (shell, pid) = Shell::start(lab, "root", COUNTER)?;
        let target = pid.to_string();
        let parent = lab.node("n1").sh(&format!("ps -o ppid=,sid= -p {pid}"));
        move_to(lab, &target, "n2")?;
        counts_on(lab, pid, "n2")?;
        let still = lab.node("n1").sh(&format!("ps -o ppid=,sid= -p {pid}"));
        ensure!(parent == still, "{parent} became {still}");
        // Its place stands for it.
        move_to(lab, &target, "n3")?;
        counts_on(lab, pid, "n3")?;
        move_to(lab, &target, "n1")?;
        counts_on(lab, pid, "n1")?;
        let status = shell.finish(lab)?;
        ensure!(status == 7, "it ended with {status}");
        Ok(())
    });
}

#[test]
fn a_signal_to_its_place_reaches_it() {
    in_a_lab(|lab| {
        let (shell, pid) = Shell::start(lab, "root", COUNTER)?;
        move_to(lab, &pid.to_string(), "n2")?;
        counts_on(lab, pid, "n2")?;
        drop(lab.node("n1").sh(&format!("kill -TERM {pid}")));
        let status = shell.finish(lab)?;
        ensure!(status == 128 + 15, "it ended with {status}");
        Ok(())
    });
}

#[test]
fn a_tree_goes_with_its_pipes() {
    const TREE: &str = "seq 1 1000000 | while read -r n; do [ ! -e /shared/stop ] || exit 7; \
        echo $n $$ $(cat /proc/sys/kernel/hostname); sleep 0.02; done";
    in_a_lab(|lab| {
        let (shell, pid) = Shell::start(lab, "root", TREE)?;
        move_to(lab, &pid.to_string(), "n2")?;
        counts_on(lab, pid, "n2")?;
        let status = shell.finish(lab)?;
        ensure!(status == 7, "it ended with {status}");
        Ok(())
    });
}

#[test]
fn a_pipe_towards_others_stays_connected() {
    in_a_lab(|lab| {
        let script = format!("( {COUNTER} ) | cat");
        // What is moved is the counter alone: the shell between and cat stay.
        let (shell, _) = Shell::start(lab, "root", &script)?;
        let counter =
            "ps -e -o pid=,args= | grep -v grep | grep 'sh /shared/program' | sort -n | tail -n 1";
        let pid = lab.node("n1").sh(counter);
        let pid = pid.split_whitespace().next().context("no counter")?;
        move_to(lab, pid, "n2")?;
        // $$ is that of the first shell.
        let first = shared(lab, "pid").trim().parse()?;
        counts_on(lab, first, "n2")?;
        let status = shell.finish(lab)?;
        ensure!(status == 0, "cat ended with {status}");
        Ok(())
    });
}

#[test]
fn a_user_moves_processes_of_the_own_and_no_others() {
    in_a_lab(|lab| {
        let (shell, pid) = Shell::start(lab, "nobody", COUNTER)?;
        let target = pid.to_string();
        let other = lab
            .node("n1")
            .command_as("daemon", &["mig", "move", &target, "n2"])
            .output()?;
        let errors = text(&other.stderr);
        ensure!(errors.contains("is not your process"), "{errors}");
        let own = lab
            .node("n1")
            .command_as("nobody", &["mig", "move", &target, "n2"])
            .output()?;
        ensure!(own.status.success(), "{}", text(&own.stderr));
        counts_on(lab, pid, "n2")?;
        let status = shell.finish(lab)?;
        ensure!(status == 7, "it ended with {status}");
        Ok(())
    });
}

#[test]
fn a_program_keeps_the_terminal_of_its_shell() {
    // It says how ^C ends it, and what was typed.
    const TALKER: &str = "trap \"echo caught-it; exit 9\" INT; \
        echo ready-to-go; while read -r line; do echo heard-$line-on-$(cat /proc/sys/kernel/hostname); done";
    in_a_lab(|lab| {
        drop(
            lab.node("n1")
                .sh(&format!("echo '{TALKER}' > /shared/talk")),
        );
        let mut terminal = at_a_shell(lab)?;
        terminal.type_in("bash /shared/talk\r")?;
        terminal.expect("ready-to-go\r\n")?;
        let pid = lab.node("n1").sh("pgrep -f '^bash /shared/talk'");
        move_to(lab, pid.trim(), "n2")?;
        terminal.type_in("one\r")?;
        terminal.expect("heard-one-on-n2\r\n")?;
        // Stopped and continued by the shell that started it.
        terminal.type_in("\u{1a}")?;
        terminal.expect("Stopped")?;
        terminal.expect("at-home> ")?;
        terminal.type_in("fg\r")?;
        terminal.type_in("two\r")?;
        terminal.expect("heard-two-on-n2\r\n")?;
        terminal.type_in("\u{3}")?;
        terminal.expect("caught-it\r\n")?;
        terminal.expect("at-home> ")?;
        terminal.type_in("echo code-$?\r")?;
        terminal.expect("code-9\r\n")?;
        terminal.expect("at-home> ")?;
        terminal.type_in("exit 0\r")?;
        terminal.wait().map(drop)
    });
}

#[test]
fn a_stopped_program_is_moved_and_continued_by_its_shell() {
    in_a_lab(|lab| {
        drop(lab.node("n1").sh(
            "echo 'echo ready-to-go; while read -r line; do echo heard-$line-on-$(cat /proc/sys/kernel/hostname); done' > /shared/talk",
        ));
        let mut terminal = at_a_shell(lab)?;
        terminal.type_in("bash /shared/talk\r")?;
        terminal.expect("ready-to-go\r\n")?;
        terminal.type_in("\u{1a}")?;
        terminal.expect("Stopped")?;
        terminal.expect("at-home> ")?;
        let pid = lab.node("n1").sh("pgrep -f '^bash /shared/talk'");
        move_to(lab, pid.trim(), "n2")?;
        terminal.type_in("fg\r")?;
        terminal.type_in("one\r")?;
        terminal.expect("heard-one-on-n2\r\n")?;
        terminal.type_in("\u{4}")?;
        terminal.expect("at-home> ")?;
        terminal.type_in("exit 0\r")?;
        terminal.wait().map(drop)
    });
}
