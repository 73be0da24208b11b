//! Where it was measured.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::Serialize;

/// This machine, now.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Load averages before the first measurement.
    pub load: String,
}

impl Machine {
    /// Looks.
    ///
    /// # Errors
    /// When /proc does not say.
    pub fn here() -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("reading {file}"));
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let kib = memory
            .split(' ')
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        let load = read("/proc/loadavg")?;
        Ok(Self {
            cpu: value(&read("/proc/cpuinfo")?, "model name").unwrap_or_default(),
            cpus: std::thread::available_parallelism()?.get(),
            memory_mib: kib.unwrap_or(0) >> 10,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cpus,
            memory_mib,
            kernel,
            load,
        } = self;
        write!(
            f,
            "{cpus} x {cpu}, {memory_mib} MiB, Linux {kernel}, load {load}"
        )
    }
}
