//! The self-checking programs of `tests/workloads`, and how a test runs one.
//!
//! A workload proves by itself that its state survived: it prints `ready`, then `tick N` while it checks that state,
//! and ends with `PASS` or `FAIL: what` (the protocol is in `workloads/workload.h`). Here are the table of all of them,
//! the compiler call, and [`Running`], which reads the lines of one. How it is started is the caller's: a plain child, `mig exec`
//! in a lab, a fresh pid namespace. Whole real programs are in [`crate::programs`].

mod build;
mod catalogue;
mod groups;
mod huge_pages;
mod running;

pub use build::{build, build_all};
pub use running::{Outcome, Running};

use std::path::Path;

/// A workload program with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Unique name, for test names and messages.
    pub name: &'static str,
    /// `tests/workloads/<program>.c`.
    pub program: &'static str,
    /// Arguments besides those of [`Workload::argv`].
    pub args: &'static [&'static str],
    /// The state whose survival it proves.
    pub proves: &'static str,
    /// What `--sabotage` can break in it; every one must make it fail.
    pub sabotages: &'static [&'static str],
    /// Whether SIGSTOP and SIGCONT, or a plain ptrace stop, leave it alone. Not so for the calls in which the kernel reports EINTR
    /// then (`epoll_wait`, `sigtimedwait`), and for programs that watch their own stops.
    pub stoppable: bool,
    /// Whether it is one process with one thread.
    pub single: bool,
    /// Milliseconds between two ticks at most, on an idle machine.
    pub tick_ms: u32,
}

impl Workload {
    /// Every workload.
    pub fn all() -> Vec<Self> {
        catalogue::all()
    }

    /// The one with this name.
    ///
    /// # Panics
    /// When there is none: the name is a test's constant.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let found = Self::all()
            .into_iter()
            .find(|workload| workload.name == name);
        found.unwrap_or_else(|| panic!("no workload {name}"))
    }

    /// The command line: `program` as [`build()`] returned it, and files written under `dir`.
    #[must_use]
    pub fn argv(&self, program: &Path, dir: &Path) -> Vec<String> {
        let mut argv = vec![
            program.display().to_string(),
            "--dir".into(),
            dir.display().to_string(),
        ];
        argv.extend(self.args.iter().map(ToString::to_string));
        argv
    }

    const fn new(
        name: &'static str,
        program: &'static str,
        args: &'static [&'static str],
        proves: &'static str,
    ) -> Self {
        Self {
            name,
            program,
            args,
            proves,
            sabotages: &[],
            stoppable: true,
            single: false,
            tick_ms: 100,
        }
    }

    const fn broken_by(mut self, sabotages: &'static [&'static str]) -> Self {
        self.sabotages = sabotages;
        self
    }

    const fn single(mut self) -> Self {
        self.single = true;
        self
    }

    const fn ticking_every(mut self, milliseconds: u32) -> Self {
        self.tick_ms = milliseconds;
        self
    }

    const fn not_stoppable(mut self) -> Self {
        self.stoppable = false;
        self
    }
}
