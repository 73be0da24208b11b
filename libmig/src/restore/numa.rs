//! Memory policies: on which memory nodes pages are placed.

use std::{fs, sync::OnceLock};

use crate::{
    image::{Mapping, MemoryPolicy},
    sys::remote::{Arg, Batch},
};

/// The nodes of the mask count from those that the program may use.
const MPOL_F_RELATIVE_NODES: i32 = 1 << 14;
/// Those of the machine that have memory.
const NODES: &str = "/sys/devices/system/node/has_memory";

/// mbind(2) of a mapping. Before it has contents, which follow its policy.
pub(super) fn bind(batch: &mut Batch, mapping: &Mapping) {
    let Some(policy) = &mapping.policy else {
        return;
    };
    if let Some((nodes, most)) = mask(batch, policy, here()) {
        let length = mapping.end - mapping.start;
        let mode = policy.mode.into();
        let bind = [
            mapping.start.into(),
            length.into(),
            mode,
            nodes,
            most,
            0u64.into(),
        ];
        batch.attempt(libc::SYS_mbind, &bind);
    }
}

/// set_mempolicy(2) of the thread that executes it.
pub(super) fn set(batch: &mut Batch, policy: &MemoryPolicy) {
    if let Some((nodes, most)) = mask(batch, policy, here()) {
        batch.attempt(libc::SYS_set_mempolicy, &[policy.mode.into(), nodes, most]);
    }
}

/// The mask and the number of its bits, as the calls want them: of the nodes, those that this
/// machine has, as sched_setaffinity(2) does with CPUs. `None` when there are none.
fn mask(batch: &mut Batch, policy: &MemoryPolicy, here: &[u64]) -> Option<(Arg, Arg)> {
    if policy.nodes.is_empty() {
        // MPOL_LOCAL.
        return Some((0u64.into(), 0u64.into()));
    }
    let nodes = available(policy, here)?;
    let bytes: Vec<u8> = nodes.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bits = bytes.len() as u64 * 8;
    // The kernel takes one bit less than it is told.
    Some((batch.data(&bytes).into(), (bits + 1).into()))
}

fn available(policy: &MemoryPolicy, here: &[u64]) -> Option<Vec<u64>> {
    let relative = policy.mode & MPOL_F_RELATIVE_NODES != 0;
    let words = policy.nodes.iter().take(MemoryPolicy::WORDS).enumerate();
    let nodes: Vec<u64> = words
        .map(|(at, word)| match here.get(at) {
            _ if relative => *word,
            Some(present) => word & present,
            None => 0,
        })
        .collect();
    nodes.iter().any(|word| *word != 0).then_some(nodes)
}

/// The memory nodes of this machine; node 0 where the kernel does not say.
fn here() -> &'static [u64] {
    static HERE: OnceLock<Vec<u64>> = OnceLock::new();
    HERE.get_or_init(|| {
        let list = fs::read_to_string(NODES).ok();
        list.and_then(|list| parse(list.trim()))
            .unwrap_or_else(|| vec![1])
    })
}

/// A list of ranges, `0-1,4`, as a mask.
fn parse(list: &str) -> Option<Vec<u64>> {
    let mut words = vec![0; MemoryPolicy::WORDS];
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        for node in first..=last {
            *words.get_mut(node / 64)? |= 1 << (node % 64);
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_mask_the_nodes_count_that_there_are() {
        let here = parse("0-1,64").unwrap();
        assert_eq!((here[0], here[1], here[2]), (0b11, 1, 0));
        let policy = |mode, nodes: &[u64]| MemoryPolicy {
            mode,
            nodes: nodes.to_vec(),
        };
        let bind = |nodes: &[u64]| available(&policy(2, nodes), &here);
        assert_eq!(bind(&[0b110]), Some(vec![0b10]));
        assert_eq!(bind(&[0b100, 0b11]), Some(vec![0, 1]));
        assert_eq!(bind(&[0b100]), None);
        assert_eq!(bind(&vec![0; 1000]), None);
        let relative = policy(2 | MPOL_F_RELATIVE_NODES, &[0b100]);
        assert_eq!(available(&relative, &here), Some(vec![0b100]));
        assert_eq!(parse(""), None);
        assert_eq!(parse("5000"), None);
    }
}
