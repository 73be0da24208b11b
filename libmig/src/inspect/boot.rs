//! Which run of which kernel this is.

use std::{fs, io};

/// `/proc/sys/kernel/random/boot_id`: the same for all that runs on one kernel,
/// whatever its namespaces, and another one after each start.
///
/// # Errors
/// `/proc` is not there.
pub fn id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}
