//! Whom a pidfd names, seen from outside: `Pid:` of its fdinfo is an ID of the reader's pid
//! namespace, 0 for what is outside of it, and -1 for what has been waited for.

use std::fs;

use super::{fdinfo::FdInfo, files::FileSource, process, text};
use crate::{
    image::{INIT, Pid},
    sys::HostPid,
};

/// PIDFD_THREAD of pidfd_open(2), Linux 6.9.
pub const THREAD: i32 = libc::O_EXCL;
/// More parents than any tree of processes has above one another.
const HIGHEST: usize = 1 << 16;

/// Whom a pidfd names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A process of the job or its capsule's init, also as a zombie.
    Process(Pid),
    /// A thread, but no leader, of a process of the job.
    Thread(Pid),
    /// It has been waited for.
    Ended,
    /// It does not move.
    Outside,
}

/// Whom the pidfd with this fdinfo names. Processes that were born since `processes` were
/// listed are found by their parents.
#[must_use]
pub fn target(info: &FdInfo, processes: &[FileSource<'_>]) -> Target {
    let host = match info.pid {
        Some(raw @ 1..) => HostPid::new(raw),
        Some(-1) => return Target::Ended,
        _ => return Target::Outside,
    };
    match named(host, processes) {
        Some(target) => target,
        // It has ended since fdinfo was read.
        None if process::stat(host).is_err() => Target::Ended,
        None => Target::Outside,
    }
}

fn named(host: HostPid, processes: &[FileSource<'_>]) -> Option<Target> {
    // A capsule's pid namespace is the daemon's child, and below it there may be more.
    let level = usize::from(processes.iter().any(|one| one.host.raw() != one.pid));
    let pid = process::id_at(&process::status(host).ok()?.ns_pid, level)?;
    let leader = leader(host)?;
    if level > 0 && pid == INIT {
        return shares_space(host, processes).then_some(Target::Process(INIT));
    }
    let mut ancestor = leader;
    for _ in 0..HIGHEST {
        if processes.iter().any(|one| one.host == ancestor) {
            return Some(match leader == host {
                true => Target::Process(pid),
                false => Target::Thread(pid),
            });
        }
        ancestor = process::stat(ancestor).ok()?.ppid;
    }
    None
}

/// The process that a thread is of.
fn leader(thread: HostPid) -> Option<HostPid> {
    let status = text::string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    Some(HostPid::new(line.trim().parse().ok()?))
}

/// Whether a process of the job is in the pid namespace of this one.
fn shares_space(host: HostPid, processes: &[FileSource<'_>]) -> bool {
    let space = |host: HostPid| fs::read_link(format!("/proc/{host}/ns/pid")).ok();
    let own = space(host);
    own.is_some() && processes.iter().any(|one| space(one.host) == own)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;
    use crate::inspect::fd::Seen;

    #[test]
    fn children_belong_to_the_job_and_strangers_do_not() {
        let own = HostPid::own();
        let open = |host: HostPid| {
            let pid = rustix::process::Pid::from_raw(host.raw()).unwrap();
            pidfd_open(pid, PidfdFlags::empty()).unwrap()
        };
        let pidfd = open(own);
        let source = FileSource {
            pid: own.raw(),
            host: own,
            pidfd: pidfd.as_fd(),
        };
        let named = |fd: &dyn AsRawFd| {
            let seen = Seen::look(own, fd.as_raw_fd()).unwrap();
            target(&seen.info, &[source])
        };
        assert_eq!(named(&pidfd), Target::Process(own.raw()));
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let child_pid = child.id().cast_signed();
        let of_child = open(HostPid::new(child_pid));
        assert_eq!(named(&of_child), Target::Process(child_pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(named(&of_child), Target::Ended);
        assert_eq!(named(&open(HostPid::new(1))), Target::Outside);
        assert_eq!(target(&FdInfo::default(), &[source]), Target::Outside);
    }
}
