//! What a job takes up, and whether another node has as much: what is compared before
//! anything is frozen.

use std::{fs, io, path::Path};

use procfs::{Current, Meminfo, process::LimitValue};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::process::{Scope, Size, tree};
use crate::{api::Obstacle, image::Pid, sys::resource::RESOURCES};

/// What a job takes up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Demand {
    /// Processes.
    pub processes: u32,
    /// Highest process or thread ID in its capsule.
    pub highest_tid: Pid,
    /// Resident bytes.
    pub memory_bytes: u64,
    /// Soft limits that are the highest of all its processes, with the process that has
    /// each; by number, RLIMIT_*. Those that a kernel derives from the size of the machine
    /// are not among them.
    pub limits: Vec<(u32, Pid, u64)>,
}

impl Demand {
    /// Most limits that there are.
    pub const MOST_LIMITS: usize = RESOURCES.len();

    /// That of the tree of a scope, at this instant, whose size has been taken.
    #[must_use]
    pub fn of(scope: Scope, size: Size) -> Self {
        let mut demand = Self {
            processes: size.processes,
            highest_tid: size.highest_tid,
            memory_bytes: size.resident_bytes,
            limits: Vec::new(),
        };
        for (host, pid) in tree(scope) {
            // A process that ends meanwhile wants nothing.
            let process = procfs::process::Process::new(host.raw());
            let Ok(limits) = process.and_then(|process| process.limits()) else {
                continue;
            };
            let soft = [
                (Resource::Fsize, limits.max_file_size),
                (Resource::Data, limits.max_data_size),
                (Resource::Stack, limits.max_stack_size),
                (Resource::Core, limits.max_core_file_size),
                (Resource::Nofile, limits.max_open_files),
                (Resource::Memlock, limits.max_locked_memory),
                (Resource::As, limits.max_address_space),
                (Resource::Msgqueue, limits.max_msgqueue_size),
                (Resource::Nice, limits.max_nice_priority),
                (Resource::Rtprio, limits.max_realtime_priority),
            ];
            for (resource, limit) in soft {
                demand.wants(number(resource), pid, value(limit.soft_limit));
            }
        }
        demand
    }

    fn wants(&mut self, number: u32, pid: Pid, value: u64) {
        match self.limits.iter_mut().find(|(known, ..)| *known == number) {
            Some(known) if known.2 < value => *known = (number, pid, value),
            Some(_) => {}
            None => self.limits.push((number, pid, value)),
        }
    }

    /// Everything of it that `room` has not.
    #[must_use]
    pub fn obstacles(&self, room: &Room) -> Vec<Obstacle> {
        let limits = self.limits.iter().take(Self::MOST_LIMITS);
        let limits = limits.filter_map(|limit| room.limit(*limit));
        limits
            .chain(room.memory(self))
            .chain(room.ids(self))
            .collect()
    }
}

/// What a node has room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its name, for people.
    pub node: String,
    /// Hard limits by number.
    pub limits: Vec<u64>,
    /// Bytes that can be had, with those of swap.
    pub memory_bytes: u64,
    /// Process IDs in a new pid namespace are below it.
    pub pid_max: Pid,
    /// Processes that its control group still takes, if it is limited.
    pub processes: Option<u64>,
}

impl Room {
    /// That of this machine and process. `group` is the control group below which jobs are.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of_this_machine(node: String, group: &Path) -> io::Result<Self> {
        let memory = Meminfo::current().map_err(io::Error::other)?;
        let available = memory.mem_available.unwrap_or(memory.mem_free);
        let available = available.saturating_add(memory.swap_free);
        let left = |what: &str| {
            let most: u64 = number_in(&group.join(format!("{what}.max")))?;
            let used = number_in(&group.join(format!("{what}.current"))).unwrap_or(0);
            Some(most.saturating_sub(used))
        };
        let hard = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX);
        Ok(Self {
            node,
            limits: RESOURCES.into_iter().map(hard).collect(),
            memory_bytes: available.min(left("memory").unwrap_or(u64::MAX)),
            pid_max: pid_max()?,
            processes: left("pids"),
        })
    }

    fn limit(&self, (number, pid, wanted): (u32, Pid, u64)) -> Option<Obstacle> {
        let there = *self.limits.get(number as usize)?;
        let name = RESOURCES.get(number as usize)?;
        (there < wanted).then(|| Obstacle {
            pid: Some(pid),
            object: format!("limit {}", format!("{name:?}").to_uppercase()),
            reason: format!(
                "it is {}, and no more than {there} can be had on {}",
                text(wanted),
                self.node
            ),
            remedy: "raise the limit of migd there (its systemd unit), or start the job with a \
                     lower one (ulimit)"
                .into(),
            transient: false,
        })
    }

    fn memory(&self, demand: &Demand) -> Option<Obstacle> {
        (self.memory_bytes < demand.memory_bytes).then(|| Obstacle {
            pid: None,
            object: "memory".into(),
            reason: format!(
                "the job has {} MiB, and {} has {} MiB to give",
                demand.memory_bytes >> 20,
                self.node,
                self.memory_bytes >> 20
            ),
            remedy: "free memory there, or name another node".into(),
            transient: false,
        })
    }

    fn ids(&self, demand: &Demand) -> Vec<Obstacle> {
        let mut found = Vec::new();
        if self.pid_max <= demand.highest_tid {
            found.push(Obstacle {
                pid: Some(demand.highest_tid),
                object: "process ID".into(),
                reason: format!("IDs end at {} on {}", self.pid_max - 1, self.node),
                remedy: "set kernel.pid_max there to 4194304".into(),
                transient: false,
            });
        }
        if let Some(left) = self
            .processes
            .filter(|left| *left < demand.processes.into())
        {
            found.push(Obstacle {
                pid: None,
                object: format!("{} processes", demand.processes),
                reason: format!(
                    "the control group of jobs on {} takes {left} more",
                    self.node
                ),
                remedy: "raise pids.max of that group (mig)".into(),
                transient: false,
            });
        }
        found
    }
}

/// A pid namespace has a limit of its own since Linux 6.14, which begins at the highest
/// that there is; before, that of the machine counts.
fn pid_max() -> io::Result<Pid> {
    const HIGHEST: Pid = 4_194_304;
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 14) => Ok(HIGHEST),
        _ => number_in(Path::new("/proc/sys/kernel/pid_max"))
            .ok_or_else(|| io::Error::other("kernel.pid_max is no number")),
    }
}

/// A number in a file; none for `max`, and where there is no such file.
fn number_in<T: std::str::FromStr>(file: &Path) -> Option<T> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn number(resource: Resource) -> u32 {
    let place = RESOURCES.iter().position(|known| *known == resource);
    place
        .and_then(|place| u32::try_from(place).ok())
        .unwrap_or(u32::MAX)
}

fn value(limit: LimitValue) -> u64 {
    match limit {
        LimitValue::Unlimited => u64::MAX,
        LimitValue::Value(value) => value,
    }
}

fn text(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".into(),
        limit => limit.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::HostPid;

    fn room() -> Room {
        Room {
            node: "n2".into(),
            limits: vec![u64::MAX; Demand::MOST_LIMITS],
            memory_bytes: 64 << 20,
            pid_max: 32768,
            processes: None,
        }
    }

    fn demand() -> Demand {
        Demand {
            processes: 3,
            highest_tid: 32767,
            memory_bytes: 64 << 20,
            limits: vec![(7, 5, 4096), (3, 6, u64::MAX)],
        }
    }

    #[test]
    fn what_there_is_room_for_is_no_obstacle() {
        assert_eq!(demand().obstacles(&room()), []);
        let here = Room::of_this_machine("n1".into(), Path::new("/nowhere")).unwrap();
        let own = Scope::From(HostPid::own());
        let small = Demand::of(own, Size::default());
        assert!(!small.limits.is_empty());
        assert_eq!(small.obstacles(&here), []);
    }

    #[test]
    fn all_that_is_too_much_is_named() {
        let mut room = room();
        room.limits[7] = 1024;
        room.limits[3] = 8 << 20;
        room.memory_bytes -= 1;
        room.pid_max -= 1;
        room.processes = Some(2);
        let obstacles = demand().obstacles(&room);
        let named: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "pid 5: limit NOFILE: it is 4096, and no more than 1024 can be had on n2",
                "pid 6: limit STACK: it is unlimited, and no more than 8388608 can be had on n2",
                "memory: the job has 64 MiB, and n2 has 63 MiB to give",
                "pid 32767: process ID: IDs end at 32766 on n2",
                "3 processes: the control group of jobs on n2 takes 2 more",
            ]
        );
    }

    #[test]
    fn limits_of_a_hostile_source_name_nothing() {
        let hostile = Demand {
            limits: vec![(u32::MAX, -1, u64::MAX), (16, 0, u64::MAX)],
            ..demand()
        };
        assert_eq!(hostile.obstacles(&room()), []);
    }
}
