//! Many small tests at once in one test, with all failures reported together.

use std::collections::VecDeque;
use std::sync::Mutex;

use anyhow::Result;

/// Runs `work` for every item, `workers` at a time; `name` says in the report what an item is.
///
/// # Panics
/// When there is nothing to do, or something fails: with all failures.
pub fn for_all<T: Send>(
    items: impl IntoIterator<Item = T>,
    workers: usize,
    name: impl Fn(&T) -> String + Sync,
    work: impl Fn(&T) -> Result<()> + Sync,
) {
    let queue: VecDeque<T> = items.into_iter().collect();
    assert!(!queue.is_empty(), "nothing is left to test");
    let (queue, failures) = (Mutex::new(queue), Mutex::new(Vec::new()));
    let drain = || {
        loop {
            let Some(item) = queue.lock().expect("no worker panics").pop_front() else {
                break;
            };
            if let Err(error) = work(&item) {
                let failure = format!("{}: {error:#}", name(&item));
                failures.lock().expect("no worker panics").push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(drain);
        }
    });
    let failures = failures.into_inner().expect("no worker panics");
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
