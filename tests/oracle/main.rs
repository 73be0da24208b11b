//! The differential oracle: every workload is captured, restored elsewhere, and captured again before anything of it
//! has run. The two captures must be equal, field by field and page by page, but for what [`difference`] argues about.
//!
//! What a workload checks of itself is what its author thought of. Here everything is compared that a capture sees.

#[path = "../../libmig/tests/capsule/mod.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "written for the tests of libmig, which use more of it"
)]
mod capsule;
mod difference;
mod moments;
mod pages;
mod snapshot;
mod trial;

use mig_tests::workload::Workload;

#[test]
fn role() {
    capsule::play_role();
}

/// Workloads that cannot be restored beside the original, and the words of the refusal.
const REFUSED: &[(&str, &str)] = &[
    // Both copies are in one network namespace, which the address belongs to.
    ("sockets-abstract", "somebody at the destination has it"),
    (
        "sockets-datagrams-abstract",
        "somebody at the destination has it",
    ),
    (
        "sockets-backlog-abstract",
        "somebody at the destination has it",
    ),
    ("inet-tcp", "somebody at the destination has it"),
    ("inet-tcp6", "somebody at the destination has it"),
    ("inet-options", "somebody at the destination has it"),
    ("inet-served", "somebody at the destination has it"),
    ("inet-bulk", "somebody at the destination has it"),
    ("inet-ended", "somebody at the destination has it"),
    ("inet-ended6", "somebody at the destination has it"),
    ("inet-datagrams", "somebody at the destination has it"),
    ("inet-datagrams6", "somebody at the destination has it"),
    ("inet-udp", "somebody at the destination has it"),
];

/// What the oracle cannot capture: it stops all at once.
const NEVER_AT_REST: &str = "sockets-storm";

mig_tests::test_each_group!(agree);

/// Tries every workload of a group, and reports all differences together.
fn agree(group: &str) {
    let all = Workload::all().into_iter();
    let workloads: Vec<Workload> = all
        .filter(|workload| workload.name.starts_with(group) && workload.name != NEVER_AT_REST)
        .collect();
    assert!(!workloads.is_empty(), "no workload is left to test");
    let failures: Vec<String> = workloads
        .iter()
        .filter_map(|workload| {
            let found = trial::run(workload);
            let refused = REFUSED.iter().find(|(name, _)| *name == workload.name);
            let error = match (found, refused) {
                (Ok(()), None) => return None,
                (Err(error), Some((_, words))) if format!("{error:#}").contains(words) => {
                    return None;
                }
                (Ok(()), Some((_, words))) => anyhow::anyhow!("not refused: {words}"),
                (Err(error), _) => error,
            };
            Some(format!(
                "{} ({}): {error:#}",
                workload.name, workload.proves
            ))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        workloads.len(),
        failures.join("\n")
    );
}
