//! Real programs, moved many times in mid-work, give the results of an unmoved run.
//!
//! Each runs unmoved on n1 first, then as a job that goes round n2, n3 and n1.

mod run;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mig_tests::job::MoveReport;
use mig_tests::lab::Lab;
use mig_tests::programs::Program;

/// What a busy machine may add to three seconds of sleep.
const SLACK: Duration = Duration::from_secs(1);

macro_rules! programs {
    ($($test:ident: $name:literal;)+) => {
        /// All that a test below moves; the sleep has its own.
        const MOVED: &[&str] = &[$($name),+, "sleep"];

        $(
            #[test]
            fn $test() {
                let lab = Lab::up(3);
                if let Err(error) = one(&lab, Program::named($name)) {
                    panic!("{error:#}");
                }
                lab.down_and_check();
            }
        )+
    };
}

programs! {
    python_with_threads: "python-threads";
    python_with_processes: "python-multiprocessing";
    python_with_numpy: "python-numpy";
    bash_with_pipelines: "bash-pipelines";
    bubblewrap_with_a_shell_and_python: "bubblewrap";
    xz_with_two_threads: "xz";
    sqlite_writing_a_database: "sqlite3";
    gcc_compiling: "gcc";
    bash_at_a_terminal: "bash-interactive";
    java_with_threads_that_collect_garbage: "java";
    postgresql_under_load: "postgresql";
    redis_under_load: "redis";
    nginx_under_load: "nginx";
    node_with_its_client: "node";
    curl_of_a_large_file: "download";
    asyncio_with_its_clients: "asyncio";
    sqlite_with_a_reader: "sqlite-writer";
    inotifywait_telling_of_files: "inotifywait";
    tail_following_a_file: "tail";
    make_with_four_compilers: "make";
}

#[test]
fn every_program_is_moved() {
    for program in Program::all() {
        let moved = MOVED.contains(&program.name);
        assert!(moved, "{} is moved by no test", program.name);
    }
}

/// A sleep goes on sleeping wherever it is, and the time under way counts.
#[test]
fn a_sleep_of_three_seconds_takes_three_seconds() {
    let lab = Lab::up(3);
    let slept = run::moved(&lab, Program::named("sleep")).expect("the sleep ends well");
    let pauses = pauses(&slept.moves);
    println!("slept {:?} with pauses of {pauses:?}", slept.took);
    let wanted = Duration::from_secs(3);
    assert!(slept.moves.len() >= 10, "{} moves", slept.moves.len());
    assert!(slept.took + pauses >= wanted, "only {:?}", slept.took);
    assert!(slept.took <= wanted + pauses + SLACK, "{:?}", slept.took);
    lab.down_and_check();
}

fn one(lab: &Lab, program: Program) -> Result<()> {
    let stayed = run::unmoved(lab, program).context("unmoved")?;
    let moved = run::moved(lab, program).context("moved")?;
    println!(
        "{}: unmoved {:?}; moved {} times {:?}, of which {:?} paused",
        program.name,
        stayed.took,
        moved.moves.len(),
        moved.took,
        pauses(&moved.moves)
    );
    ensure!(moved.result == stayed.result, "the results differ");
    let moves = moved.moves.len();
    ensure!(
        moves >= program.moves,
        "only {moves} moves in {:?}",
        moved.took
    );
    Ok(())
}

fn pauses(moves: &[MoveReport]) -> Duration {
    Duration::from_micros(moves.iter().map(|one| one.pause_us).sum())
}
