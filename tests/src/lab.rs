//! [`Lab`]: a cluster on this machine for one test, through `mig lab`.
//!
//! Invariant: a lab of a test has a name that no other has, and is gone when the value is dropped,
//! also when the test panics; what a test started in it is gone with it. Tests run as root.

mod traces;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde::Deserialize;

use traces::Traces;

/// The folder that all nodes of a lab see.
pub const SHARED: &str = "/shared";

/// How long what is asynchronous in the kernel may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A program of this workspace, `mig` or `migd`, as built beside this test.
///
/// # Panics
/// When it has not been built: cargo builds the tests of this crate without the programs they start.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a file");
    // target/<profile>/deps/<test>
    let folders = test.ancestors().skip(1).take(2);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{name} has not been built for {}; build it: cargo build --workspace",
            test.display()
        )
    })
}

/// Polls until `condition` holds.
///
/// # Panics
/// When it does not within ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "in {DEADLINE:?} it did not come true: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `test` in a lab of three nodes, which must come down without a trace.
///
/// # Panics
/// When it fails.
pub fn in_a_lab(test: impl FnOnce(&Lab) -> anyhow::Result<()>) {
    let lab = Lab::up(3);
    if let Err(error) = test(&lab) {
        panic!("{error:#}");
    }
    lab.down_and_check();
}

/// A lab of a test.
#[derive(Debug)]
pub struct Lab {
    name: String,
    traces: Traces,
}

impl Lab {
    /// A lab of n1 to n`nodes` whose jobs stay where they are put.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn up(nodes: u8) -> Self {
        Self::up_with(nodes, &["--no-balance"])
    }

    /// A lab of n1 to n`nodes` that spread the load.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn balanced(nodes: u8) -> Self {
        Self::up_with(nodes, &[])
    }

    /// A lab made with these options of `mig lab up`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn up_with(nodes: u8, options: &[&str]) -> Self {
        // Made first: dropped, it removes what a failing `up` might leave.
        let mut lab = Self::unborn();
        let output = lab
            .command(&["up", &nodes.to_string()])
            .args(options)
            .output();
        let output = output.expect("start mig");
        assert!(
            output.status.success(),
            "mig lab up failed:\n{}",
            text(&output.stderr)
        );
        lab.traces.record(&lab.status());
        lab
    }

    /// A name for a lab, with nothing made yet.
    #[must_use]
    pub fn unborn() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = nix::unistd::geteuid().is_root();
        assert!(
            root,
            "a lab makes namespaces and mounts: run the tests as root"
        );
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{count}", std::process::id());
        Self {
            name,
            traces: Traces::before(),
        }
    }

    /// Its name, as for `mig lab --name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `mig lab` for this lab with these arguments; not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("mig"));
        command.args(["lab", "--name", &self.name]).args(arguments);
        command
    }

    /// Runs `mig lab` for this lab.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().expect("start mig");
        let errors = text(&output.stderr);
        assert!(
            output.status.success(),
            "mig lab {arguments:?} failed:\n{errors}"
        );
    }

    /// A node, by name.
    #[must_use]
    pub fn node<'a>(&'a self, name: &'a str) -> Node<'a> {
        Node { lab: self, name }
    }

    /// Loses every packet between two nodes.
    pub fn cut(&self, one: &str, other: &str) {
        self.run(&["cut", one, other]);
    }

    /// Mends all cuts.
    pub fn heal(&self) {
        self.run(&["heal"]);
    }

    /// What `mig lab status --json` says.
    ///
    /// # Panics
    /// When there is no such lab.
    #[must_use]
    pub fn status(&self) -> Status {
        let output = self
            .command(&["status", "--json"])
            .output()
            .expect("start mig");
        assert!(
            output.status.success(),
            "mig lab status failed:\n{}",
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("the documented shape")
    }

    /// The lab's folder on this machine, with the logs of its nodes.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new("/run/mig-lab").join(&self.name)
    }

    /// What the init of a node and its migd have said so far.
    #[must_use]
    pub fn log(&self, node: &str) -> String {
        text(&fs::read(self.dir().join(format!("{node}.log"))).unwrap_or_default())
    }

    /// Removes the lab and checks that nothing is left of it.
    ///
    /// # Panics
    /// When something is.
    pub fn down_and_check(&self) {
        self.run(&["down"]);
        self.assert_clean();
    }

    /// Checks that nothing of the lab is left on the machine.
    ///
    /// # Panics
    /// When something is; it says what.
    pub fn assert_clean(&self) {
        let left = self.traces.left(&self.name);
        assert!(
            left.is_empty(),
            "of lab {} is left:\n  {}",
            self.name,
            left.join("\n  ")
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in ["n1", "n2", "n3"] {
                eprintln!("--- log of {node}:\n{}", self.log(node));
            }
        }
        let output = self.command(&["down"]).output().expect("start mig");
        if !output.status.success() {
            eprintln!("mig lab down failed:\n{}", text(&output.stderr));
            assert!(
                std::thread::panicking(),
                "lab {} could not be removed",
                self.name
            );
        }
    }
}

/// A node of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    lab: &'a Lab,
    name: &'a str,
}

impl Node<'_> {
    /// A command in the node, as root; not started yet. Its stdin is empty unless it is set.
    #[must_use]
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Command {
        let mut command = self.lab.command(&["shell", self.name, "--"]);
        command
            .args(argv.iter().map(AsRef::as_ref))
            .stdin(Stdio::null());
        command
    }

    /// A command in the node as another user.
    #[must_use]
    pub fn command_as<S: AsRef<str>>(&self, user: &str, argv: &[S]) -> Command {
        let mut command = self
            .lab
            .command(&["shell", self.name, "--user", user, "--"]);
        command
            .args(argv.iter().map(AsRef::as_ref))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command in the node to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Output {
        self.command(argv).output().expect("start mig")
    }

    /// Starts a command in the node, with pipes at its stdin, stdout and stderr.
    ///
    /// Killed, it leaves what it started in the node: end it by a signal that can be forwarded.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn<S: AsRef<str>>(&self, argv: &[S]) -> Child {
        let mut command = self.command(argv);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("start mig")
    }

    /// Runs a shell script in the node and returns its stdout.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(&["sh", "-ec", script]);
        let errors = text(&output.stderr);
        assert!(
            output.status.success(),
            "on {}, `{script}` failed:\n{errors}",
            self.name
        );
        text(&output.stdout)
    }

    /// Runs `mig` in the node.
    #[must_use]
    pub fn mig<S: AsRef<str>>(&self, arguments: &[S]) -> Output {
        let words = arguments.iter().map(|word| word.as_ref().to_owned());
        self.run(
            &std::iter::once("mig".to_owned())
                .chain(words)
                .collect::<Vec<_>>(),
        )
    }

    /// Kills migd as a crash would.
    pub fn kill_migd(&self) {
        self.lab.run(&["migd", self.name, "kill"]);
    }

    /// Starts migd and waits until it answers.
    pub fn start_migd(&self) {
        self.lab.run(&["migd", self.name, "start"]);
    }

    /// What it looks like from the machine.
    ///
    /// # Panics
    /// When the lab has no such node.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let nodes = self.lab.status().nodes;
        let found = nodes.into_iter().find(|node| node.name == self.name);
        found.unwrap_or_else(|| panic!("no node {}", self.name))
    }
}

/// `mig lab status --json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The lab's name.
    pub name: String,
    /// Whether its keeper lives.
    pub up: bool,
    /// The keeper's pid.
    pub keeper: Option<i32>,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Pairs of nodes that do not hear each other.
    pub cuts: Vec<(String, String)>,
}

/// A node in `mig lab status --json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStatus {
    /// n1, n2, ...
    pub name: String,
    /// On the lab's network.
    pub address: String,
    /// The node's init on this machine.
    pub pid: Option<i32>,
    /// migd in the node.
    pub migd_pid: Option<i32>,
    /// Whether migd answers.
    pub migd: bool,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// CPUs kept busy.
    pub load: f64,
    /// How many processes run in it.
    pub processes: usize,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
