//! Compiles the workload programs with gcc.
//!
//! The file name carries a hash of the source, the header and the flags, so that what is there is right and test processes
//! that build at the same time do no harm to each other.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Workload;

/// `-mno-red-zone` and `-mxsave` are for the register workload's assembly.
const FLAGS: &[&str] = &[
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
    "-mno-red-zone",
    "-mxsave",
];

/// The compiled program, in the workspace's target directory.
///
/// # Errors
/// No gcc, or the source does not compile; the message has the compiler's words.
pub fn build(workload: &Workload) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| sources().join("../../target"), PathBuf::from);
    let target = target.canonicalize().unwrap_or(target);
    // A lab's nodes have a /tmp and a /run of their own.
    let hidden = ["/tmp", "/run"].iter().any(|own| target.starts_with(own));
    let folder = if hidden {
        PathBuf::from("/var/tmp/mig-workloads")
    } else {
        target.join("workloads")
    };
    build_program(workload.program, &folder)
}

/// Compiles every program into `directory`: the map leads from program name to file.
///
/// # Errors
/// As [`build`].
pub fn build_all(directory: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut built = BTreeMap::new();
    for workload in Workload::all() {
        if !built.contains_key(workload.program) {
            built.insert(
                workload.program,
                build_program(workload.program, directory)?,
            );
        }
    }
    Ok(built)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")
}

fn build_program(program: &str, directory: &Path) -> Result<PathBuf> {
    let source = sources().join(format!("{program}.c"));
    let mut hasher = DefaultHasher::new();
    for file in [&source, &sources().join("workload.h")] {
        std::fs::read(file)
            .with_context(|| format!("reading {}", file.display()))?
            .hash(&mut hasher);
    }
    FLAGS.hash(&mut hasher);
    let output = directory.join(format!("{program}-{:016x}", hasher.finish()));
    if output.exists() {
        return Ok(output);
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("making {}", directory.display()))?;
    // The linker writes in place: only a link makes a whole program appear at once. (Not a rename: a test that builds
    // at the same time may run the program by now, and one whose file was replaced cannot move.)
    let partial = tempfile::Builder::new()
        .prefix(program)
        .tempdir_in(directory)?;
    let fresh = partial.path().join("program");
    let result = Command::new("gcc")
        .args(FLAGS)
        .arg("-o")
        .arg(&fresh)
        .arg(&source)
        .output()
        .context("starting gcc")?;
    ensure!(
        result.status.success(),
        "gcc {}: {}",
        source.display(),
        String::from_utf8_lossy(&result.stderr)
    );
    match std::fs::hard_link(&fresh, &output) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("placing {}", output.display()))
        }
        _ => Ok(output),
    }
}
