//! What a program that was started here may rely on in this CPU, as data for
//! the handshake, and whether another CPU has it too.
//!
//! Two rules. Every instruction set that a program can have found here must be
//! there: programs ask once, at their start. And the XSAVE state must be laid
//! out alike, with the same components switched on: a C library has measured
//! its save areas by them, and signal frames on the program's stack have this
//! layout, so that even *more* components at the destination are unsafe.
//! A job that keeps to a [`level`] needs less.
//! Hints about speed (ERMS, FSRM) and what only kernels can use do not count:
//! CRIU refused moves for those.

pub mod level;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::sys::cpuid;

/// The CPU of one node, as its programs see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFeatures {
    /// CPUID vendor, for people: `GenuineIntel`.
    pub vendor: String,
    /// CPUID brand, for people.
    pub model: String,
    /// Instruction sets, by the names of `/proc/cpuinfo`.
    pub instructions: BTreeSet<String>,
    /// State components that are switched on (XCR0).
    pub xcr0: u64,
    /// Bytes of the XSAVE area in its standard form.
    pub xsave_size: u32,
    /// Size and offset of each component from the third on, by its number.
    pub components: BTreeMap<u32, (u32, u32)>,
    /// AT_MINSIGSTKSZ: what programs size their alternate stacks by.
    pub signal_frame: u64,
}

/// One thing that keeps a program from going to another CPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CpuMismatch {
    /// The program may use instructions that the destination has not.
    #[error("the destination's CPU lacks {}", .0.join(", "))]
    Instructions(Vec<String>),
    /// Other state components are switched on.
    #[error(
        "the state components differ: XCR0 is {source_mask:#x} here and {destination_mask:#x} there"
    )]
    Components {
        /// XCR0 of the source.
        source_mask: u64,
        /// XCR0 of the destination.
        destination_mask: u64,
    },
    /// The same components lie elsewhere.
    #[error("the XSAVE area is laid out differently")]
    Layout,
    /// Signal frames are larger there than programs were told.
    #[error("signal frames need {needed} bytes there, and programs were told {told}")]
    SignalFrame {
        /// AT_MINSIGSTKSZ of the destination.
        needed: u64,
        /// AT_MINSIGSTKSZ of the source.
        told: u64,
    },
}

/// Registers of a CPUID leaf.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Leaf, subleaf, register, and what its bits mean: Intel SDM volume 2,
/// CPUID; AMD APM volume 3, appendix E. Only what a program can execute.
type Bits = (u32, u32, usize, &'static [(u32, &'static str)]);
const INSTRUCTIONS: &[Bits] = &[
    (
        1,
        0,
        EDX,
        &[
            (0, "fpu"),
            (8, "cx8"),
            (15, "cmov"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
        ],
    ),
    (
        1,
        0,
        ECX,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (22, "movbe"),
            (23, "popcnt"),
            (25, "aes"),
            (27, "osxsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
    ),
    (
        7,
        0,
        EBX,
        &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (8, "bmi2"),
            (11, "rtm"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (26, "avx512pf"),
            (27, "avx512er"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    (
        7,
        0,
        ECX,
        &[
            (0, "prefetchwt1"),
            (1, "avx512vbmi"),
            (4, "ospke"),
            (5, "waitpkg"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (22, "rdpid"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
    ),
    (
        7,
        0,
        EDX,
        &[
            (2, "avx512_4vnniw"),
            (3, "avx512_4fmaps"),
            (8, "avx512_vp2intersect"),
            (14, "serialize"),
            (16, "tsxldtrk"),
            (22, "amx_bf16"),
            (23, "avx512_fp16"),
            (24, "amx_tile"),
            (25, "amx_int8"),
        ],
    ),
    (
        7,
        1,
        EAX,
        &[
            (0, "sha512"),
            (1, "sm3"),
            (2, "sm4"),
            (3, "rao_int"),
            (4, "avx_vnni"),
            (5, "avx512_bf16"),
            (7, "cmpccxadd"),
            (21, "amx_fp16"),
            (23, "avx_ifma"),
        ],
    ),
    (
        7,
        1,
        EDX,
        &[
            (4, "avx_vnni_int8"),
            (5, "avx_ne_convert"),
            (8, "amx_complex"),
            (10, "avx_vnni_int16"),
            (14, "prefetchi"),
            (19, "avx10"),
            (21, "apx_f"),
        ],
    ),
    (
        0xd,
        1,
        EAX,
        &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (4, "xfd")],
    ),
    (
        0x8000_0001,
        0,
        EDX,
        &[
            (22, "mmxext"),
            (27, "rdtscp"),
            (30, "3dnowext"),
            (31, "3dnow"),
        ],
    ),
    (
        0x8000_0001,
        0,
        ECX,
        &[
            (0, "lahf_lm"),
            (5, "abm"),
            (6, "sse4a"),
            (8, "3dnowprefetch"),
            (11, "xop"),
            (16, "fma4"),
            (21, "tbm"),
            (29, "mwaitx"),
        ],
    ),
    (
        0x8000_0008,
        0,
        EBX,
        &[(0, "clzero"), (4, "rdpru"), (9, "wbnoinvd")],
    ),
];

impl CpuFeatures {
    /// Those of the CPU that this runs on.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let mut instructions = BTreeSet::new();
        for (leaf, subleaf, register, bits) in INSTRUCTIONS {
            let value = cpuid::leaf(*leaf, *subleaf)[*register];
            let there = bits.iter().filter(|(bit, _)| value >> bit & 1 == 1);
            instructions.extend(there.map(|(_, name)| (*name).to_owned()));
        }
        let xcr0 = cpuid::xcr0();
        let component = |number: u32| {
            let [size, offset, ..] = cpuid::leaf(0xd, number);
            (number, (size, offset))
        };
        let switched_on = (2..63).filter(|number| xcr0 >> number & 1 == 1);
        Self {
            vendor: vendor(),
            model: model(),
            instructions,
            xcr0,
            xsave_size: cpuid::leaf(0xd, 0)[EBX],
            components: switched_on.map(component).collect(),
            signal_frame: cpuid::signal_frame(),
        }
    }

    /// What a program that was started on this CPU could miss on `destination`'s.
    /// Empty when it can go there.
    #[must_use]
    pub fn missing_at(&self, destination: &Self) -> Vec<CpuMismatch> {
        let mut missing = Vec::new();
        let lacking: Vec<_> = self
            .instructions
            .difference(&destination.instructions)
            .cloned()
            .collect();
        if !lacking.is_empty() {
            missing.push(CpuMismatch::Instructions(lacking));
        }
        if self.xcr0 != destination.xcr0 {
            missing.push(CpuMismatch::Components {
                source_mask: self.xcr0,
                destination_mask: destination.xcr0,
            });
        } else if self.xsave_size != destination.xsave_size
            || self.components != destination.components
        {
            missing.push(CpuMismatch::Layout);
        }
        if self.signal_frame < destination.signal_frame {
            missing.push(CpuMismatch::SignalFrame {
                needed: destination.signal_frame,
                told: self.signal_frame,
            });
        }
        missing
    }
}

fn vendor() -> String {
    let [_, b, c, d] = cpuid::leaf(0, 0);
    text(&[b, d, c])
}

fn model() -> String {
    let brand = (0x8000_0002..=0x8000_0004).flat_map(|leaf| cpuid::leaf(leaf, 0));
    text(&brand.collect::<Vec<_>>())
}

/// Registers that hold text, in the order of their bytes.
fn text(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|r| r.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu() -> CpuFeatures {
        CpuFeatures {
            vendor: "GenuineIntel".into(),
            model: "a".into(),
            instructions: ["sse2", "avx", "avx2"].map(str::to_owned).into(),
            xcr0: 7,
            xsave_size: 832,
            components: BTreeMap::from([(2, (256, 576))]),
            signal_frame: 1000,
        }
    }

    #[test]
    fn this_cpu_is_as_the_kernel_says() {
        let cpu = CpuFeatures::of_this_machine();
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let line = |key: &str| {
            let line = info.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_once(':').unwrap().1.trim().to_owned()
        };
        assert_eq!(cpu.vendor, line("vendor_id"));
        let flags: BTreeSet<_> = line("flags").split(' ').map(str::to_owned).collect();
        for flag in [
            "sse2", "pni", "avx", "avx2", "avx512f", "aes", "sha_ni", "rdrand", "bmi2", "xsavec",
            "fma", "abm",
        ] {
            assert_eq!(
                cpu.instructions.contains(flag),
                flags.contains(flag),
                "{flag}"
            );
        }
        assert!(
            cpu.instructions.contains("sse2") && cpu.xcr0 & 3 == 3,
            "{cpu:?}"
        );
        assert_eq!(cpu.missing_at(&cpu), []);
    }

    #[test]
    fn more_instructions_are_fine_and_fewer_are_not() {
        let mut more = cpu();
        more.instructions.insert("sha_ni".into());
        more.vendor = "AuthenticAMD".into();
        assert_eq!(cpu().missing_at(&more), []);
        let lacking = CpuMismatch::Instructions(vec!["sha_ni".into()]);
        assert_eq!(more.missing_at(&cpu()), [lacking]);
    }

    #[test]
    fn more_state_is_as_bad_as_less() {
        let mut wide = cpu();
        wide.xcr0 = 0xe7;
        wide.xsave_size = 2696;
        wide.signal_frame = 3376;
        assert!(matches!(
            cpu().missing_at(&wide)[..],
            [
                CpuMismatch::Components { .. },
                CpuMismatch::SignalFrame { .. }
            ]
        ));
        assert!(matches!(
            wide.missing_at(&cpu())[..],
            [CpuMismatch::Components { .. }]
        ));
    }

    #[test]
    fn the_same_state_elsewhere_is_a_mismatch() {
        let mut moved = cpu();
        moved.components.insert(2, (256, 640));
        assert_eq!(cpu().missing_at(&moved), [CpuMismatch::Layout]);
    }

    #[test]
    fn it_travels_and_says_what_is_missing() {
        let mismatch = CpuMismatch::Instructions(vec!["avx2".into(), "fma".into()]);
        assert_eq!(
            mismatch.to_string(),
            "the destination's CPU lacks avx2, fma"
        );
        let bytes = postcard::to_stdvec(&cpu()).unwrap();
        assert_eq!(postcard::from_bytes::<CpuFeatures>(&bytes).unwrap(), cpu());
    }
}
