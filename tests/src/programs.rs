//! Real programs for moves: what to prepare, what to run, and how to tell that the result is right.
//!
//! None of them knows about the tests. Each works for some seconds on one core with input generated from a seed, and writes its
//! result into the directory it is given (under `/shared` in a lab). The result must equal that of an unmoved run, byte for byte
//! where the program promises so, else in what it says. They need the packages in `tests/packages.txt`.

mod inputs;
mod jobs;
mod results;
mod servers;
mod web;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

type Setup = fn(&Path) -> Result<()>;
type Digest = fn(&Path, &[u8]) -> Result<Vec<u8>>;

/// The file that tells a program that it has worked enough.
pub const ENOUGH: &str = "enough";

/// A real program with its input.
#[derive(Clone, Copy)]
pub struct Program {
    /// Name for test names and messages.
    pub name: &'static str,
    /// Shell words of the command; it runs in the directory that was set up.
    command: &'static [&'static str],
    /// What is typed on its stdin; most read nothing.
    pub input: &'static str,
    /// Whether it is interactive and must be given a terminal.
    pub terminal: bool,
    /// It is to be moved so often at least.
    pub moves: usize,
    /// It ends when the file [`ENOUGH`] is in its directory.
    pub until_told: bool,
    setup: Setup,
    digest: Digest,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("name", &self.name)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl Program {
    const fn of(
        name: &'static str,
        command: &'static [&'static str],
        setup: Setup,
        digest: Digest,
    ) -> Self {
        Self {
            name,
            command,
            input: "",
            terminal: false,
            moves: 10,
            until_told: false,
            setup,
            digest,
        }
    }

    const fn moved(self, moves: usize) -> Self {
        Self { moves, ..self }
    }

    const fn until_told(self) -> Self {
        Self {
            until_told: true,
            ..self
        }
    }

    const fn typed(self, input: &'static str) -> Self {
        Self {
            input,
            terminal: true,
            ..self
        }
    }

    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        [PROGRAMS, servers::SERVERS].concat()
    }

    /// The one with this name.
    ///
    /// # Panics
    /// When there is none: the name is a test's constant.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let mut all = Self::all().into_iter();
        let found = all.find(|program| program.name == name);
        found.unwrap_or_else(|| panic!("no program {name}"))
    }

    /// Writes its input into `directory`, which must exist.
    ///
    /// # Errors
    /// The input cannot be written.
    pub fn set_up(&self, directory: &Path) -> Result<()> {
        (self.setup)(directory)
    }

    /// The command line, which changes to `directory` first.
    #[must_use]
    pub fn argv(&self, directory: &Path) -> Vec<String> {
        let directory: PathBuf = directory.into();
        let enter = "cd \"$0\" && exec \"$@\"".to_owned();
        let mut argv = vec![
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            enter,
            directory.display().to_string(),
        ];
        argv.extend(self.command.iter().map(ToString::to_string));
        argv
    }

    /// What counts of a finished run with this stdout: equal for any two runs, moved or not.
    ///
    /// # Errors
    /// The result is missing, or is wrong by itself (it does not unpack, the database is damaged).
    pub fn result(&self, directory: &Path, stdout: &[u8]) -> Result<Vec<u8>> {
        (self.digest)(directory, stdout)
    }
}

const PROGRAMS: &[Program] = &[
    Program::of(
        "python-threads",
        &["/usr/bin/python3", "-u", "threads.py"],
        inputs::python_threads,
        results::stdout,
    ),
    Program::of(
        "python-multiprocessing",
        &["/usr/bin/python3", "-u", "processes.py"],
        inputs::python_multiprocessing,
        results::stdout,
    ),
    Program::of(
        "python-numpy",
        &["/usr/bin/python3", "-u", "matrices.py"],
        inputs::python_numpy,
        results::stdout,
    ),
    Program::of(
        "bash-pipelines",
        &["/bin/bash", "pipelines.sh"],
        inputs::bash_pipelines,
        results::pipelines,
    ),
    Program::of(
        "bubblewrap",
        &["/bin/bash", "outside.sh"],
        jobs::bubblewrap,
        results::sandbox,
    ),
    Program::of(
        "xz",
        &[
            "xz",
            "-T2",
            "-6",
            "--block-size=1MiB",
            "--keep",
            "--force",
            "text",
        ],
        inputs::xz,
        results::xz,
    ),
    Program::of(
        "sqlite3",
        &["sqlite3", "-batch", "result.db", ".read statements.sql"],
        inputs::sqlite,
        results::sqlite,
    ),
    Program::of(
        "gcc",
        // Its parts hand each other files, which must be where all nodes see them.
        &[
            "env",
            "TMPDIR=.",
            "gcc",
            "-O2",
            "-frandom-seed=mig",
            "-c",
            "large.c",
            "-o",
            "large.o",
        ],
        inputs::gcc,
        results::object,
    ),
    Program::of(
        "bash-interactive",
        &["/bin/bash", "--norc", "--noprofile", "-i"],
        inputs::nothing,
        results::interactive,
    )
    .typed(inputs::TYPED),
    Program::of("nginx", &["/bin/bash", "serve.sh"], web::nginx, web::wrk)
        .moved(20)
        .until_told(),
    Program::of("node", &["node", "client.js"], web::node, results::stdout).until_told(),
    Program::of(
        "download",
        &["/bin/bash", "download.sh"],
        web::download,
        results::stdout,
    ),
    Program::of(
        "asyncio",
        &["/usr/bin/python3", "-u", "echo.py"],
        web::asyncio,
        results::stdout,
    ),
    Program::of("sleep", &["sleep", "3"], inputs::nothing, results::stdout),
    Program::of(
        "java",
        // Started from its source: the compiler is the first that runs.
        &[
            "java",
            "-Xmx256m",
            "-XX:+UseG1GC",
            "-XX:ParallelGCThreads=4",
            "-XX:ConcGCThreads=2",
            "Work.java",
        ],
        jobs::java,
        results::stdout,
    )
    .moved(20),
    Program::of(
        "tail",
        &["/bin/bash", "follow.sh"],
        jobs::tail,
        results::stdout,
    )
    .moved(20),
    Program::of(
        "make",
        &["/bin/bash", "build.sh"],
        jobs::make,
        results::stdout,
    ),
    Program::of(
        "inotifywait",
        &["/bin/bash", "watch.sh"],
        jobs::inotifywait,
        results::stdout,
    )
    .moved(20),
];
