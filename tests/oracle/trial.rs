//! One workload: started, captured, restored in another capsule, captured again, compared; then let go to check itself.

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use libmig::capture::files::{CapsuleStdio, StdioEnd};
use libmig::capture::freeze;
use libmig::image::{Stdio, Tty};
use libmig::inspect::fd;
use libmig::inspect::process;
use libmig::restore::{Complete, RestoreHost, prepare};
use libmig::sys::HostPid;
use libmig::sys::cgroup::JobGroup;
use mig_tests::workload::{Running, Workload, build};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use rustix::fs::fstat;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::capsule::{self, Capsule};
use crate::difference;
use crate::pages::live;
use crate::snapshot::{self, Snapshot};

/// Fails with every difference, or with what the workload found afterwards.
pub(super) fn run(workload: &Workload) -> Result<()> {
    let directory = match workload.name {
        // It looks at inodes: what a job has made in a temporary directory is made anew.
        "identity-root" => tempfile::tempdir_in("/srv")?,
        _ => tempfile::tempdir()?,
    };
    let argv = workload.argv(&build(workload)?, directory.path());
    let running = Running::launch(&argv, |argv| {
        let mut command = capsule::source(&argv.join(" "));
        let piped = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        Ok(piped.spawn()?)
    })?;
    running.wait_ready()?;
    running.wait_tick_after(0)?;
    let source = capsule::init_below(running.pid());
    let mut pipes = Pipes::of(source)?;
    let stdio = pipes.stdio(source)?;

    let (frozen, before) =
        snapshot::freeze_and_take(source, &stdio).context("the first capture")?;
    let capsule = Capsule::new();
    let complete = restore(&capsule, &before, &mut pipes).context("the restore")?;
    let init = capsule.reference().init;
    let processes = complete.processes().to_vec();
    let restored: Vec<HostPid> = processes.iter().map(|(_, host)| *host).collect();
    capsule::wait_reaped(init, &restored);
    // The original must not come back.
    let originals: Vec<HostPid> = frozen.processes().chain([source]).collect();
    for original in originals {
        match kill(original.into(), Signal::SIGKILL) {
            // A zombie that its parent waited for.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    drop(frozen);
    // Held by the tracer before the freezer lets go: nothing of it has run when it is captured.
    let mut again = freeze(init).context("the freeze of what was restored")?;
    let waiting = complete.waiting().to_vec();
    complete.release()?;
    let stdio = pipes.stdio(init)?;
    let mut after = snapshot::take(&mut again, &stdio).context("the second capture")?;
    let complete = waiting.is_empty();
    after.image.locks.extend(waiting);

    let ticks = running.ticks();
    // As a job runs again after a move: all at once, and none seen traced.
    let group = JobGroup::new(capsule.reference().cgroup_job);
    again.hold(&group)?;
    again.release_tracing()?;
    wait_stopped(&processes, &after);
    group.thaw()?;
    let differences = difference::between(&before, &after);
    ensure!(
        differences.is_empty(),
        "{} differences:\n  {}",
        differences.len(),
        differences.join("\n  ")
    );
    if !complete {
        // Whoever conducts the move takes these locks when the source is gone: see tests/moves/locks.rs.
        return Ok(());
    }
    let tick = running.wait_tick_after(ticks)?;
    running.wait_tick_after(tick)?;
    let outcome = running.finish()?;
    // What `running` started was the original.
    ensure!(
        outcome.passed && outcome.failure.is_none(),
        "restored, it found: {outcome:?}"
    );
    Ok(())
}

/// A process that no tracer holds any more goes back into its job control stop by itself.
fn wait_stopped(processes: &[(i32, HostPid)], snapshot: &Snapshot) {
    let stopped = |pid| live(&snapshot.image).any(|(of, live)| of == pid && live.stopped.is_some());
    for (_, host) in processes.iter().filter(|(pid, _)| stopped(*pid)) {
        capsule::until("a process to be stopped again", || {
            let stat = process::stat(*host).ok()?;
            (stat.state == b'T').then_some(())
        });
    }
}

fn restore(capsule: &Capsule, snapshot: &Snapshot, pipes: &mut Pipes) -> Result<Complete> {
    let mut building = prepare(&capsule.reference())?.build(&snapshot.image, pipes)?;
    for (place, bytes) in &snapshot.pages {
        building.bulk(place.target(), bytes)?;
    }
    Ok(building.finish(&snapshot.image)?)
}

/// The pipes to the test, which stay the same wherever the program is.
struct Pipes {
    input: OwnedFd,
    output: OwnedFd,
}

impl Pipes {
    fn of(init: HostPid) -> Result<Self> {
        let pid = Pid::from_raw(init.raw()).context("a process ID")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let end = |number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty());
        Ok(Self {
            input: end(0)?,
            output: end(1)?,
        })
    }

    fn stdio(&self, init: HostPid) -> Result<CapsuleStdio> {
        let end = |file: &OwnedFd, stream| {
            let stat = fstat(file)?;
            Ok(StdioEnd {
                device: stat.st_dev,
                inode: stat.st_ino,
                stream,
            })
        };
        let ends = [(&self.input, Stdio::In), (&self.output, Stdio::Out)];
        let streams = ends.map(|(file, stream)| end(file, stream));
        Ok(CapsuleStdio {
            streams: streams.into_iter().collect::<Result<_>>()?,
            console: None,
            root: Some(fd::root(init)?),
        })
    }
}

impl RestoreHost for Pipes {
    fn stdio(&mut self, which: Stdio) -> io::Result<OwnedFd> {
        match which {
            Stdio::In => Ok(self.input.try_clone()?),
            Stdio::Out => Ok(self.output.try_clone()?),
            Stdio::Err => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn console(&mut self, _: &Tty) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn console_master(&mut self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn names(&mut self, _: &[libmig::restore::StagedName]) -> io::Result<()> {
        Ok(())
    }
}
