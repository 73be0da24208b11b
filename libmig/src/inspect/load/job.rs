//! What one job uses, from the processes in its cgroup.

use std::{fs, io, path::Path, time::Duration};

use super::{LoadError, each_task, is_runnable, read_stat};

/// Depth to which groups below a job's own are followed.
const CGROUP_DEPTH: usize = 8;

/// What the processes of one job use at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobUse {
    /// CPU time of its live processes and of their dead children that were
    /// waited for. What orphans used is gone when they are.
    pub cpu: Duration,
    /// Tasks that run or wait for a CPU.
    pub runnable: u32,
    /// Resident bytes; a page that several processes share counts in each.
    pub memory: u64,
    /// Live processes.
    pub processes: u32,
    /// Their threads.
    pub threads: u32,
}

impl JobUse {
    /// Looks at all processes in the cgroup `leaf` and below. Processes that
    /// end meanwhile are passed over; a leaf that is gone holds none.
    ///
    /// # Errors
    /// When `cgroup.procs` cannot be read for another reason.
    pub fn of_cgroup(leaf: &Path) -> Result<Self, LoadError> {
        let mut sum = Self::default();
        for pid in members(leaf, CGROUP_DEPTH)? {
            sum.add_process(pid);
        }
        Ok(sum)
    }

    fn add_process(&mut self, pid: i32) {
        // Of the process as a whole; the files of its threads have their own times.
        let Some(stat) = read_stat(&format!("/proc/{pid}/stat")) else {
            return;
        };
        let children = u64::try_from(stat.cutime.saturating_add(stat.cstime)).unwrap_or(0);
        let ticks = stat
            .utime
            .saturating_add(stat.stime)
            .saturating_add(children);
        self.cpu = self.cpu.saturating_add(from_ticks(ticks));
        let bytes = stat.rss.saturating_mul(procfs::page_size());
        self.memory = self.memory.saturating_add(bytes);
        self.processes += 1;
        let threads = each_task(pid, |_, stat| {
            self.runnable += u32::from(is_runnable(stat));
        });
        self.threads = self
            .threads
            .saturating_add(u32::try_from(threads).unwrap_or(u32::MAX));
    }
}

/// Averages the samples of one job, one step a second, as MOSIX does:
/// p = (5p + 3 x mean) / 8; but the first period counts in full.
#[derive(Debug, Clone, Default)]
pub struct JobMeter {
    period: Option<(Duration, Duration)>,
    sum: f64,
    samples: u32,
    averages: Option<(f64, f64)>,
    last: JobUse,
}

impl JobMeter {
    const PERIOD: Duration = Duration::from_secs(1);

    /// A meter of a job that has just been started or has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sample, taken at `now` on any monotonic clock.
    pub fn sample(&mut self, now: Duration, mut used: JobUse) {
        // Orphans take their time with them: what was counted stays counted.
        used.cpu = used.cpu.max(self.last.cpu);
        let (start, cpu_then) = *self.period.get_or_insert((now, used.cpu));
        self.sum += f64::from(used.runnable);
        self.samples += 1;
        self.last = used;
        let passed = now.saturating_sub(start);
        if passed >= Self::PERIOD {
            let runnable = self.sum / f64::from(self.samples);
            let cores = used.cpu.saturating_sub(cpu_then).as_secs_f64() / passed.as_secs_f64();
            let step = |old: f64, new: f64| (5.0 * old + 3.0 * new) / 8.0;
            self.averages = Some(match self.averages {
                None => (runnable, cores),
                Some(old) => (step(old.0, runnable), step(old.1, cores)),
            });
            self.period = Some((now, used.cpu));
            (self.sum, self.samples) = (0.0, 0);
        }
    }

    /// Tasks that the job keeps runnable; 0 until the first period has passed.
    #[must_use]
    pub fn runnable(&self) -> f64 {
        self.averages.map_or(0.0, |(runnable, _)| runnable)
    }

    /// Cores that it uses; 0 until the first period has passed.
    #[must_use]
    pub fn cores(&self) -> f64 {
        self.averages.map_or(0.0, |(_, cores)| cores)
    }

    /// CPU time consumed on this node. It cannot be set on another one, so
    /// what the job consumed before it arrived has to be added by the caller.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.last.cpu
    }

    /// The newest sample.
    #[must_use]
    pub fn last(&self) -> JobUse {
        self.last
    }
}

/// Processes of a cgroup and of those below it, as this pid namespace numbers
/// them; those that it cannot see are 0 in the file and left out.
fn members(group: &Path, depth: usize) -> Result<Vec<i32>, LoadError> {
    let path = group.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // ENODEV: the group was removed between open and read.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(Vec::new()),
        // EOPNOTSUPP: a threaded group; its processes are listed above it.
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => String::new(),
        Err(source) => return Err(LoadError::Read { path, source }),
    };
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    pids.retain(|pid| *pid > 0);
    if depth > 0 {
        let below = fs::read_dir(group).into_iter().flatten().flatten();
        for entry in below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            pids.extend(members(&entry.path(), depth - 1)?);
        }
    }
    Ok(pids)
}

pub(super) fn from_ticks(ticks: u64) -> Duration {
    let per_second = procfs::ticks_per_second().max(1);
    let nanos = ticks % per_second * 1_000_000_000 / per_second;
    Duration::from_secs(ticks / per_second).saturating_add(Duration::from_nanos(nanos))
}
