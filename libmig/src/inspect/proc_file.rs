//! Which open files of `/proc` can be opened again on another node.
//!
//! The processes of a job keep their IDs, so that what is below `/proc/PID` is
//! about the same process there. What is about the machine was a view of it
//! when it was read, and becomes one of the other machine. What is a handle
//! rather than a text (memory, links to files and namespaces), what takes
//! orders and what counts in units of one machine does not travel.

use crate::image::Pid;

/// Below `/proc/PID` and `/proc/PID/task/TID`.
const NOT_OF_PROCESS: &[&[u8]] = &[
    b"mem",
    b"pagemap",
    b"map_files",
    b"fd",
    b"fdinfo",
    b"ns",
    b"exe",
    b"cwd",
    b"root",
    b"clear_refs",
    b"task",
];
/// Below `/proc`: page frames, the kernel's memory and log, and key rings.
const NOT_OF_MACHINE: &[&[u8]] = &[
    b"kcore",
    b"vmcore",
    b"kmsg",
    b"kallsyms",
    b"kpagecount",
    b"kpageflags",
    b"kpagecgroup",
    b"sysrq-trigger",
    b"keys",
    b"key-users",
];

/// What a file of `/proc` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The node.
    Machine,
    /// A process.
    Process(Pid),
}

/// Judges by name and flags; nothing if it cannot travel.
#[must_use]
pub fn about(path: &[u8], flags: i32) -> Option<About> {
    if flags & libc::O_ACCMODE != libc::O_RDONLY {
        return None;
    }
    let below = match path.strip_prefix(b"/proc") {
        Some(b"") => return Some(About::Machine),
        Some(rest) => rest.strip_prefix(b"/")?,
        None => return None,
    };
    let mut parts = below.split(|byte| *byte == b'/');
    let first = parts.next()?;
    let Some(pid) = number(first) else {
        return (!NOT_OF_MACHINE.contains(&first)).then_some(About::Machine);
    };
    let mut part = parts.next();
    if part == Some(b"task") {
        match parts.next() {
            // Other threads may not be there yet when it is opened again.
            Some(thread) if number(thread) == Some(pid) => part = parts.next(),
            Some(_) => return None,
            None => return Some(About::Process(pid)),
        }
    }
    let travels = part.is_none_or(|part| !NOT_OF_PROCESS.contains(&part));
    travels.then_some(About::Process(pid))
}

fn number(name: &[u8]) -> Option<Pid> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_about_processes_and_the_machine_travel() {
        for (path, wanted) in [
            ("/proc", About::Machine),
            ("/proc/meminfo", About::Machine),
            ("/proc/sys/kernel/osrelease", About::Machine),
            ("/proc/12", About::Process(12)),
            ("/proc/12/maps", About::Process(12)),
            ("/proc/12/net/dev", About::Process(12)),
            ("/proc/12/task", About::Process(12)),
            ("/proc/12/task/12/stat", About::Process(12)),
        ] {
            assert_eq!(about(path.as_bytes(), libc::O_RDONLY), Some(wanted));
        }
    }

    #[test]
    fn handles_do_not() {
        for path in [
            "/proc/12/mem",
            "/proc/12/pagemap",
            "/proc/12/map_files/1-2",
            "/proc/12/ns/net",
            "/proc/12/fd",
            "/proc/12/task/13/stat",
            "/proc/12/task/12/mem",
            "/proc/kcore",
            "/procfs/stat",
            "/elsewhere/12/maps",
            "12/maps",
        ] {
            assert_eq!(about(path.as_bytes(), libc::O_RDONLY), None, "{path}");
        }
        assert_eq!(about(b"/proc/12/comm", libc::O_RDWR), None);
        assert_eq!(about(b"/proc/12/comm", libc::O_WRONLY), None);
    }
}
