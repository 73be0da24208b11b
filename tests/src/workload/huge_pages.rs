//! Lends the machine huge pages for as long as workloads need them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// Pages that the kernel makes when somebody wants one and takes back when they are free again: nothing is set aside.
const SWITCH: &str = "/proc/sys/vm/nr_overcommit_hugepages";
const ENOUGH: u64 = 128;
/// Who has it locked needs the pages; it says what the switch was before.
const BORROWERS: &str = "/run/lock/mig-tests-huge-pages";

/// While one of these lives, in any process, there are huge pages.
#[derive(Debug)]
pub(super) struct HugePages(File);

impl HugePages {
    /// Raises the limit unless it is raised.
    ///
    /// # Errors
    /// Nobody may: the tests run as root.
    pub(super) fn borrow() -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options
            .open(BORROWERS)
            .with_context(|| format!("opening {BORROWERS}"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        let now = fs::read_to_string(SWITCH)?;
        if now.trim().parse::<u64>()? < ENOUGH {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(now.as_bytes())?;
            fs::write(SWITCH, ENOUGH.to_string()).with_context(|| format!("writing {SWITCH}"))?;
        }
        flock(&file, FlockOperation::LockShared)?;
        Ok(Self(file))
    }
}

impl Drop for HugePages {
    /// The last one puts back what was there.
    fn drop(&mut self) {
        if flock(&self.0, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        let mut before = String::new();
        if self.0.rewind().is_ok() && self.0.read_to_string(&mut before).is_ok() {
            // Should it fail, pages may be made that nobody asks for.
            drop(fs::write(SWITCH, before.trim()));
        }
    }
}
