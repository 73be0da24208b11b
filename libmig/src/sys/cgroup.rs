//! The job's cgroup (v2): where its processes are born, held and ended.
//!
//! The hold is the freezer: a task that is in a ptrace stop when its cgroup is
//! frozen stays frozen when it is detached or its tracer dies.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::HostPid;

/// How long the kernel may take to freeze or to end a job's processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cgroup directory that holds the processes of one job on this node.
#[derive(Debug, Clone)]
pub struct JobGroup {
    path: PathBuf,
}

impl JobGroup {
    /// The cgroup at `path`; it exists.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Moves a process in; its children are born there.
    ///
    /// # Errors
    /// When there is no such cgroup or process.
    pub fn adopt(&self, process: HostPid) -> io::Result<()> {
        self.write("cgroup.procs", &process.to_string())
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The processes in it.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn members(&self) -> io::Result<BTreeSet<HostPid>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        let ids = text.lines().filter_map(|line| line.parse().ok());
        Ok(ids.map(HostPid::new).collect())
    }

    /// Freezes all, and waits until they are.
    ///
    /// # Errors
    /// `TimedOut` when one of them does not freeze.
    pub fn freeze(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "1")?;
        self.wait_for("frozen 1")
    }

    /// Whether all are frozen.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn is_frozen(&self) -> io::Result<bool> {
        let events = fs::read_to_string(self.path.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "frozen 1"))
    }

    /// Lets all run.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn thaw(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// Sends SIGKILL to all.
    ///
    /// # Errors
    /// When the cgroup is gone, or before Linux 5.14.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Waits until nobody is left, not even a zombie that its tracer has not seen.
    ///
    /// # Errors
    /// `TimedOut` when one of them stays.
    pub fn wait_empty(&self) -> io::Result<()> {
        self.wait_for("populated 0")
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }

    fn wait_for(&self, line: &str) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::ZERO;
        while !fs::read_to_string(self.path.join("cgroup.events"))?
            .lines()
            .any(|found| found == line)
        {
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("cgroup never came to `{line}`"),
                ));
            }
            thread::sleep(pause);
            pause = (pause + Duration::from_micros(20)).min(Duration::from_millis(2));
        }
        Ok(())
    }
}
