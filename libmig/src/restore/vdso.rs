//! The vDSO of another kernel, kept as ordinary memory: its functions are
//! replaced by jumps into the vDSO of this one. Pure.
//!
//! A program holds pointers into its vDSO (in its GOT, in `AT_SYSINFO_EHDR`), so
//! the old code stays at its address; but it reads data pages whose layout is
//! the old kernel's, so none of it may run. A function that this kernel's vDSO
//! lacks becomes the system call that it stood for.

use std::collections::BTreeMap;

/// Why a vDSO could not be adapted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VdsoError {
    /// The image is no ELF file, or a damaged one.
    #[error("the vDSO is not a readable ELF image: {0}")]
    Malformed(&'static str),
    /// A function has no counterpart and is no known system call.
    #[error("the vDSO function `{0}` is unknown to this kernel")]
    Unknown(String),
    /// A function is shorter than the jump that would replace it.
    #[error("the vDSO function `{0}` is too short for a jump")]
    Short(String),
}

/// An exported function: its offset in the image and its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Offset in the image.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// `movabs rax, ADDRESS; jmp rax`: rax carries nothing into a C function.
const JUMP: u64 = 12;

/// Returns the bytes of `old` with every exported function redirected to `new`,
/// which is mapped at `base`.
///
/// # Errors
/// When either cannot be read, or a function cannot be redirected.
pub fn redirected(old: &[u8], new: &[u8], base: u64) -> Result<Vec<u8>, VdsoError> {
    let targets = functions(new)?;
    let mut patched = old.to_vec();
    for (name, function) in functions(old)? {
        let code = match targets.get(&name) {
            Some(target) => jump(base.wrapping_add(target.offset)),
            None => system_call(&name).ok_or_else(|| VdsoError::Unknown(name.clone()))?,
        };
        if function.size < JUMP {
            return Err(VdsoError::Short(name));
        }
        let at =
            usize::try_from(function.offset).map_err(|_| VdsoError::Malformed("symbol outside"))?;
        let place = patched.get_mut(at..at.saturating_add(code.len()));
        place
            .ok_or(VdsoError::Malformed("symbol outside"))?
            .copy_from_slice(&code);
    }
    Ok(patched)
}

fn jump(address: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend(address.to_le_bytes());
    code.extend([0xff, 0xe0]);
    code
}

/// `mov eax, number; syscall; ret`: these take at most three arguments, in
/// the same registers as a C function.
fn system_call(name: &str) -> Option<Vec<u8>> {
    let number: u32 = match name.strip_prefix("__vdso_").unwrap_or(name) {
        "gettimeofday" => 96,
        "time" => 201,
        "clock_gettime" => 228,
        "clock_getres" => 229,
        "getcpu" => 309,
        // glibc asks for the layout of its state with an opaque length of
        // all ones, and takes ENOSYS for "use the system call".
        "getrandom" => return Some(vec![0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3]),
        _ => return None,
    };
    let mut code = vec![0xb8];
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05, 0xc3]);
    Some(code)
}

/// Exported functions by name, from the dynamic symbol table.
///
/// # Errors
/// When the image is not a well-formed 64-bit little-endian ELF file.
pub fn functions(image: &[u8]) -> Result<BTreeMap<String, Function>, VdsoError> {
    if image.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return Err(VdsoError::Malformed("no ELF header"));
    }
    let sections = number(image, 0x28, 8)?;
    let (size, count) = (number(image, 0x3a, 2)?, number(image, 0x3c, 2)?);
    let section = |index: u64| sections.saturating_add(index.saturating_mul(size));
    let dynsym = (0..count)
        .map(section)
        .find(|at| number(image, at.saturating_add(4), 4) == Ok(SHT_DYNSYM))
        .ok_or(VdsoError::Malformed("no dynamic symbols"))?;
    let strings = section(number(image, dynsym.saturating_add(0x28), 4)?);
    let strings = number(image, strings.saturating_add(0x18), 8)?;
    let (start, length) = (
        number(image, dynsym.saturating_add(0x18), 8)?,
        number(image, dynsym.saturating_add(0x20), 8)?,
    );
    let mut found = BTreeMap::new();
    for symbol in (0..length / SYMBOL).map(|index| start.saturating_add(index * SYMBOL)) {
        let kind = number(image, symbol.saturating_add(4), 1)? & 0xf;
        let home = number(image, symbol.saturating_add(6), 2)?;
        if kind != STT_FUNC || home == 0 {
            continue;
        }
        let name = name(image, strings.saturating_add(number(image, symbol, 4)?))?;
        let offset = number(image, symbol.saturating_add(8), 8)?;
        let size = number(image, symbol.saturating_add(16), 8)?;
        found.insert(name, Function { offset, size });
    }
    Ok(found)
}

/// NT_GNU_BUILD_ID of an image.
///
/// # Errors
/// As [`functions`], or when it has none.
pub fn build_id(image: &[u8]) -> Result<Vec<u8>, VdsoError> {
    const GNU: &[u8] = b"GNU\0";
    const NT_GNU_BUILD_ID: u32 = 3;
    let mut wanted = 20u32.to_le_bytes().to_vec();
    wanted.extend(NT_GNU_BUILD_ID.to_le_bytes());
    wanted.extend(GNU);
    // namesz, descsz, type, name, bytes: the middle three are one pattern.
    let at = image
        .windows(wanted.len())
        .position(|window| window == wanted)
        .ok_or(VdsoError::Malformed("no build ID"))?;
    let start = at + wanted.len();
    image
        .get(start..start + 20)
        .map(<[u8]>::to_vec)
        .ok_or(VdsoError::Malformed("no build ID"))
}

const SHT_DYNSYM: u64 = 11;
const STT_FUNC: u64 = 2;
/// Size of Elf64_Sym.
const SYMBOL: u64 = 24;

fn number(image: &[u8], at: u64, width: usize) -> Result<u64, VdsoError> {
    let at = usize::try_from(at).map_err(|_| VdsoError::Malformed("offset"))?;
    let bytes = image
        .get(at..at.saturating_add(width))
        .ok_or(VdsoError::Malformed("cut off"))?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn name(image: &[u8], at: u64) -> Result<String, VdsoError> {
    let at = usize::try_from(at).map_err(|_| VdsoError::Malformed("offset"))?;
    let rest = image
        .get(at..)
        .ok_or(VdsoError::Malformed("name outside"))?;
    let length = rest
        .iter()
        .take(256)
        .position(|byte| *byte == 0)
        .ok_or(VdsoError::Malformed("endless name"))?;
    Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    /// The vDSO of the test itself.
    fn own() -> (Vec<u8>, u64) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let mut image = vec![0; usize::try_from(address(end) - address(start)).unwrap()];
        File::open("/proc/self/mem")
            .unwrap()
            .read_exact_at(&mut image, address(start))
            .unwrap();
        (image, address(start))
    }

    #[test]
    fn the_functions_of_this_kernel_are_found_and_redirected() {
        let (image, base) = own();
        let functions = functions(&image).unwrap();
        let clock = functions["__vdso_clock_gettime"];
        let patched = redirected(&image, &image, base).unwrap();
        let at = usize::try_from(clock.offset).unwrap();
        assert_eq!(patched[at..at + 12], jump(base + clock.offset));
        assert_eq!(patched.len(), image.len());
    }

    #[test]
    fn what_this_kernel_lacks_becomes_a_system_call() {
        let (image, _) = own();
        let functions = functions(&image).unwrap();
        // The same image with its names mangled stands for a kernel without them.
        let mut other = image.clone();
        let text = b"__vdso_gettimeofday\0";
        let at = other
            .windows(text.len())
            .position(|window| window == text)
            .unwrap();
        other[at + 7] = b'X';
        let patched = redirected(&image, &other, 0x1000).unwrap();
        let at = usize::try_from(functions["__vdso_gettimeofday"].offset).unwrap();
        // The weak alias `gettimeofday` at the same place may have won.
        let expected = [
            jump(0x1000 + functions["gettimeofday"].offset),
            system_call("gettimeofday").unwrap(),
        ];
        assert!(expected.iter().any(|code| patched[at..].starts_with(code)));
    }

    #[test]
    fn damaged_images_are_refused() {
        let (image, _) = own();
        for length in [0, 5, 63, 64, 400] {
            assert!(functions(&image[..length]).is_err(), "{length}");
        }
        for byte in 0..64 {
            let mut damaged = image.clone();
            damaged[byte] ^= 0xff;
            let _ = functions(&damaged);
        }
    }
}
