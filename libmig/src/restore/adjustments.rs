//! SEM_UNDO adjustments of System V semaphores: what a process takes and gives back, one of
//! them with SEM_UNDO, so that no value changes.

use std::collections::BTreeMap;

use super::{build::Building, error::RestoreError, finish::Threads};
use crate::{
    image::{JobImage, Pid},
    sys::remote::Batch,
};

/// SEMVMX: the largest value.
const MOST: i32 = 32767;
const SEM_UNDO: i16 = 0x1000;
const IPC_NOWAIT: i16 = 0x800;

impl Building {
    /// Gives every process its adjustments; its threads, which exist, share them. Before it
    /// loses the right to any semaphore.
    pub(super) fn adjust(
        &self,
        image: &JobImage,
        tree: &mut BTreeMap<Pid, Threads>,
    ) -> Result<(), RestoreError> {
        let objects = &image.system_v;
        for (pid, threads) in tree {
            let own = objects.adjustments.iter().filter(|one| one.pid == *pid);
            let mut batch = Batch::new();
            for one in own {
                let set = objects
                    .semaphores
                    .iter()
                    .find(|set| set.object.id == one.set);
                let value = set.and_then(|set| set.values.get(usize::from(one.number)));
                let operations = steps(one.number, value.copied().unwrap_or(0), one.by);
                let halves = operations.iter().flatten();
                let bytes: Vec<u8> = halves.flat_map(|half| half.to_ne_bytes()).collect();
                let (data, count) = (batch.data(&bytes), operations.len() as u64);
                batch.call(
                    libc::SYS_semop,
                    &[one.set.into(), data.into(), count.into()],
                );
            }
            if let (false, Some(leader)) = (batch.is_empty(), threads.first_mut()) {
                leader.run(self.injector, &batch, "take what SEM_UNDO gives back")?;
            }
        }
        Ok(())
    }
}

/// Operations (struct sembuf) that leave a semaphore of this value as it is, without taking it
/// out of its range meanwhile, and the process with this adjustment.
fn steps(number: u16, value: u16, by: i16) -> Vec<[i16; 3]> {
    let value = i32::from(value);
    let longest = value.max(MOST - value).max(1);
    let mut left = i32::from(by).abs();
    let mut operations = Vec::new();
    while left > 0 {
        let part = left.min(longest);
        let step = |by: i32, flags| {
            let by = i16::try_from(by).unwrap_or(i16::MAX);
            [number.cast_signed(), by, IPC_NOWAIT | flags]
        };
        // The adjustment is what takes the operation back.
        let (give, take) = match by > 0 {
            true => (step(part, 0), step(-part, SEM_UNDO)),
            false => (step(part, SEM_UNDO), step(-part, 0)),
        };
        operations.extend(match part <= value {
            true => [take, give],
            false => [give, take],
        });
        left -= part;
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_changes_or_leaves_its_range() {
        for value in [0, 1, 7, 16000, 16384, 32767] {
            for by in [1, -1, 3, -300, 16384, 20000, 32767, -32768] {
                let (mut now, mut adjustment) = (i32::from(value), 0);
                for [number, change, flags] in steps(2, value, by) {
                    now += i32::from(change);
                    assert!((0..=MOST).contains(&now), "{value} {by}: {now}");
                    if flags & SEM_UNDO != 0 {
                        adjustment -= i32::from(change);
                    }
                    assert_eq!(number, 2);
                }
                assert_eq!((now, adjustment), (i32::from(value), i32::from(by)));
            }
        }
    }
}
