//! One process under examination, and what was found about it.

use std::io;

use crate::{
    api::Obstacle,
    image::Pid,
    inspect::process::{self, Stat, Status, id_at, is_gone},
    sys::HostPid,
};

/// Obstacles with the same reason that are listed one by one.
const LISTED: usize = 8;
/// Threads that an obstacle names.
const NAMED: usize = 4;

/// A thread that is alive.
pub(super) struct Task {
    pub(super) host: HostPid,
    pub(super) tid: Pid,
    pub(super) stat: Stat,
    pub(super) status: Status,
    /// All of `/proc/TID/status`.
    pub(super) text: String,
}

/// Why something cannot move, apart from what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: String,
    pub(super) remedy: &'static str,
    pub(super) transient: bool,
}

impl Finding {
    pub(super) fn new(reason: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            reason: reason.into(),
            remedy,
            transient: false,
        }
    }

    /// Something that passes by itself.
    pub(super) fn passing(reason: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            transient: true,
            ..Self::new(reason, remedy)
        }
    }
}

/// A process.
pub(super) struct Subject {
    pub(super) host: HostPid,
    /// In the capsule.
    pub(super) pid: Pid,
    /// Those that live, the leader first if it does.
    pub(super) tasks: Vec<Task>,
    /// Findings about threads: the same one for several is one obstacle.
    of_threads: Vec<(Finding, Vec<Pid>)>,
    obstacles: Vec<Obstacle>,
}

impl Subject {
    /// Reads the threads of a process.
    pub(super) fn look(host: HostPid, level: usize) -> Self {
        let pid = process::status(host)
            .ok()
            .and_then(|status| id_at(&status.ns_pid, level));
        let mut subject = Self {
            host,
            pid: pid.unwrap_or(host.raw()),
            tasks: Vec::new(),
            of_threads: Vec::new(),
            obstacles: Vec::new(),
        };
        let threads = subject.read("its threads", process::threads(host));
        for thread in threads.unwrap_or_default() {
            let task = subject.read("status", task(thread, level));
            subject
                .tasks
                .extend(task.filter(|task| !leaving(&task.stat)));
        }
        subject
    }

    /// A zombie, or nothing at all.
    pub(super) fn is_dead(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Notes something about an object of the process.
    pub(super) fn refuse(&mut self, object: impl Into<String>, finding: Finding) {
        self.obstacles.push(Obstacle {
            pid: Some(self.pid),
            object: object.into(),
            reason: finding.reason,
            remedy: finding.remedy.to_owned(),
            transient: finding.transient,
        });
    }

    /// Notes something about the process itself.
    pub(super) fn refuse_process(&mut self, finding: Finding) {
        self.refuse(format!("process {}", self.pid), finding);
    }

    /// Notes an obstacle that is complete.
    pub(super) fn push(&mut self, obstacle: Obstacle) {
        self.obstacles.push(obstacle);
    }

    /// Notes something about a thread.
    pub(super) fn refuse_thread(&mut self, tid: Pid, finding: Finding) {
        match self
            .of_threads
            .iter_mut()
            .find(|(known, _)| *known == finding)
        {
            Some((_, tids)) => tids.push(tid),
            None => self.of_threads.push((finding, vec![tid])),
        }
    }

    /// What was read, if it could be: an end meanwhile is no obstacle, any
    /// other failure is one, since nobody knows what was to be seen.
    pub(super) fn read<T>(&mut self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if is_gone(&error) => None,
            Err(error) => {
                let reason = format!("{what} cannot be read: {error}");
                self.refuse_process(Finding::new(reason, "report it, with this message"));
                None
            }
        }
    }

    /// The obstacles, without repeating one too often. What a thread gave up as it ended
    /// meanwhile (its namespaces, say) is none.
    pub(super) fn finish(mut self) -> Vec<Obstacle> {
        let all = self.tasks.len();
        self.tasks.retain(|task| !has_ended(task.host));
        if all > 0 && self.is_dead() {
            return Vec::new();
        }
        let all = self.tasks.len();
        for (finding, mut tids) in std::mem::take(&mut self.of_threads) {
            tids.retain(|tid| self.tasks.iter().any(|task| task.tid == *tid));
            if tids.is_empty() {
                continue;
            }
            let object = if tids.len() == all {
                format!("process {}", self.pid)
            } else {
                threads(&tids)
            };
            self.refuse(object, finding);
        }
        bounded(self.obstacles)
    }
}

/// A thread, as `/proc` shows it at this instant.
fn task(thread: HostPid, level: usize) -> io::Result<Task> {
    let text = crate::inspect::text::bytes(format!("/proc/{thread}/status"))?;
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unknown format");
    let status = process::parse_status(&text).ok_or_else(unknown)?;
    Ok(Task {
        host: thread,
        tid: id_at(&status.ns_pid, level).unwrap_or(thread.raw()),
        stat: process::stat(thread)?,
        status,
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// Whether a thread has ended or is about to: it has given up what it had.
pub(super) fn leaving(stat: &Stat) -> bool {
    const PF_EXITING: u64 = 0x4;
    stat.is_dead() || stat.flags & PF_EXITING != 0
}

fn has_ended(thread: HostPid) -> bool {
    process::stat(thread).map_or_else(|error| is_gone(&error), |stat| leaving(&stat))
}

/// `thread 7`, or `threads 7, 8, 9, 10 and 3 more`.
fn threads(tids: &[Pid]) -> String {
    if let [only] = tids {
        return format!("thread {only}");
    }
    let named: Vec<String> = tids.iter().take(NAMED).map(Pid::to_string).collect();
    let rest = match tids.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("threads {}{rest}", named.join(", "))
}

/// Of obstacles that differ only in their object the first few, and a count.
fn bounded(obstacles: Vec<Obstacle>) -> Vec<Obstacle> {
    let mut kept: Vec<Obstacle> = Vec::new();
    let mut more: Vec<(usize, Obstacle)> = Vec::new();
    for obstacle in obstacles {
        let same = |other: &Obstacle| {
            other.reason == obstacle.reason && other.transient == obstacle.transient
        };
        if kept.iter().filter(|other| same(other)).count() < LISTED {
            kept.push(obstacle);
        } else if let Some((count, _)) = more.iter_mut().find(|(_, other)| same(other)) {
            *count += 1;
        } else {
            more.push((1, obstacle));
        }
    }
    for (count, mut obstacle) in more {
        obstacle.object = format!("{count} more like it");
        kept.push(obstacle);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(object: &str, reason: &str) -> Obstacle {
        Obstacle {
            pid: Some(1),
            object: object.into(),
            reason: reason.into(),
            remedy: "none".into(),
            transient: false,
        }
    }

    #[test]
    fn the_same_reason_is_not_told_a_thousand_times() {
        let many = (0..1000).map(|n| obstacle(&format!("mapping {n}"), "a"));
        let list = bounded(many.chain([obstacle("timer", "b")]).collect());
        assert_eq!(list.len(), LISTED + 2);
        assert_eq!(list.last().unwrap().object, "992 more like it");
        assert!(list.iter().any(|obstacle| obstacle.object == "timer"));
    }

    #[test]
    fn threads_are_named_or_counted() {
        assert_eq!(threads(&[7]), "thread 7");
        assert_eq!(threads(&[7, 8]), "threads 7, 8");
        assert_eq!(
            threads(&[1, 2, 3, 4, 5, 6]),
            "threads 1, 2, 3, 4 and 2 more"
        );
    }

    #[test]
    fn what_ends_meanwhile_is_no_obstacle() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let host = HostPid::new(child.id().try_into().unwrap());
        let found = || {
            let mut subject = Subject::look(host, 0);
            assert!(!subject.is_dead());
            subject.refuse_thread(subject.tasks[0].tid, Finding::new("a", "none"));
            subject.refuse_process(Finding::new("b", "none"));
            subject
        };
        assert_eq!(found().finish().len(), 2);
        let subject = found();
        child.kill().unwrap();
        rustix::process::waitid(
            rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert_eq!(subject.finish(), []);
        child.wait().unwrap();
    }

    #[test]
    fn what_is_gone_is_no_obstacle_and_what_is_unknown_is_one() {
        let mut subject = Subject::look(HostPid::new(i32::MAX), 0);
        assert!(subject.is_dead());
        let gone = io::Error::from_raw_os_error(libc::ESRCH);
        assert_eq!(subject.read("smaps", Err::<(), _>(gone)), None);
        assert_eq!(subject.obstacles.len(), 0);
        let unknown = io::Error::from(io::ErrorKind::InvalidData);
        assert_eq!(subject.read("smaps", Err::<(), _>(unknown)), None);
        assert!(
            subject.finish()[0]
                .reason
                .starts_with("smaps cannot be read")
        );
    }
}
