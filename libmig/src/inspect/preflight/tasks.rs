//! Threads: who traces them, what confines them, how they are scheduled, and
//! CPU features that are switched on for them.

use std::fs;

use super::{
    namespaces::Home,
    subject::{Finding, Subject, Task},
};
use crate::{
    inspect::process,
    sys::{HostPid, sched},
};

/// `/proc/TID/attr` of the security modules that label tasks.
pub(super) const LABELS: [&str; 3] = ["current", "apparmor/current", "smack/current"];
/// What the next exec or new object of a task is to be labelled.
const NEXT_LABELS: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];
/// SCHED_OTHER, FIFO, RR, BATCH, IDLE: what a restore can set on any node.
const POLICIES: [u32; 5] = [0, 1, 2, 3, 5];
const SCHED_DEADLINE: u32 = 6;
/// Threads of the kernel in the guise of the program's: PF_IO_WORKER, PF_USER_WORKER.
const PF_WORKER: u64 = 0x10 | 0x4000;

pub(super) fn check(subject: &mut Subject, home: &Home) {
    let mut found = Vec::new();
    let unconfined = process::status(HostPid::own()).is_ok_and(|own| own.seccomp == 0);
    for task in &subject.tasks {
        let tid = task.tid;
        let mut add = |finding: Option<Finding>| found.extend(finding.map(|f| (tid, f)));
        add(traced(task));
        add(seccomp(task.status.seccomp, unconfined));
        add(worker(task));
        for (key, value) in task.text.lines().filter_map(|line| line.split_once(':')) {
            add(feature(key, value.trim()));
        }
        for (name, of_init) in LABELS.iter().zip(&home.labels) {
            let label = label(task.host, name);
            add(confined(label.as_deref(), of_init.as_deref()));
        }
        if home.labels.iter().any(Option::is_some) {
            let next = |name: &&&str| label(task.host, name).is_some();
            add(NEXT_LABELS.iter().find(next).map(|name| {
                let reason = format!("it has asked its security module for a label (attr/{name})");
                Finding::new(reason, "let the program take its request back")
            }));
        }
        let policy = sched::scheduling(task.host).map(|scheduling| scheduling.policy);
        add(policy.ok().and_then(scheduled));
    }
    for (tid, finding) in found {
        subject.refuse_thread(tid, finding);
    }
}

/// The label of a task, if a security module is there that gives labels.
pub(super) fn label(thread: HostPid, name: &str) -> Option<String> {
    let text = crate::inspect::text::bytes(format!("/proc/{thread}/attr/{name}")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

fn traced(task: &Task) -> Option<Finding> {
    let tracer = task.status.tracer;
    (tracer != 0).then(|| {
        let name = fs::read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
        Finding::new(
            format!("it is traced by {} (process {tracer})", name.trim_end()),
            "end the debugger or strace, then move",
        )
    })
}

fn seccomp(mode: u32, unconfined: bool) -> Option<Finding> {
    match mode {
        0 => None,
        1 | 2 if unconfined => None,
        1 | 2 => Some(Finding::new(
            "seccomp restricts its system calls, and those of migd, which could not suspend that",
            "run migd without a seccomp filter of its own, on both nodes",
        )),
        other => Some(Finding::new(
            format!("it is in the unknown seccomp mode {other}"),
            "start the program without its sandbox, or keep the job where it is with --pin",
        )),
    }
}

fn worker(task: &Task) -> Option<Finding> {
    (task.stat.flags & PF_WORKER != 0).then(|| {
        let name = String::from_utf8_lossy(&task.stat.comm).into_owned();
        Finding::new(
            format!("it is a thread of the kernel ({name}), as io_uring makes them"),
            "start the program with io_uring switched off (UV_USE_IO_URING=0 for Node.js)",
        )
    })
}

/// Lines of `/proc/TID/status` about what a restore does not switch on.
fn feature(key: &str, value: &str) -> Option<Finding> {
    match key {
        "x86_Thread_features"
            if value
                .split_whitespace()
                .any(|f| f == "shstk" || f == "wrss") =>
        {
            Some(Finding::new(
                "it has a shadow stack",
                "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
            ))
        }
        "untag_mask" if u64::from_str_radix(value.trim_start_matches("0x"), 16) != Ok(u64::MAX) => {
            Some(Finding::new(
                "it keeps tags in its addresses (linear address masking)",
                "start the program with tagged addresses switched off",
            ))
        }
        "Speculation_Store_Bypass" | "SpeculationIndirectBranch"
            if value.starts_with("thread") && value.ends_with("mitigated")
                || value.starts_with("conditional") && value.ends_with("disabled") =>
        {
            Some(Finding::new(
                "it has asked the kernel to restrain speculation (PR_SET_SPECULATION_CTRL)",
                "keep the job where it is with --pin",
            ))
        }
        "CoreDumping" if value != "0" => Some(Finding::passing(
            "it has crashed and is writing a core dump",
            "none: it ends when that is done",
        )),
        _ => None,
    }
}

/// A label of its own. The one of the capsule's init is no obstacle: every
/// node gives its capsules the one that it wants.
fn confined(label: Option<&str>, of_init: Option<&str>) -> Option<Finding> {
    let label = label.filter(|label| Some(*label) != of_init && *label != "unconfined")?;
    Some(Finding::new(
        format!("a security module confines it as {label}"),
        "start the program without the profile, or keep the job where it is with --pin",
    ))
}

fn scheduled(policy: u32) -> Option<Finding> {
    if POLICIES.contains(&policy) {
        return None;
    }
    let reason = if policy == SCHED_DEADLINE {
        "it has a share of this node's CPUs reserved (SCHED_DEADLINE)".to_owned()
    } else {
        format!("its scheduling policy {policy} is not known to this version of mig")
    };
    Some(Finding::new(
        reason,
        "give it an ordinary policy first: chrt --other --pid 0 TID",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_are_on_are_named() {
        for (key, value) in [
            ("x86_Thread_features", "shstk"),
            ("untag_mask", "0x81ffffffffffffff"),
            ("Speculation_Store_Bypass", "thread force mitigated"),
            ("SpeculationIndirectBranch", "conditional force disabled"),
        ] {
            assert!(feature(key, value).is_some_and(|f| !f.transient), "{key}");
        }
        assert!(feature("CoreDumping", "1").is_some_and(|f| f.transient));
    }

    #[test]
    fn features_that_are_off_or_of_the_whole_machine_are_not() {
        for (key, value) in [
            ("x86_Thread_features", ""),
            ("untag_mask", "0xffffffffffffffff"),
            ("Speculation_Store_Bypass", "thread vulnerable"),
            ("Speculation_Store_Bypass", "globally mitigated"),
            ("SpeculationIndirectBranch", "conditional enabled"),
            ("SpeculationIndirectBranch", "always disabled"),
            ("CoreDumping", "0"),
            ("Name", "shstk"),
        ] {
            assert_eq!(feature(key, value), None, "{key} {value}");
        }
    }

    #[test]
    fn a_label_of_its_own_confines() {
        assert_eq!(confined(None, None), None);
        assert_eq!(confined(Some("unconfined"), None), None);
        assert_eq!(confined(Some("a_t"), Some("a_t")), None);
        let finding = confined(Some("firefox (enforce)"), Some("unconfined")).unwrap();
        assert!(finding.reason.ends_with("firefox (enforce)"));
    }

    #[test]
    fn policies_that_nobody_knows_are_refused_by_number() {
        assert_eq!(POLICIES.map(scheduled), [const { None }; 5]);
        assert!(scheduled(6).unwrap().reason.contains("SCHED_DEADLINE"));
        assert!(scheduled(7).unwrap().reason.contains("policy 7"));
        assert!(seccomp(3, true).unwrap().reason.contains("mode 3"));
        assert_eq!(
            [0, 1, 2].map(|mode| seccomp(mode, true)),
            [const { None }; 3]
        );
        assert!(seccomp(2, false).unwrap().remedy.contains("migd"));
    }
}
