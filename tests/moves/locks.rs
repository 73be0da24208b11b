//! Locks of a job on files that others see too: nobody else gets them, wherever the job goes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libmig::image::{FileLock, LockKind};
use libmig::sys::lock::{self, Access};
use mig_tests::job::Job;
use mig_tests::lab::{Lab, SHARED};
use mig_tests::workload::Workload;

/// Where the job goes, again and again.
const TOUR: [&str; 3] = ["n2", "n3", "n1"];
const MOVES: usize = 12;

#[test]
fn nobody_else_gets_a_posix_lock() {
    guarded("locks-posix", LockKind::Process);
}

#[test]
fn nobody_else_gets_a_lock_of_a_description() {
    guarded("locks-ofd", LockKind::Description);
}

#[test]
fn nobody_else_gets_a_lock_by_flock() {
    guarded("locks-flock", LockKind::Flock);
}

fn guarded(workload: &str, kind: LockKind) {
    let lab = Lab::up(3);
    if let Err(error) = moves_with_outsider(&lab, workload, kind) {
        panic!("{error:#}");
    }
    lab.down_and_check();
}

fn moves_with_outsider(lab: &Lab, workload: &str, kind: LockKind) -> Result<()> {
    let job = Job::start(lab, "n1", workload, &Workload::named(workload))?;
    let outsider = Outsider {
        file: locked_file(lab, workload)?,
        // A byte that the workload has for itself alone.
        lock: FileLock {
            kind,
            exclusive: true,
            start: 1 << 30,
            length: 1,
            pid: 0,
            number: 0,
            file: 0,
        },
    };
    let (phase, ended) = (AtomicU32::new(0), AtomicBool::new(false));
    let (moved, takings) = std::thread::scope(|scope| {
        let polling = scope.spawn(|| outsider.poll(&phase, &ended));
        let moved = tour(&job, &phase);
        ended.store(true, Ordering::SeqCst);
        (moved, polling.join().expect("the outsider does not panic"))
    });
    let (longest, takings) = (moved?, takings?);
    let Takings {
        polls,
        at_rest,
        exclusive,
        shared,
        ..
    } = takings;
    println!(
        "{workload}: {polls} polls; taken {exclusive} and {shared} times in {} moves, for {:?} at most; longest pause {longest:?}",
        takings.windows.len(),
        takings.widest()
    );
    ensure!(polls > 1000, "it was hardly looked at: {polls} times");
    ensure!(
        at_rest == 0,
        "it was free while the job ran: {at_rest} of {polls} times"
    );
    ensure!(
        exclusive == 0,
        "somebody else had it for himself {exclusive} times"
    );
    job.finish()?.expect_pass()
}

/// Counts the phase up when a move begins and when it has ended; returns the longest pause.
fn tour(job: &Job<'_>, phase: &AtomicU32) -> Result<Duration> {
    let mut longest = 0;
    for node in TOUR.iter().cycle().take(MOVES) {
        let before = job.running.ticks();
        phase.fetch_add(1, Ordering::SeqCst);
        let moved = job.move_to(node);
        phase.fetch_add(1, Ordering::SeqCst);
        longest = longest.max(moved?.pause_us);
        job.running.wait_tick_after(before + 1)?;
    }
    Ok(Duration::from_micros(longest))
}

/// The file as this machine sees it: the same that all nodes of the lab see.
fn locked_file(lab: &Lab, name: &str) -> Result<File> {
    let init = lab.node("n1").status().pid.context("n1 has an init")?;
    let folder = PathBuf::from(format!("/proc/{init}/root{SHARED}/{name}"));
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("locked.") {
            let path = entry.path();
            let opened = File::options().read(true).write(true).open(&path);
            return opened.with_context(|| path.display().to_string());
        }
    }
    anyhow::bail!("no locked file in {}", folder.display())
}

/// Somebody who is not part of the job, and wants its lock.
struct Outsider {
    file: File,
    lock: FileLock,
}

/// How often the outsider got it.
#[derive(Debug, Default)]
struct Takings {
    polls: u64,
    /// While no move was going on.
    at_rest: u64,
    /// During a move: for itself alone, or together with others.
    exclusive: u64,
    shared: u64,
    /// From the first of them to the last, by the move in which they were.
    windows: BTreeMap<u32, (Instant, Instant)>,
}

impl Takings {
    fn widest(&self) -> Duration {
        let windows = self.windows.values().map(|(first, last)| *last - *first);
        windows.max().unwrap_or_default()
    }
}

impl Outsider {
    fn poll(&self, phase: &AtomicU32, ended: &AtomicBool) -> Result<Takings> {
        let mut takings = Takings::default();
        while !ended.load(Ordering::SeqCst) {
            let before = phase.load(Ordering::SeqCst);
            let exclusive = self.gets(Access::Exclusive)?;
            // The kernel takes a read lock by flock away when it cannot become a write lock.
            let shared = self.lock.kind != LockKind::Flock && self.gets(Access::Shared)?;
            let after = phase.load(Ordering::SeqCst);
            takings.polls += 1;
            if !(exclusive || shared) {
                continue;
            }
            // An odd phase is a move.
            if before == after && before.is_multiple_of(2) {
                takings.at_rest += 1;
            }
            takings.exclusive += u64::from(exclusive);
            takings.shared += u64::from(shared);
            let now = Instant::now();
            let window = takings.windows.entry(before).or_insert((now, now));
            window.1 = now;
        }
        Ok(takings)
    }

    /// Tries to get the lock, and gives it back at once.
    fn gets(&self, access: Access) -> Result<bool> {
        let got = lock::set(&self.file, &self.lock, access)?;
        if got {
            lock::set(&self.file, &self.lock, Access::Unlocked)?;
        }
        Ok(got)
    }
}
