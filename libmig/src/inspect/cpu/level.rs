//! CPUs by level: which one a CPU has, and what a job that keeps to one needs.
//!
//! A job without a level needs all that it may have found where it was started. One
//! that keeps to a level needs the level: the instructions, and the state that they
//! use. What else the XSAVE area of a node holds stays in its initial state, which
//! takes no room in the image and is no part of what a C library saves.

use std::collections::BTreeSet;

use crate::api::CpuLevel;

use super::{CpuFeatures, CpuMismatch};

/// x86-64 psABI, table of levels; names of /proc/cpuinfo.
const V2: &[&str] = &[
    "cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2", "cx16", "lahf_lm", "popcnt", "pni",
    "sse4_1", "sse4_2", "ssse3",
];
/// The last three are not in the table, but in every CPU of the level: cryptography
/// would be many times slower without.
const V3: &[&str] = &[
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "abm",
    "movbe",
    "osxsave",
    "aes",
    "pclmulqdq",
    "rdrand",
];
const V4: &[&str] = &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];

/// State components, as bits of XCR0: x87 and SSE; AVX; AVX-512.
const LEGACY: u64 = 3;
const AVX: u64 = 1 << 2;
const AVX512: u64 = 0b111 << 5;
/// Protection keys: no instruction set of a level, and harmless while nobody uses them.
const PKRU: u64 = 1 << 9;

/// The instruction sets of `level`, with those of the levels below it.
pub fn instructions(level: CpuLevel) -> impl Iterator<Item = &'static str> {
    let lists: &[&[&str]] = match level {
        CpuLevel::V2 => &[V2],
        CpuLevel::V3 => &[V2, V3],
        CpuLevel::V4 => &[V2, V3, V4],
    };
    lists.iter().copied().flatten().copied()
}

/// The highest level that a CPU with all of these instruction sets has.
pub fn highest<'a>(instructions: impl IntoIterator<Item = &'a str>) -> Option<CpuLevel> {
    let there: BTreeSet<&str> = instructions.into_iter().collect();
    let has = |level: &CpuLevel| self::instructions(*level).all(|name| there.contains(name));
    CpuLevel::ALL.into_iter().find(has)
}

/// The state that the instructions of `level` use, as bits of XCR0.
#[must_use]
pub fn state(level: CpuLevel) -> u64 {
    match level {
        CpuLevel::V2 => LEGACY,
        CpuLevel::V3 => LEGACY | AVX,
        CpuLevel::V4 => LEGACY | AVX | AVX512,
    }
}

/// State components among `in_use` that a program of `level` has no instructions for.
#[must_use]
pub fn beyond(level: CpuLevel, in_use: u64) -> u64 {
    in_use & !(state(level) | PKRU)
}

/// What a job that keeps to `level` would miss on this CPU.
#[must_use]
pub fn missing(level: CpuLevel, destination: &CpuFeatures) -> Vec<CpuMismatch> {
    let there = &destination.instructions;
    let lacking: Vec<String> = instructions(level)
        .filter(|name| !there.contains(*name))
        .map(str::to_owned)
        .collect();
    let mut missing = Vec::new();
    if !lacking.is_empty() {
        missing.push(CpuMismatch::Instructions(lacking));
    }
    if state(level) & !destination.xcr0 & !LEGACY != 0 {
        missing.push(CpuMismatch::Components {
            source_mask: state(level),
            destination_mask: destination.xcr0,
        });
    }
    missing
}

impl CpuFeatures {
    /// The highest level that it has.
    #[must_use]
    pub fn level(&self) -> Option<CpuLevel> {
        highest(self.instructions.iter().map(String::as_str))
    }

    /// This CPU, as it would be without these instruction sets and the state that is
    /// theirs alone: what tests of mixed pools compare on machines that are alike.
    #[must_use]
    pub fn without(mut self, lacking: &[String]) -> Self {
        self.instructions.retain(|name| !lacking.contains(name));
        for (instructions, state) in [("avx", AVX | AVX512), ("avx512f", AVX512)] {
            if !self.instructions.contains(instructions) {
                self.xcr0 &= !state;
            }
        }
        let xcr0 = self.xcr0;
        self.components.retain(|number, _| xcr0 >> number & 1 == 1);
        let ends = self.components.values().map(|(size, offset)| size + offset);
        self.xsave_size = ends.max().unwrap_or(XSAVE_LEAST).max(XSAVE_LEAST);
        self
    }
}

/// Legacy area and header.
const XSAVE_LEAST: u32 = 576;

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(level: CpuLevel) -> CpuFeatures {
        let all = instructions(CpuLevel::V4).map(str::to_owned).collect();
        let cpu = CpuFeatures {
            vendor: String::new(),
            model: String::new(),
            instructions: all,
            xcr0: 0xe7,
            xsave_size: 2688,
            components: [
                (2, (256, 576)),
                (5, (64, 1088)),
                (6, (512, 1152)),
                (7, (1024, 1664)),
            ]
            .into(),
            signal_frame: 3376,
        };
        let beyond: Vec<String> = match level {
            CpuLevel::V2 => V3.iter().chain(V4).map(|name| (*name).to_owned()).collect(),
            CpuLevel::V3 => V4.iter().map(|name| (*name).to_owned()).collect(),
            CpuLevel::V4 => vec![],
        };
        cpu.without(&beyond)
    }

    #[test]
    fn a_cpu_has_the_highest_level_of_which_it_lacks_nothing() {
        for level in CpuLevel::ALL {
            assert_eq!(cpu(level).level(), Some(level));
        }
        let lacking = cpu(CpuLevel::V4).without(&["movbe".to_owned()]);
        assert_eq!(lacking.level(), Some(CpuLevel::V2));
        assert_eq!(
            cpu(CpuLevel::V2).without(&["popcnt".to_owned()]).level(),
            None
        );
    }

    #[test]
    fn a_level_is_enough_whatever_else_the_source_had() {
        let [v4, v3, v2] = CpuLevel::ALL.map(cpu);
        assert_eq!(missing(CpuLevel::V2, &v2), []);
        assert_eq!(missing(CpuLevel::V2, &v4), []);
        assert_eq!(missing(CpuLevel::V3, &v4), []);
        assert_eq!(missing(CpuLevel::V3, &v3), []);
        assert!(!v4.missing_at(&v3).is_empty(), "without a level it is not");
        assert!(!v3.missing_at(&v4).is_empty(), "the state differs");
        assert!(matches!(
            &missing(CpuLevel::V3, &v2)[..],
            [CpuMismatch::Instructions(lacking), CpuMismatch::Components { .. }]
                if lacking.len() == V3.len()
        ));
    }

    #[test]
    fn state_goes_with_its_instructions() {
        let v3 = cpu(CpuLevel::V3);
        assert_eq!((v3.xcr0, v3.xsave_size), (7, 832));
        assert_eq!(v3.components.len(), 1);
        let v2 = cpu(CpuLevel::V2);
        assert_eq!((v2.xcr0, v2.xsave_size), (3, 576));
        assert_eq!(beyond(CpuLevel::V2, 7), 4);
        assert_eq!(beyond(CpuLevel::V3, 0x207), 0);
        assert_eq!(beyond(CpuLevel::V3, 0xe7), 0xe0);
    }

    #[test]
    fn every_name_is_one_that_a_cpu_is_asked_for() {
        let known: BTreeSet<&str> = super::super::INSTRUCTIONS
            .iter()
            .flat_map(|(.., bits)| bits.iter().map(|(_, name)| *name))
            .collect();
        for name in instructions(CpuLevel::V4) {
            assert!(known.contains(name), "{name}");
        }
    }
}
