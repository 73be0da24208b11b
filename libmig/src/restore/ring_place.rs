//! Where the memory of an io_uring(7) comes to lie. The kernel takes no address for it, neither
//! from mmap(2) nor from mremap(2): it goes where alone there is room.

use std::os::fd::RawFd;

use super::{
    build::Building,
    error::{RestoreError, host},
    layout::{ADDRESS_END, Layout, Map, Source},
};
use crate::{
    api::Obstacle,
    image::Pid,
    inspect::maps,
    sys::remote::{Arg, Batch, Slot},
};

/// No program has anything below, and nobody is given anything there.
const LOWEST: u64 = 0x1_0000;

impl Building {
    /// Maps the rings of a process, which has all other mappings.
    pub(super) fn map_rings(&mut self, pid: Pid, layout: &Layout) -> Result<(), RestoreError> {
        let rings: Vec<(&Map, RawFd)> = layout
            .maps
            .iter()
            .filter_map(|map| match map.source {
                Source::Shared(id, _) if self.shared.is_ring(id) => {
                    Some((map, self.shared.raw(id, true)?))
                }
                _ => None,
            })
            .collect();
        let Some(husk) = self.husks.get_mut(&pid).filter(|_| !rings.is_empty()) else {
            return Ok(());
        };
        let areas = maps::read(husk.host()).map_err(host("read the mappings of a husk"))?;
        let mut occupied: Vec<(u64, u64)> =
            areas.iter().map(|area| (area.start, area.end)).collect();
        for (ring, number) in rings {
            let mut batch = Batch::new();
            let descriptor = batch.call(
                libc::SYS_pidfd_getfd,
                &[self.daemon.into(), number.into(), 0u64.into()],
            );
            let place = map(&mut batch, ring, descriptor.into(), &mut occupied);
            batch.call(libc::SYS_close, &[descriptor.into()]);
            let results = husk.run(self.injector, &batch, "map an io_uring")?;
            if results.outcome(place).value() != Some(ring.address) {
                return Err(misplaced(pid, ring.address).into());
            }
        }
        Ok(())
    }
}

fn misplaced(pid: Pid, address: u64) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("io_uring at {address:#x}"),
        reason: "this node's kernel maps it elsewhere".into(),
        remedy: "start the program with io_uring switched off (UV_USE_IO_URING=0 for Node.js)"
            .into(),
        transient: false,
    }
}

/// Maps the ring behind `descriptor` at the address of `map`, in an address space that has
/// nothing but `occupied`. The result is the address.
fn map(batch: &mut Batch, map: &Map, descriptor: Arg, occupied: &mut Vec<(u64, u64)>) -> Slot {
    occupied.push((map.address, map.address.saturating_add(map.length)));
    // [vsyscall] lies where nobody maps anything.
    occupied.retain(|(start, _)| *start < ADDRESS_END);
    occupied.sort_unstable();
    let gaps = gaps(occupied);
    let nothing =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    for (start, end) in &gaps {
        batch.call(
            libc::SYS_mmap,
            &[
                (*start).into(),
                (end - start).into(),
                libc::PROT_NONE.into(),
                nothing.into(),
                (-1).into(),
                0u64.into(),
            ],
        );
    }
    let flags = map.flags & !u64::from(libc::MAP_FIXED_NOREPLACE.cast_unsigned());
    let mapped = batch.call(
        libc::SYS_mmap,
        &[
            0u64.into(),
            map.length.into(),
            map.protection.into(),
            flags.into(),
            descriptor,
            map.offset.into(),
        ],
    );
    for (start, end) in gaps {
        batch.call(libc::SYS_munmap, &[start.into(), (end - start).into()]);
    }
    mapped
}

/// What lies between ranges that are in order.
fn gaps(occupied: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut free_from = LOWEST;
    let mut gaps = Vec::new();
    for (start, end) in occupied.iter().copied().chain([(ADDRESS_END, ADDRESS_END)]) {
        if free_from < start {
            gaps.push((free_from, start));
        }
        free_from = free_from.max(end);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_left() {
        let found = gaps(&[(0x2_0000, 0x3_0000), (0x3_0000, 0x4_0000)]);
        assert_eq!(found, [(0x1_0000, 0x2_0000), (0x4_0000, ADDRESS_END)]);
        assert_eq!(gaps(&[(0, ADDRESS_END)]), []);
    }
}
