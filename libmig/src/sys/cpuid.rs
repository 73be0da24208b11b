//! CPUID, XGETBV and the signal frame's size: what this CPU and kernel let a
//! program use.

use core::arch::asm;

/// One CPUID leaf: eax, ebx, ecx, edx. All zero when the CPU does not have it.
#[must_use]
pub fn leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    if leaf > cpuid(leaf & 0x8000_0000, 0)[0] {
        return [0; 4];
    }
    cpuid(leaf, subleaf)
}

fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: every x86_64 CPU has the instruction; it changes nothing but
    // these registers, and rbx, which the compiler keeps for itself, is put
    // back. JUSTIFICATION: the intrinsic became safe only after our oldest Rust.
    unsafe {
        asm!(
            "mov {kept}, rbx",
            "cpuid",
            "xchg {kept}, rbx",
            kept = out(reg) ebx,
            inout("eax") leaf => eax,
            inout("ecx") subleaf => ecx,
            out("edx") edx,
            options(nomem, nostack, preserves_flags)
        );
    }
    // The upper half of rbx is zero after cpuid.
    [eax, u32::try_from(ebx).unwrap_or(0), ecx, edx]
}

/// XCR0: the state components that the kernel has switched on. 0 without XSAVE.
#[must_use]
pub fn xcr0() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if leaf(1, 0)[2] & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: xgetbv of register 0 is allowed to programs once OSXSAVE is set;
    // it changes nothing. JUSTIFICATION: the intrinsic is compiled only into
    // functions with the target feature `xsave`.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags)
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// AT_MINSIGSTKSZ: bytes that a signal frame needs on the stack; 0 where the
/// kernel does not say (before Linux 5.14).
#[must_use]
pub fn signal_frame() -> u64 {
    const AT_MINSIGSTKSZ: libc::c_ulong = 51;
    // SAFETY: reads a number from the auxiliary vector.
    unsafe { libc::getauxval(AT_MINSIGSTKSZ) }
}

/// Offset and size in bytes of a component (2 to 62) in the standard format of
/// the XSAVE area; `None` when this CPU has no such component.
#[must_use]
pub fn xsave_component(component: u32) -> Option<(usize, usize)> {
    let [size, offset, ..] = leaf(0xd, component);
    let (size, offset) = (usize::try_from(size).ok()?, usize::try_from(offset).ok()?);
    (size > 0 && offset > 0).then_some((offset, size))
}
