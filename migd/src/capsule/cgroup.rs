//! The cgroup v2 leaves of a job on a node: `mig/<job>/init` and `mig/<job>/job`.
//!
//! No controllers are needed: only `job` is ever frozen or killed. Made by the daemon.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use libmig::api::JobId;
use procfs::process::Process;

/// The two leaves, open.
#[derive(Debug)]
pub(crate) struct Leaves {
    pub(crate) init: File,
    pub(crate) job: File,
}

/// The folder below which those of all jobs are: `<cgroup root>/mig`.
///
/// # Errors
/// When no cgroup v2 file system is mounted.
pub fn all_jobs() -> Result<PathBuf> {
    Ok(root()?.join("mig"))
}

/// Folder of a job: `<cgroup root>/mig/<job>`.
///
/// # Errors
/// As [`all_jobs`].
pub(crate) fn folder(job: &JobId) -> Result<PathBuf> {
    Ok(all_jobs()?.join(job.to_string()))
}

/// Makes the leaves; they may exist.
pub(crate) fn make(job: &JobId) -> Result<Leaves> {
    let folder = folder(job)?;
    let leaf = |name: &str| -> Result<File> {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(File::open(path)?)
    };
    Ok(Leaves {
        init: leaf("init")?,
        job: leaf("job")?,
    })
}

/// Removes the leaves of a job that has ended. EBUSY means that it has not.
pub(crate) fn remove(job: &JobId) -> Result<()> {
    let folder = folder(job)?;
    for path in [folder.join("init"), folder.join("job"), folder] {
        match fs::remove_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{} cannot be removed", path.display()));
            }
            _ => (),
        }
    }
    Ok(())
}

/// Mount point of the cgroup v2 hierarchy.
fn root() -> Result<PathBuf> {
    let mounts = Process::myself()?.mountinfo()?;
    let mount = mounts.into_iter().find(|m| m.fs_type == "cgroup2");
    let path = mount
        .context("no cgroup2 file system is mounted")?
        .mount_point;
    Ok(if path == Path::new("") {
        "/".into()
    } else {
        path
    })
}
