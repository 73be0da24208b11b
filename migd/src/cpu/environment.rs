//! What tells the libraries of a program that they are to keep to a level: each that
//! chooses code by CPUID has a variable of its own, and no kernel hides CPUID from a
//! program on most CPUs.
//!
//! What the user has set stays: lists get ours at their end, single values are the user's.

use libmig::api::CpuLevel;
use serde_bytes::ByteBuf;

/// Dynamic symbols are bound at the start: the code that binds them later has measured
/// this CPU's XSAVE area, and may use instructions (XSAVEC) that another does not have.
const BIND_NOW: (&str, &str) = ("LD_BIND_NOW", "1");

/// Of glibc, beyond x86-64-v3. The second names are those of releases before 2.33;
/// unknown ones are ignored.
const GLIBC_BEYOND_V3: &str = "-AVX512F,-AVX512CD,-AVX512BW,-AVX512DQ,-AVX512VL,-AVX512ER,\
    -AVX512PF,-AVX512F_Usable,-AVX512DQ_Usable";
/// Beyond x86-64-v2. `AVX_Fast_Unaligned_Load` alone chooses the AVX variants of memcpy(3).
const GLIBC_BEYOND_V2: &str = "-AVX,-AVX2,-BMI1,-BMI2,-FMA,-LZCNT,-MOVBE,-F16C,\
    -AVX_Fast_Unaligned_Load,-AVX_Usable,-AVX2_Usable,-FMA_Usable";
/// Of no level.
const GLIBC_BEYOND_ALL: &str = "-XSAVEC,-XSAVEC_Usable,-RTM,-FMA4,-FMA4_Usable,-XOP";

/// OpenSSL's capability vector (OPENSSL_ia32cap(3)), what is to be taken out of it:
/// CPUID.1 EDX and ECX, CPUID.7 EBX and ECX, then all that newer releases know.
/// Of no level: XOP; RDSEED, ADX, IFMA, SHA, and what AVX-512 got later.
const SSL_BEYOND_ALL: [u64; 2] = [0x0000_0800_0000_0000, 0x0000_5f42_202c_0000];
/// AVX-512 F, DQ, CD, BW, VL.
const SSL_BEYOND_V3: u64 = 0xd003_0000;
/// PCLMULQDQ, FMA, MOVBE, AES, AVX, F16C, RDRAND; BMI1, AVX2, BMI2.
const SSL_BEYOND_V2: [u64; 2] = [0x7240_1002_0000_0000, 0x128];

/// Go's runtime knows nothing beyond v3 but these.
const GO_BEYOND_V2: &str = "cpu.avx=off,cpu.avx2=off,cpu.bmi1=off,cpu.bmi2=off,cpu.fma=off,\
    cpu.aes=off,cpu.pclmulqdq=off";
const GO_BEYOND_ALL: &str = "cpu.adx=off";

/// Adds the variables to an environment of `NAME=value` entries.
pub(crate) fn confine(environment: &mut Vec<ByteBuf>, level: CpuLevel) {
    let glibc = list(level, [GLIBC_BEYOND_ALL, GLIBC_BEYOND_V3, GLIBC_BEYOND_V2]);
    let tunables = tunables(get(environment, "GLIBC_TUNABLES"), &glibc);
    set(environment, "GLIBC_TUNABLES", &tunables);
    let go = list(level, [GO_BEYOND_ALL, "", GO_BEYOND_V2]);
    let go = joined(get(environment, "GODEBUG"), b",", &go);
    set(environment, "GODEBUG", &go);
    let core = match level {
        CpuLevel::V2 => "Nehalem",
        CpuLevel::V3 => "Haswell",
        CpuLevel::V4 => "SkylakeX",
    };
    let (bind, now) = BIND_NOW;
    for (name, value) in [
        (bind, now),
        ("OPENSSL_ia32cap", &openssl(level)),
        ("OPENBLAS_CORETYPE", core),
    ] {
        if get(environment, name).is_none_or(<[u8]>::is_empty) {
            set(environment, name, value.as_bytes());
        }
    }
}

/// Those parts that are beyond `level`.
fn list(level: CpuLevel, [all, v3, v2]: [&str; 3]) -> String {
    let parts: &[&str] = match level {
        CpuLevel::V4 => &[all],
        CpuLevel::V3 => &[all, v3],
        CpuLevel::V2 => &[all, v3, v2],
    };
    let parts: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    parts.join(",")
}

fn openssl(level: CpuLevel) -> String {
    let [mut first, mut second] = SSL_BEYOND_ALL;
    if level < CpuLevel::V4 {
        second |= SSL_BEYOND_V3;
    }
    if level < CpuLevel::V3 {
        first |= SSL_BEYOND_V2[0];
        second |= SSL_BEYOND_V2[1];
    }
    let rest = u64::MAX;
    format!("~{first:#x}:~{second:#x}:~{rest:#x}:~{rest:#x}:~{rest:#x}")
}

/// The user's tunables with `hwcaps` added to theirs: the last of several entries of one
/// name would be the only one that counts.
fn tunables(users: Option<&[u8]>, hwcaps: &str) -> Vec<u8> {
    const NAME: &[u8] = b"glibc.cpu.hwcaps=";
    let (mut others, mut own) = (Vec::new(), None);
    for entry in users.unwrap_or_default().split(|byte| *byte == b':') {
        match entry.strip_prefix(NAME) {
            Some(value) => own = Some(value),
            None if entry.is_empty() => {}
            None => others.push(entry),
        }
    }
    let mine = [NAME, &joined(own, b",", hwcaps)].concat();
    others.push(&mine);
    others.join(&b':')
}

fn joined(users: Option<&[u8]>, separator: &[u8], ours: &str) -> Vec<u8> {
    match users {
        Some(users) if !users.is_empty() => [users, separator, ours.as_bytes()].concat(),
        _ => ours.as_bytes().to_vec(),
    }
}

fn get<'a>(environment: &'a [ByteBuf], name: &str) -> Option<&'a [u8]> {
    environment.iter().find_map(|entry| value(entry, name))
}

fn value<'a>(entry: &'a [u8], name: &str) -> Option<&'a [u8]> {
    entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

fn set(environment: &mut Vec<ByteBuf>, name: &str, to: &[u8]) {
    environment.retain(|entry| value(entry, name).is_none());
    environment.push(ByteBuf::from([name.as_bytes(), b"=", to].concat()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confined(level: CpuLevel, environment: &[&str]) -> Vec<String> {
        let entries = environment.iter().map(|entry| ByteBuf::from(*entry));
        let mut environment: Vec<ByteBuf> = entries.collect();
        confine(&mut environment, level);
        let text = |entry: ByteBuf| String::from_utf8(entry.into_vec()).unwrap();
        environment.into_iter().map(text).collect()
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let users = [
            "PATH=/bin",
            "GLIBC_TUNABLES=glibc.malloc.check=1:glibc.cpu.hwcaps=-ERMS:a=b",
            "GODEBUG=gctrace=1",
            "OPENBLAS_CORETYPE=Core2",
            "LD_BIND_NOW=",
        ];
        let got = confined(CpuLevel::V3, &users);
        assert!(got.contains(&"PATH=/bin".to_owned()));
        assert!(got.contains(&"OPENBLAS_CORETYPE=Core2".to_owned()));
        assert!(got.contains(&"LD_BIND_NOW=1".to_owned()));
        assert!(got.contains(&"GODEBUG=gctrace=1,cpu.adx=off".to_owned()));
        let starts = "GLIBC_TUNABLES=glibc.malloc.check=1:a=b:glibc.cpu.hwcaps=-ERMS,-XSAVEC,";
        let tunables = got.iter().find(|entry| entry.starts_with(starts));
        assert!(tunables.is_some_and(|t| t.contains(",-AVX512VL,") && !t.contains(",-AVX2,")));
        assert_eq!(got.len(), 6, "{got:?}");
    }

    #[test]
    fn lower_levels_mask_more() {
        let of = |level| confined(level, &[]).join(" ");
        let [v4, v3, v2] = CpuLevel::ALL.map(of);
        assert!(!v4.contains("-AVX512F,") && v3.contains("-AVX512F,"));
        assert!(!v3.contains("-AVX2,") && v2.contains("-AVX2,"));
        assert!(v2.contains("OPENBLAS_CORETYPE=Nehalem"));
        assert!(
            v2.contains("OPENSSL_ia32cap=~0x7240180200000000:~0x5f42f02f0128:"),
            "{v2}"
        );
    }
}
