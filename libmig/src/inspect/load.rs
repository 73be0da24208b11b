//! How much work wants to run here, sampled: of the node, and of each job.
//!
//! The averaging is not done here: samples go to `balance::LoadMeter` and to
//! [`JobMeter`] with the time they were taken at.
//!
//! A node whose `/proc` is that of the initial pid namespace and that may use
//! all CPUs reads the kernel's own count of runnable tasks: one small file.
//! `/proc/loadavg` is not namespaced, so inside a pid namespace (a node of the
//! lab, a container) it tells of the whole machine; there, and where the CPUs
//! are restricted, tasks in state R are counted one by one. That costs about
//! 5 us a task, so it is bounded: see [`TASKS_PER_SAMPLE`].

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::{getpid, gettid},
};
use procfs::{Current, FromRead, LoadAverage, Meminfo, process::Stat};
use thiserror::Error;

mod job;

pub use job::{JobMeter, JobUse};

/// At most so many tasks are looked at for one sample. Where there are more,
/// the next sample goes on with the others, and what was found is scaled up.
pub const TASKS_PER_SAMPLE: usize = 2048;

/// Inode number of the initial pid namespace: PROC_PID_INIT_INO, the same since
/// Linux 3.8 (include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Why a load could not be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of `/proc` could not be understood.
    #[error("cannot understand {path}")]
    Parse {
        /// Which.
        path: &'static str,
        /// What is wrong with it.
        source: procfs::ProcError,
    },
    /// sched_getaffinity(2) failed.
    #[error("cannot read the node's CPU affinity")]
    Affinity(#[source] nix::Error),
}

/// Memory of this node, from `/proc/meminfo`. A limit that a container puts on
/// top of it is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeMemory {
    /// Bytes that programs can still get without swapping.
    pub available: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Samples the load of this node.
#[derive(Debug)]
pub struct NodeSampler {
    counts: Counts,
    cpus: CpuSet,
    cores: u32,
    /// The task scan goes on behind this process.
    resume_after: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// `/proc/loadavg` is ours.
    Machine,
    /// Tasks in state R on our CPUs.
    Tasks,
}

impl NodeSampler {
    /// Finds out how this node has to count. The affinity is that of the main
    /// thread of this process: other threads may pin themselves.
    ///
    /// # Errors
    /// When `/proc` or the affinity cannot be read.
    pub fn new() -> Result<Self, LoadError> {
        let cpus = sched_getaffinity(getpid()).map_err(LoadError::Affinity)?;
        let cores = count(&cpus);
        let counts = if in_initial_pid_namespace()? && cores >= online_cpus()? {
            Counts::Machine
        } else {
            Counts::Tasks
        };
        Ok(Self {
            counts,
            cpus,
            cores,
            resume_after: 0,
        })
    }

    /// CPUs that this node may use. A quota of the CPU controller does not count.
    #[must_use]
    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// Tasks that run or wait for a CPU at this moment, the calling thread not
    /// among them. Meant to be called several times a second.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn runnable(&mut self) -> Result<f64, LoadError> {
        match self.counts {
            Counts::Machine => {
                let average = LoadAverage::current().map_err(|source| LoadError::Parse {
                    path: "/proc/loadavg",
                    source,
                })?;
                // This thread is running: it reads the file.
                Ok(f64::from(average.cur.saturating_sub(1)))
            }
            Counts::Tasks => self.runnable_tasks(TASKS_PER_SAMPLE),
        }
    }

    /// Memory of this node.
    ///
    /// # Errors
    /// When `/proc/meminfo` cannot be read.
    pub fn memory(&self) -> Result<NodeMemory, LoadError> {
        let info = Meminfo::current().map_err(|source| LoadError::Parse {
            path: "/proc/meminfo",
            source,
        })?;
        Ok(NodeMemory {
            available: info.mem_available.unwrap_or(info.mem_free),
            total: info.mem_total,
        })
    }

    fn runnable_tasks(&mut self, budget: usize) -> Result<f64, LoadError> {
        let mut pids = numbers_in(Path::new("/proc"))?;
        pids.sort_unstable();
        let start = pids.partition_point(|pid| *pid <= self.resume_after);
        pids.rotate_left(start);
        let (mut tasks, mut running, mut processes) = (0, 0_u32, 0_usize);
        for pid in &pids {
            if tasks >= budget {
                break;
            }
            tasks += each_task(*pid, |tid, stat| {
                if tid != gettid().as_raw() && is_runnable(stat) && self.is_ours(stat) {
                    running += 1;
                }
            });
            processes += 1;
            self.resume_after = *pid;
        }
        Ok(f64::from(running) * ratio(pids.len(), processes))
    }

    fn is_ours(&self, stat: &Stat) -> bool {
        stat.processor
            .and_then(|cpu| usize::try_from(cpu).ok())
            .is_none_or(|cpu| self.cpus.is_set(cpu).unwrap_or(false))
    }
}

fn in_initial_pid_namespace() -> Result<bool, LoadError> {
    let path = "/proc/self/ns/pid";
    let meta = fs::metadata(path).map_err(|source| LoadError::Read {
        path: path.into(),
        source,
    })?;
    Ok(meta.ino() == INITIAL_PID_NAMESPACE)
}

/// CPUs of the machine that are switched on: `/sys/devices/system/cpu/online`,
/// for example `0-3,8`.
fn online_cpus() -> Result<u32, LoadError> {
    let path = "/sys/devices/system/cpu/online";
    let list = fs::read_to_string(path).map_err(|source| LoadError::Read {
        path: path.into(),
        source,
    })?;
    let size = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    // A list that cannot be read counts as more CPUs than we have: the tasks
    // are then counted one by one, which is right everywhere.
    let total = list.trim().split(',').map(size).sum::<Option<u32>>();
    Ok(total.unwrap_or(u32::MAX))
}

fn count(cpus: &CpuSet) -> u32 {
    let set = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false));
    u32::try_from(set.count()).unwrap_or(u32::MAX).max(1)
}

/// Calls `look` for every thread of a process; answers how many there were.
/// Processes come and go: one that is no longer there has no threads.
fn each_task(pid: i32, mut look: impl FnMut(i32, &Stat)) -> usize {
    let Some(stat) = read_stat(&format!("/proc/{pid}/stat")) else {
        return 0;
    };
    if stat.num_threads <= 1 {
        look(pid, &stat);
        return 1;
    }
    let Ok(mut tids) = numbers_in(Path::new(&format!("/proc/{pid}/task"))) else {
        return 0;
    };
    tids.retain(|tid| {
        let stat = read_stat(&format!("/proc/{pid}/task/{tid}/stat"));
        stat.inspect(|stat| look(*tid, stat)).is_some()
    });
    tids.len()
}

fn is_runnable(stat: &Stat) -> bool {
    stat.state == 'R'
}

fn read_stat(path: &str) -> Option<Stat> {
    Stat::from_read(super::text::bytes(path).ok()?.as_slice()).ok()
}

/// The entries of a folder of `/proc` that are numbers.
fn numbers_in(folder: &Path) -> Result<Vec<i32>, LoadError> {
    let failed = |source| LoadError::Read {
        path: folder.to_owned(),
        source,
    };
    let entries = fs::read_dir(folder).map_err(failed)?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

fn ratio(all: usize, seen: usize) -> f64 {
    let float = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    float(all) / float(seen.max(1))
}

#[cfg(test)]
mod tests;
