//! An image as plain values that can be compared: what only has another form is brought into one.

use libmig::image::{Backing, FileObject, JobImage, LiveProcess, Mapping, XState};
use serde_json::{Value, json};

use crate::pages::live;

/// The image as a tree of values. Times that are left become the moments at which they are over.
pub(super) fn plain(image: &JobImage) -> Value {
    let mut value = serde_json::to_value(image).expect("plain data");
    let now = i128::from(image.capsule.clocks.monotonic_ns);
    let at = |left: u64| i64::try_from(now + i128::from(left)).expect("a moment of this era");
    if let Some(locks) = value["locks"].as_array_mut() {
        // In the order in which they were taken.
        locks.sort_by_key(Value::to_string);
    }
    for (index, process) in image.processes.iter().enumerate() {
        if let Some((_, process)) = live(image).find(|(pid, _)| *pid == process.pid) {
            let value = &mut value["processes"][index]["kind"]["Live"];
            process_times(process, at, value);
            let mappings = coalesced(&process.memory.mappings);
            value["memory"]["mappings"] = serde_json::to_value(mappings).expect("plain data");
            for (thread, place) in process.threads.iter().enumerate() {
                value["threads"][thread]["xstate"] = xstate(&place.xstate);
            }
        }
    }
    for (index, file) in image.files.iter().enumerate() {
        let object = &mut value["files"][index]["object"];
        match &file.object {
            FileObject::Timer(timer) if timer.remaining_ns != 0 => {
                let unread = i64::try_from(timer.ticks * timer.interval_ns).expect("a short trial");
                object["Timer"]["first_unread"] = (at(timer.remaining_ns) - unread).into();
                object["Timer"]["ticks"] = Value::Null;
                object["Timer"]["remaining_ns"] = Value::Null;
            }
            // The kernel lists them by the address of the description.
            FileObject::Epoll(entries) => {
                let mut sorted = entries.clone();
                sorted.sort_by_key(|entry| (entry.number, entry.file));
                object["Epoll"] = serde_json::to_value(sorted).expect("plain data");
            }
            _ => {}
        }
    }
    value
}

fn process_times(process: &LiveProcess, at: impl Fn(u64) -> i64, value: &mut Value) {
    for (index, thread) in process.threads.iter().enumerate() {
        if let Some(sleep) = thread.sleep {
            value["threads"][index]["sleep"] =
                json!({ "number": sleep.number, "over_at": at(sleep.remaining_ns) });
        }
    }
    for (index, timer) in process.timers.iter().enumerate() {
        if timer.remaining_ns != 0 && timer.runs_on() {
            let value = &mut value["timers"][index];
            value["remaining_ns"] = Value::Null;
            value["due"] = moment(at(timer.remaining_ns), timer.interval_ns);
        }
    }
    let real = process.itimers[0];
    if real.value_us != 0 {
        let due = moment(at(real.value_us * 1000), real.interval_us * 1000);
        value["itimers"][0] = json!({ "due": due, "interval_us": real.interval_us });
    }
}

/// Neighbours that are alike are one mapping: whether the kernel sees two depends on the order in which they were made.
fn coalesced(mappings: &[Mapping]) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for mapping in mappings {
        match all.last_mut() {
            Some(last) if continues(last, mapping) => {
                last.end = mapping.end;
                last.guards.extend(&mapping.guards);
            }
            _ => all.push(mapping.clone()),
        }
    }
    all
}

fn continues(last: &Mapping, next: &Mapping) -> bool {
    let size = last.end - last.start;
    let backing = match (&last.backing, &next.backing) {
        (Backing::Anonymous, Backing::Anonymous) => true,
        (Backing::FilePrivate(a), Backing::FilePrivate(b)) => {
            a.file == b.file && a.offset + size == b.offset
        }
        (Backing::FileShared(a, access), Backing::FileShared(b, other)) => {
            a.file == b.file && a.offset + size == b.offset && access == other
        }
        _ => false,
    };
    let alike = last.protection == next.protection && last.flags == next.flags;
    last.end == next.start && alike && backing
}

/// A moment; of something that repeats, only where in its period that is.
fn moment(at: i64, interval_ns: u64) -> Value {
    match i64::try_from(interval_ns) {
        Ok(interval) if interval > 0 => json!({ "phase": at % interval, "of": interval }),
        _ => at.into(),
    }
}

/// A component in its initial state may be called present or not: the processor is free to.
fn xstate(state: &XState) -> Value {
    const SSE: u64 = 1 << 1;
    let mut present = state.present;
    let vectors = state.legacy.get(160..416).unwrap_or_default();
    if vectors.iter().all(|byte| *byte == 0) {
        present &= !SSE;
    }
    let mut components = state.components.clone();
    components.retain(|(number, bytes)| {
        let initial = bytes.iter().all(|byte| *byte == 0);
        if initial {
            present &= !(1 << number);
        }
        !initial
    });
    json!({ "legacy": state.legacy, "present": present, "components": components })
}
