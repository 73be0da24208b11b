//! Freezing and killing by cgroup v2, tried on a leaf and a child of our own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use procfs::process::Process;

use super::Seen::{self, Fails, InPart, Works};
use crate::sys::probe::Idler;

/// How long the kernel may take to freeze, thaw or kill one sleeping process.
const PATIENCE: Duration = Duration::from_secs(3);

/// Finds the mount, makes a leaf, freezes, thaws and kills a child in it.
pub(super) fn freezer() -> Seen {
    let Some(root) = mount_point() else {
        return Fails("cgroup2 is not mounted".to_owned());
    };
    match try_leaf(&root) {
        Ok(()) => Works(format!("{} freezes and kills", root.display())),
        Err(Trouble { step, source }) if step == KILL => {
            InPart(format!("{}: {step}: {source}", root.display()))
        }
        Err(Trouble { step, source }) => Fails(format!("{}: {step}: {source}", root.display())),
    }
}

/// Leaves that probes of this process have made and that are still there.
#[cfg(test)]
pub(super) fn leaves_of_this_process() -> Vec<PathBuf> {
    let root = mount_point().expect("a cgroup2 mount");
    let mine = format!("mig-doctor-{}-", std::process::id());
    let entries = fs::read_dir(root).expect("the mount can be read").flatten();
    let paths = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&mine));
    paths.map(|entry| entry.path()).collect()
}

const KILL: &str = "killing by cgroup.kill";

struct Trouble {
    step: &'static str,
    source: io::Error,
}

fn mount_point() -> Option<PathBuf> {
    let mounts = Process::myself().ok()?.mountinfo().ok()?;
    let cgroup2 = mounts
        .0
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2");
    cgroup2.map(|mount| mount.mount_point)
}

fn try_leaf(root: &Path) -> Result<(), Trouble> {
    let at = |step| move |source| Trouble { step, source };
    let leaf = Leaf::make(root).map_err(at("making a group"))?;
    let child = Idler::spawn().map_err(|e| at("making a child")(e.into()))?;
    let pid = child.pid().to_string();
    let write = |file: &str, text: &str| fs::write(leaf.0.join(file), text);
    write("cgroup.procs", &pid).map_err(at("moving a process into the group"))?;
    for (value, step) in [("1", "freezing"), ("0", "thawing")] {
        write("cgroup.freeze", value).map_err(at(step))?;
        leaf.wait_frozen(value).map_err(at(step))?;
    }
    write("cgroup.kill", "1").map_err(at(KILL))?;
    if child.has_died(PATIENCE) {
        Ok(())
    } else {
        Err(at(KILL)(io::ErrorKind::TimedOut.into()))
    }
}

/// A group that goes when this does. The child in it is dropped before.
struct Leaf(PathBuf);

impl Leaf {
    fn make(root: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("mig-doctor-{}-{count}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn wait_frozen(&self, value: &str) -> io::Result<()> {
        let wanted = format!("frozen {value}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = fs::read_to_string(self.0.join("cgroup.events"))?;
            if events.lines().any(|line| line == wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // EBUSY while the kernel is still taking the dead child out.
        let deadline = Instant::now() + PATIENCE;
        while let Err(e) = fs::remove_dir(&self.0) {
            if e.raw_os_error() != Some(nix::libc::EBUSY) || Instant::now() > deadline {
                tracing::warn!(group = %self.0.display(), error = %e, "a group of the probes stays behind");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
