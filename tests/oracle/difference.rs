//! Two captures of one tree, compared: the path of every field that differs, and every page.
//!
//! Times that are left are compared as the moment at which they are over, by the job's own clock: that clock went
//! on with the job. What else may differ, and why, is in [`Comparison::allows`].

use serde_json::Value;
#[cfg(test)]
use serde_json::json;

use crate::moments::plain;
use crate::pages;
use crate::snapshot::Snapshot;

/// Two moments that are one: no clock is read at the very instant at which a timer is.
const SAME_MOMENT_NS: i64 = 25_000_000;
/// More than any trial takes.
const TRIAL_NS: i64 = 60_000_000_000;
/// More than a tick of any kernel (CONFIG_HZ from 100).
const TICK_US: i64 = 10_000;
/// Differences shown for one trial; more say nothing new.
const SHOWN: usize = 40;

/// Every difference that is not allowed, as `path: before -> after`.
pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let comparison = Comparison {
        now: after.image.capsule.clocks.monotonic_ns,
    };
    let mut found = Vec::new();
    comparison.values("", &plain(&before.image), &plain(&after.image), &mut found);
    found.extend(pages::differences(before, after));
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

struct Comparison {
    /// The job's clock at the second capture.
    now: i64,
}

impl Comparison {
    fn values(&self, path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
        if before == after || self.allows(&without_indexes(path), before, after) {
            return;
        }
        match (before, after) {
            (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
                for (key, value) in a {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.values(&format!("{path}{dot}{key}"), value, &b[key], found);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (index, (a, b)) in a.iter().zip(b).enumerate() {
                    self.values(&format!("{path}[{index}]"), a, b, found);
                }
            }
            _ => found.push(format!("{path}: {} -> {}", short(before), short(after))),
        }
    }

    /// What legitimately differs; `[]` stands for any index.
    fn allows(&self, pattern: &str, before: &Value, after: &Value) -> bool {
        match pattern {
            // Time goes on.
            "capsule.clocks.realtime_ns"
            | "capsule.clocks.monotonic_ns"
            | "capsule.clocks.boottime_ns" => {
                within(before, after, |later| (0..TRIAL_NS).contains(&later))
            }
            // Timers are armed again, and clocks read, one after the other.
            "processes[].kind.Live.timers[].due"
            | "processes[].kind.Live.itimers[].due"
            | "processes[].kind.Live.threads[].sleep.over_at"
            | "files[].object.Timer.first_unread" => same_moment(before, after),
            // Expired since, and not wound up again before SIGALRM is delivered; or the other way round.
            "processes[].kind.Live.itimers[]" => {
                let repeats = before["interval_us"] == after["interval_us"];
                let expired = |timer: &Value| timer["value_us"] == 0 && timer["interval_us"] != 0;
                repeats && (expired(before) || expired(after))
            }
            // The kernel counts CPU time in ticks.
            "processes[].kind.Live.itimers[].value_us" => {
                within(before, after, |later| later.abs() <= TICK_US)
            }
            // Timers go on while the tree is frozen.
            "processes[].kind.Live.pending" | "processes[].kind.Live.threads[].pending" => {
                only_timers_fired(before, after)
            }
            "processes[].kind.Live.threads[]" => self.has_woken(before, after),
            // The kernel stops to count memory against the commit limit that is made read-only and was never written to:
            // the original had been, and was emptied since.
            "processes[].kind.Live.memory.mappings[].flags.accounted" => *before == true,
            // The kernel names a file without a name by its inode, in the same directory.
            "processes[].kind.Live.memory.exe.file.path" => {
                let number = |path: &Value| {
                    path.as_array()?
                        .iter()
                        .rev()
                        .find(|byte| !(48..58).contains(&byte.as_u64().unwrap_or(0)))
                        .cloned()
                };
                directory(before) == directory(after) && number(after) == Some(Value::from(b'#'))
            }
            "files[].object.Unlinked.path" | "shared[].kind.File.path" => {
                directory(before) == directory(after)
            }
            "pipes[].fifo" => {
                let path = |fifo: &Value| directory(&fifo["file"]["path"]).map(<[Value]>::to_vec);
                before["unlinked"] == true
                    && after["unlinked"] == true
                    && path(before) == path(after)
            }
            // A place in a text whose numbers have more or fewer digits at each look (files-lines checks it).
            "files[]" => {
                let text = |file: &Value| {
                    let object = &file["object"]["Proc"];
                    let rest = (
                        object["file"].clone(),
                        file["flags"].clone(),
                        file["owner"].clone(),
                    );
                    object["place"].is_object().then_some(rest)
                };
                text(before).is_some() && text(before) == text(after)
            }
            // A file that goes along is made anew; its name is told by the path.
            "shared[].kind.File.own.inode" | "shared[].kind.File.own.device" => true,
            // Indexes of a ring that has none: entry n is the nth.
            "shared[].kind.Ring.queues[]" => *before == 0,
            // A socket is made anew; which file is its name is told by the path.
            "files[].object.Unix.file.identity" => true,
            // The same terminal, by the name of its own.
            "files[].object" => {
                !before["ControllingTty"].is_null() && before["ControllingTty"] == after["TtySlave"]
            }
            _ => false,
        }
    }

    /// Whether a thread differs in nothing but that its sleep was over when the job was built again. The call
    /// then has its result, or is about to have it.
    fn has_woken(&self, before: &Value, after: &Value) -> bool {
        const RAX: usize = 10;
        const ORIG_RAX: usize = 15;
        let over = |sleep: &Value| {
            let over_at = sleep["over_at"].as_i64();
            over_at.is_some_and(|over_at| over_at <= self.now + SAME_MOMENT_NS)
        };
        let woken = after["sleep"].is_null() || over(&after["sleep"]);
        if !over(&before["sleep"]) || !woken {
            return false;
        }
        let mut asleep = after.clone();
        asleep["sleep"] = before["sleep"].clone();
        for register in [RAX, ORIG_RAX] {
            asleep["registers"][register] = before["registers"][register].clone();
        }
        let mut found = Vec::new();
        self.values(
            "processes[].kind.Live.threads[].",
            before,
            &asleep,
            &mut found,
        );
        found.is_empty()
    }
}

fn within(before: &Value, after: &Value, allowed: impl Fn(i64) -> bool) -> bool {
    match (before.as_i64(), after.as_i64()) {
        (Some(before), Some(after)) => allowed(after - before),
        _ => false,
    }
}

/// Of something that repeats, the same place in its period.
fn same_moment(before: &Value, after: &Value) -> bool {
    let period = before["of"].as_i64();
    match period {
        None => within(before, after, |later| later.abs() <= SAME_MOMENT_NS),
        Some(period) => {
            before["of"] == after["of"]
                && within(&before["phase"], &after["phase"], |later| {
                    later.abs().min(period - later.abs()) <= SAME_MOMENT_NS
                })
        }
    }
}

/// Whether all signals are still there, and the new ones are those of timers.
fn only_timers_fired(before: &Value, after: &Value) -> bool {
    const OVERRUN: std::ops::Range<usize> = 20..24;
    let signals = |list: &Value| -> Vec<Vec<u64>> {
        let list = list.as_array().into_iter().flatten();
        list.map(|signal| {
            let bytes = signal.as_array().into_iter().flatten();
            let mut bytes: Vec<u64> = bytes.filter_map(Value::as_u64).collect();
            if is_of_timer(&bytes) {
                bytes[OVERRUN].fill(0);
            }
            bytes
        })
        .collect()
    };
    let (before, mut after) = (signals(before), signals(after));
    for signal in &before {
        let Some(place) = after.iter().position(|other| other == signal) else {
            return false;
        };
        after.remove(place);
    }
    after.iter().all(|signal| is_of_timer(signal))
}

/// From timer_create(2), or SIGALRM and its like from the kernel.
fn is_of_timer(siginfo: &[u64]) -> bool {
    const SI_TIMER: [u64; 4] = [0xfe, 0xff, 0xff, 0xff];
    const SI_KERNEL: [u64; 4] = [0x80, 0, 0, 0];
    const SIGALRM: u64 = 14;
    const SIGVTALRM: u64 = 26;
    const SIGPROF: u64 = 27;
    let code = siginfo.get(8..12).unwrap_or_default();
    let number = siginfo.first().copied().unwrap_or(0);
    code == SI_TIMER || (code == SI_KERNEL && matches!(number, SIGALRM | SIGVTALRM | SIGPROF))
}

fn directory(path: &Value) -> Option<&[Value]> {
    let path = path.as_array()?;
    let slash = path.iter().rposition(|byte| *byte == u64::from(b'/'))?;
    Some(&path[..slash])
}

fn without_indexes(path: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for character in path.chars() {
        inside &= character != ']';
        if !inside {
            kept.push(character);
        }
        inside |= character == '[';
    }
    kept
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 160;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[test]
fn differences_are_named_by_their_path() {
    let before = json!({ "a": [1, { "b": 2 }], "c": "x", "d": [1] });
    let after = json!({ "a": [1, { "b": 3 }], "c": "x", "d": [1, 2] });
    let mut found = Vec::new();
    Comparison { now: 0 }.values("", &before, &after, &mut found);
    assert_eq!(found, ["a[1].b: 2 -> 3", "d: [1] -> [1,2]"]);
}

#[test]
fn only_the_same_moment_is_allowed() {
    let allows =
        |path, before: Value, after: Value| Comparison { now: 0 }.allows(path, &before, &after);
    let due = "processes[].kind.Live.timers[].due";
    assert!(allows(due, json!(1000), json!(900)) && allows(due, json!(900), json!(1000)));
    assert!(!allows(due, json!(1_000_000_000), json!(0)));
    let phase = |phase: i64| json!({ "phase": phase, "of": 1_000_000_000 });
    assert!(
        allows(due, phase(999_999_999), phase(1)) && !allows(due, phase(0), phase(500_000_000))
    );
    assert!(!allows("processes[].pid", json!(1), json!(2)));
}

#[test]
fn a_signal_that_is_lost_or_made_up_is_told() {
    let pending = "processes[].kind.Live.pending";
    let allows =
        |before: Value, after: Value| Comparison { now: 0 }.allows(pending, &before, &after);
    let signal = |number: u8, code: u8| {
        let mut bytes = [0; 128];
        bytes[0] = number;
        bytes[8] = code;
        Value::from(bytes.to_vec())
    };
    let (alarm, user) = (signal(14, 0x80), signal(10, 0));
    assert!(allows(json!([user]), json!([user, alarm])));
    assert!(!allows(json!([user]), json!([alarm])) && !allows(json!([]), json!([user])));
}
