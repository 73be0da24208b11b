//! Probes that read what the kernel says about itself.

use std::{fs, os::unix::fs::MetadataExt};

use caps::{CapSet, Capability};
use procfs::KernelVersion;

use super::Seen::{self, Fails, InPart, Works};

/// Inode number of the initial user namespace: PROC_USER_INIT_INO, the same
/// since Linux 3.8 (include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

pub(super) fn kernel() -> Seen {
    let release = match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => release.trim().to_owned(),
        Err(e) => return Fails(format!("/proc/sys/kernel/osrelease: {e}")),
    };
    match KernelVersion::current() {
        Ok(version) if version >= KernelVersion::new(6, 7, 0) => Works(release),
        _ => Fails(release),
    }
}

pub(super) fn architecture() -> Seen {
    let machine = rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned();
    if machine == "x86_64" {
        Works(machine)
    } else {
        Fails(machine)
    }
}

pub(super) fn root() -> Seen {
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Fails(format!("uid {uid}"));
    }
    match fs::metadata("/proc/self/ns/user").map(|meta| meta.ino()) {
        Ok(INITIAL_USER_NAMESPACE) => Works("root".to_owned()),
        Ok(_) => InPart("root of a user namespace of its own".to_owned()),
        Err(e) => Fails(format!("/proc/self/ns/user: {e}")),
    }
}

pub(super) fn capability(capability: Capability) -> Seen {
    match caps::has_cap(None, CapSet::Effective, capability) {
        Ok(true) => Works("effective".to_owned()),
        Ok(false) => Fails("not effective".to_owned()),
        Err(e) => Fails(e.to_string()),
    }
}

pub(super) fn yama() -> Seen {
    // Scopes 0 to 2 let CAP_SYS_PTRACE trace everything; 3 lets nobody.
    match number("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(3) => Fails("ptrace_scope is 3".to_owned()),
        Ok(scope) => Works(format!("ptrace_scope is {scope}")),
        Err(_) => Works("not in this kernel".to_owned()),
    }
}

pub(super) fn map_files() -> Seen {
    let folder = "/proc/self/map_files";
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return Fails(format!("{folder}: {e}")),
    };
    let mut last = format!("{folder} is empty");
    // Mappings of this process may go away while its other threads run.
    for entry in entries.flatten().take(16) {
        match fs::File::open(entry.path()) {
            Ok(_) => return Works("can be opened".to_owned()),
            Err(e) => last = format!("{}: {e}", entry.path().display()),
        }
    }
    Fails(last)
}

pub(super) fn pid_max() -> Seen {
    match number("/proc/sys/kernel/pid_max") {
        Ok(max) if max < 32_768 => Fails(format!("{max}")),
        Ok(max) => Works(format!("{max}")),
        Err(e) => Fails(e),
    }
}

pub(super) fn overcommit() -> Seen {
    match number("/proc/sys/vm/overcommit_memory") {
        Ok(2) => Fails("2: strict".to_owned()),
        Ok(mode) => Works(format!("{mode}")),
        Err(e) => Fails(e),
    }
}

pub(super) fn huge_pages() -> Seen {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    match fs::read_to_string(path) {
        Ok(modes) if modes.contains("[never]") => Fails("never".to_owned()),
        Ok(modes) => Works(chosen(&modes).to_owned()),
        Err(e) => Fails(format!("{path}: {e}")),
    }
}

/// The word in brackets: `always [madvise] never`.
fn chosen(modes: &str) -> &str {
    let open = modes.split_once('[').map_or(modes, |(_, rest)| rest);
    open.split_once(']').map_or(open, |(word, _)| word).trim()
}

fn number(path: &str) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    text.trim().parse().map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_mode_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("odd\n"), "odd");
    }

    #[test]
    fn numbers_that_are_none_are_told_with_their_file() {
        assert!(number("/proc/sys/kernel/pid_max").unwrap() >= 300);
        let said = number("/proc/sys/kernel/osrelease").unwrap_err();
        assert!(said.starts_with("/proc/sys/kernel/osrelease: "), "{said}");
    }
}
