//! Victims: small self-checking C programs, compiled once per test binary,
//! that say "ready" and then behave as their name tells.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use libmig::sys::HostPid;

/// A running victim. Killed when dropped.
pub(crate) struct Victim {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Victim {
    /// Compiles and starts `tests/programs/NAME.c` and waits until it is ready.
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(compile(name));
        let mut child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut victim = Self { child, output };
        assert_eq!(victim.line(), "ready");
        victim
    }

    /// As [`Self::start`], below a process that stands for the capsule's init.
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub(crate) fn start_below_init(name: &str, args: &[&str]) -> Self {
        let program = compile(name);
        let mut arguments = vec![program.to_str().unwrap()];
        arguments.extend(args);
        Self::start("init", &arguments)
    }

    /// The init of the pid namespace that [`Self::start_below_init`] made.
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub(crate) fn init(&self) -> HostPid {
        libmig::inspect::process::children(self.pid()).unwrap()[0]
    }

    pub(crate) fn pid(&self) -> HostPid {
        HostPid::new(self.child.id().try_into().unwrap())
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for its end.
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub(crate) fn status(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for its end; the program checks itself and says "ok".
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub(crate) fn assert_unharmed(mut self) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert!(
            status.success() && rest.trim_end().ends_with("ok"),
            "{status}: {rest}"
        );
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Compiles a program of `tests/programs` into the target folder.
pub(crate) fn compile(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(format!("{name}.c"));
    // Several tests compile at a time: each its own file.
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{name}-{}-{}",
        std::process::id(),
        unique()
    ));
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-pthread", "-o"])
        .arg(&binary)
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success(), "cannot compile {}", source.display());
    binary
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Polls a condition, with a deadline.
#[allow(dead_code, reason = "not every test binary needs it")]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
