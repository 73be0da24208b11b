//! One run of a real program in a lab: plain on a node, or as a job that is on the move all the time.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mig_tests::job::MoveReport;
use mig_tests::lab::{Lab, SHARED};
use mig_tests::mover::Mover;
use mig_tests::programs::{ENOUGH, Program};
use mig_tests::terminal::Terminal;

/// Where a program is at home.
const HOME: &str = "n1";

/// It is left alone after so many moves more than it needs.
const MORE: usize = 2;

/// What a run came to.
pub(crate) struct Run {
    pub(crate) result: Vec<u8>,
    pub(crate) took: Duration,
    pub(crate) moves: Vec<MoveReport>,
}

/// Runs it as any program of the node.
pub(crate) fn unmoved(lab: &Lab, program: Program) -> Result<Run> {
    let folders = Folders::make(lab, program, "unmoved")?;
    folders.tell(program)?;
    let command = lab.node(HOME).command(&program.argv(&folders.inside));
    let (output, took) = finish(program, command)?;
    Ok(Run {
        result: folders.result(program, &output)?,
        took,
        moves: Vec::new(),
    })
}

/// Runs it as a job, and moves it until it ends.
pub(crate) fn moved(lab: &Lab, program: Program) -> Result<Run> {
    let folders = Folders::make(lab, program, "moved")?;
    let mut argv: Vec<String> = ["mig", "exec", "--name", program.name, "--"]
        .map(str::to_owned)
        .into();
    argv.extend(program.argv(&folders.inside));
    let command = lab.node(HOME).command(&argv);
    let ended = AtomicBool::new(false);
    let mover = Mover::new(lab, HOME, program.name).when_stopped();
    let (ran, moves) = std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            mover.wait_started();
            let nodes = ["n2", "n3", "n1"];
            let has_ended = || ended.load(Ordering::Acquire);
            let moves = mover.keep_moving(&nodes, program.moves + MORE, has_ended);
            folders.tell(program).and(moves)
        });
        let ran = finish(program, command);
        ended.store(true, Ordering::Release);
        (ran, moving.join().expect("the mover does not panic"))
    });
    // A move that failed explains an end that is not good.
    let moves = moves?;
    let (output, took) = ran.with_context(|| format!("after {} moves", moves.len()))?;
    Ok(Run {
        result: folders.result(program, &output)?,
        took,
        moves,
    })
}

/// Runs the command to its end, which must be a good one; returns its output and how long it took.
fn finish(program: Program, command: Command) -> Result<(Vec<u8>, Duration)> {
    let start = Instant::now();
    let (status, output) = if program.terminal {
        in_a_terminal(program, &command)?
    } else {
        with_pipes(command)?
    };
    let took = start.elapsed();
    // The interactive session ends with `exit 7`.
    let wanted = if program.terminal { 7 } else { 0 };
    let text = String::from_utf8_lossy(&output);
    ensure!(status.code() == Some(wanted), "{status}: {text}");
    Ok((output, took))
}

/// Pipes for all three: a file of the test's own machine is not on every node.
fn with_pipes(mut command: Command) -> Result<(ExitStatus, Vec<u8>)> {
    let output = command.output()?;
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status, output.stdout))
}

fn in_a_terminal(program: Program, command: &Command) -> Result<(ExitStatus, Vec<u8>)> {
    let mut terminal = Terminal::start(command)?;
    terminal.type_in(program.input)?;
    terminal.wait()
}

/// The folder where a program works, as the node sees it and as this machine does.
struct Folders {
    inside: PathBuf,
    outside: PathBuf,
}

impl Folders {
    fn make(lab: &Lab, program: Program, run: &str) -> Result<Self> {
        let inside = PathBuf::from(format!("{SHARED}/{run}/{}", program.name));
        let init = lab
            .node(HOME)
            .status()
            .pid
            .context("the node has an init")?;
        let outside = PathBuf::from(format!("/proc/{init}/root{}", inside.display()));
        std::fs::create_dir_all(&outside).with_context(|| format!("{}", outside.display()))?;
        program.set_up(&outside)?;
        Ok(Self { inside, outside })
    }

    /// Tells a program that waits for it that it has worked enough.
    fn tell(&self, program: Program) -> Result<()> {
        if program.until_told {
            std::fs::write(self.outside.join(ENOUGH), "")?;
        }
        Ok(())
    }

    /// Looks at a copy: some tools want to know the path of the folder where they are, and `/proc` leads to this one.
    fn result(&self, program: Program, output: &[u8]) -> Result<Vec<u8>> {
        let copy = tempfile::tempdir()?;
        for entry in std::fs::read_dir(&self.outside)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
            }
        }
        program.result(copy.path(), output)
    }
}
