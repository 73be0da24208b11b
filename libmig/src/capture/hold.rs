//! A freeze that outlives the daemon: the cgroup v2 freezer. A task in a ptrace
//! stop counts as frozen, stays so when its tracer goes, and never
//! returns to user mode; thawed, the kernel restarts its system call.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::CaptureError;

/// Freezing takes some 25 us; this is for a machine in trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// Freezes the cgroup of a job and waits until the kernel says that it is.
///
/// # Errors
/// When the cgroup cannot be frozen; it is then left thawed.
pub fn hold(cgroup: &Path) -> Result<(), CaptureError> {
    set(cgroup, "1")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = fs::read_to_string(cgroup.join("cgroup.events")).map_err(failed(cgroup))?;
        if events.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            set(cgroup, "0")?;
            return Err(failed(cgroup)(std::io::ErrorKind::TimedOut.into()));
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// Undoes [`hold`].
///
/// # Errors
/// When the cgroup is gone.
pub fn unhold(cgroup: &Path) -> Result<(), CaptureError> {
    set(cgroup, "0")
}

fn set(cgroup: &Path, value: &str) -> Result<(), CaptureError> {
    fs::write(cgroup.join("cgroup.freeze"), value).map_err(failed(cgroup))
}

fn failed(cgroup: &Path) -> impl FnOnce(std::io::Error) -> CaptureError {
    let path = cgroup.to_path_buf();
    move |source| CaptureError::Cgroup { path, source }
}
