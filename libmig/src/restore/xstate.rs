//! Extended processor state: components of the image -> the XSAVE area of
//! this CPU, whose offsets are its own. Pure but for CPUID.

use std::arch::x86_64::__cpuid_count;

use crate::{
    api::Obstacle,
    image::{Pid, XState},
};

/// Where a component lies in the standard-format XSAVE area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Bit in XCR0.
    pub number: u32,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// The user components of this CPU, CPUID leaf 0xD.
#[must_use]
pub fn components() -> Vec<Component> {
    let enabled = u64::from(__cpuid_count(0xd, 0).eax) | u64::from(__cpuid_count(0xd, 0).edx) << 32;
    (2..63u32)
        .filter(|number| enabled & 1 << number != 0)
        .map(|number| {
            let leaf = __cpuid_count(0xd, number);
            Component {
                number,
                offset: leaf.ebx as usize,
                size: leaf.eax as usize,
            }
        })
        .collect()
}

const LEGACY: usize = 512;
const HEADER: usize = 64;
/// Components 0 and 1 (x87 and SSE) live in the legacy area.
const LEGACY_BITS: u64 = 3;
/// What MXCSR may have on a CPU that reports no mask.
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// Builds the area that PTRACE_SETREGSET takes. `template` is the area of the
/// husk: it has this CPU's size and MXCSR mask.
///
/// # Errors
/// A component that this CPU or this kernel lacks, or has in another size.
pub fn area(
    tid: Pid,
    state: &XState,
    template: &[u8],
    components: &[Component],
) -> Result<Vec<u8>, Obstacle> {
    if template.len() < LEGACY + HEADER || state.legacy.len() != LEGACY {
        return Err(obstacle(tid, "x87 state", "does not have 512 bytes"));
    }
    let mut area = vec![0; template.len()];
    area[..LEGACY].copy_from_slice(&state.legacy);
    let mask = match word(template, 28) {
        0 => DEFAULT_MXCSR_MASK,
        mask => mask,
    };
    let mxcsr = word(&area, 24) & mask;
    area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    let mut present = state.present & LEGACY_BITS;
    for (number, bytes) in &state.components {
        let object = || format!("processor state {number}");
        let place = components
            .iter()
            .find(|component| component.number == *number);
        let place = place.ok_or_else(|| obstacle(tid, object(), "this CPU does not have it"))?;
        let end = place.offset.saturating_add(place.size);
        if place.size != bytes.len() || place.offset < LEGACY + HEADER {
            return Err(obstacle(tid, object(), "has another size on this CPU"));
        }
        let room = area.get_mut(place.offset..end);
        room.ok_or_else(|| obstacle(tid, object(), "this kernel does not save it"))?
            .copy_from_slice(bytes);
        present |= 1 << number;
    }
    area[LEGACY..LEGACY + 8].copy_from_slice(&present.to_le_bytes());
    Ok(area)
}

fn word(area: &[u8], at: usize) -> u32 {
    area[at..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn obstacle(tid: Pid, object: impl Into<String>, reason: &str) -> Obstacle {
    Obstacle {
        pid: Some(tid),
        object: object.into(),
        reason: reason.into(),
        remedy: "move it to a node with the same kind of CPU".into(),
        transient: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVX: Component = Component {
        number: 2,
        offset: 576,
        size: 256,
    };

    fn template() -> Vec<u8> {
        let mut template = vec![0; 832];
        template[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
        template
    }

    fn state() -> XState {
        let mut legacy = vec![7; LEGACY];
        legacy[24..28].copy_from_slice(&0x0002_1f80_u32.to_le_bytes());
        XState {
            legacy,
            present: 7,
            components: vec![(2, vec![9; 256])],
        }
    }

    #[test]
    fn components_land_where_this_cpu_has_them() {
        let area = area(5, &state(), &template(), &[AVX]).unwrap();
        assert_eq!(area.len(), 832);
        assert_eq!(area[576..832], [9; 256]);
        assert_eq!(area[512..520], 7u64.to_le_bytes());
        assert_eq!(word(&area, 24), 0x1f80, "a reserved bit of MXCSR is masked");
        assert_eq!(area[520..576], [0; 56], "the format is the standard one");
    }

    #[test]
    fn what_this_cpu_lacks_is_named() {
        let unknown = area(5, &state(), &template(), &[]).unwrap_err();
        assert!(unknown.object.contains('2'), "{unknown:?}");
        let other_size = Component { size: 128, ..AVX };
        assert!(area(5, &state(), &template(), &[other_size]).is_err());
        let outside = Component { offset: 800, ..AVX };
        assert!(area(5, &state(), &template(), &[outside]).is_err());
        let short = XState {
            legacy: vec![0; 5],
            ..state()
        };
        assert!(area(5, &short, &template(), &[AVX]).is_err());
    }

    #[test]
    fn this_cpu_has_components_inside_its_area() {
        let size = __cpuid_count(0xd, 0).ebx as usize;
        for component in components() {
            assert!(component.offset + component.size <= size, "{component:?}");
        }
    }
}
