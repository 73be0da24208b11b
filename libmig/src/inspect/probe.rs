//! What this kernel and this machine can do for mig: the findings of
//! `mig doctor`.
//!
//! Every probe really does the thing, on children of its own, or reads the
//! file that the kernel decides by; none touches a process that was there
//! before. Each is bounded in time: a child that hangs is killed after three
//! seconds. The calls themselves are in `sys::probe`.

mod cgroup;
mod machine;
mod table;
mod vdso;

use serde::{Deserialize, Serialize};

use super::cpu::CpuFeatures;

/// How well something works here. The order is from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// mig works, but something is refused or slower.
    Degraded,
    /// mig cannot move jobs from or to this node.
    Missing,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name: `cgroup-freeze`.
    pub name: String,
    /// How well it works.
    pub status: Status,
    /// What was seen: a version, a value, an error.
    pub detail: String,
    /// What mig needs it for.
    pub purpose: String,
    /// What follows when it does not work, and what to do; absent when it does.
    pub remedy: Option<String>,
}

/// Everything that was found out about this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// The findings, in the order in which they are best read.
    pub findings: Vec<Finding>,
    /// The CPU, as it is compared before a move.
    pub cpu: CpuFeatures,
    /// Build ID of this kernel's vDSO in hexadecimal, if it has one: where both
    /// ends have the same, the vDSO is simply mapped at its old address.
    pub vdso_build_id: Option<String>,
}

impl Examination {
    /// The worst of the findings.
    #[must_use]
    pub fn status(&self) -> Status {
        let all = self.findings.iter().map(|finding| finding.status);
        all.max().unwrap_or(Status::Ok)
    }
}

/// Runs all probes; some tenths of a second. To be called by a process that
/// may fork: it makes children and waits for them.
#[must_use]
pub fn examine() -> Examination {
    Examination {
        findings: table::PROBES.iter().map(table::Probe::run).collect(),
        cpu: CpuFeatures::of_this_machine(),
        vdso_build_id: vdso::build_id(),
    }
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// It works; with what to say about it.
    Works(String),
    /// It works in part.
    InPart(String),
    /// It does not work.
    Fails(String),
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use super::*;

    #[test]
    fn a_machine_is_examined_whole_and_in_time() {
        let start = Instant::now();
        let found = examine();
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
        let names: BTreeSet<_> = found.findings.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names.len(), found.findings.len(), "a name is there twice");
        for finding in &found.findings {
            assert!(
                !finding.detail.is_empty() && !finding.purpose.is_empty(),
                "{finding:?}"
            );
            assert_eq!(
                finding.remedy.is_some(),
                finding.status != Status::Ok,
                "{finding:?}"
            );
        }
    }

    /// The suite runs as root on a kernel that mig supports: what it cannot do
    /// without has to be found there.
    #[test]
    fn what_the_tests_need_is_found() {
        let found = examine();
        let missing = found
            .findings
            .iter()
            .filter(|f| f.status == Status::Missing);
        let missing: Vec<_> = missing.collect();
        assert!(missing.is_empty(), "{missing:#?}");
        assert_eq!(found.vdso_build_id.map(|id| id.len() >= 16), Some(true));
    }

    #[test]
    fn the_probes_leave_no_process_and_no_group_behind() {
        let group = cgroup::freezer();
        assert!(matches!(group, Seen::Works(_)), "{group:?}");
        let left = cgroup::leaves_of_this_process();
        assert!(left.is_empty(), "{left:?}");
    }
}
