//! The husk: the smallest program that a process can be made from.
//!
//! It has no libc, so it has no rseq area, no robust list, no thread pointer
//! and no relocations that a restored process would inherit: it only sleeps
//! until its tracer gives it another life. The capsule's init runs it as the
//! zygote ([`exec`]); `prepare` takes it from there.

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::{Duration, Instant},
};

use rustix::fs::MemfdFlags;

use crate::sys::HostPid;

/// The number under which the zygote holds a pidfd of the daemon. It cannot
/// open one itself: the daemon is not in its pid namespace. The kernel's smallest table has
/// it: a larger one would stay as large, and be seen (FDSize in /proc/PID/status).
pub const DAEMON_PIDFD: i32 = 60;

/// Address at which the program is loaded.
const BASE: u64 = 0x20_0000;
/// Sizes of Elf64_Ehdr and Elf64_Phdr.
const EHDR: u16 = 64;
const PHDR: u16 = 56;
/// Address of the `syscall` instruction in a husk.
pub(super) const SYSCALL: u64 = BASE + 64 + 2 * 56 + 5;
/// `again: mov eax, __NR_pause; syscall; jmp again`.
const CODE: [u8; 9] = [0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

/// The program as a static ELF file: one loadable segment and a
/// non-executable stack.
#[must_use]
pub fn elf() -> Vec<u8> {
    let headers = u64::from(EHDR) + 2 * u64::from(PHDR);
    let size = headers + CODE.len() as u64;
    let mut out = Vec::with_capacity(256);
    out.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(2u16.to_le_bytes()); // ET_EXEC
    out.extend(62u16.to_le_bytes()); // EM_X86_64
    out.extend(1u32.to_le_bytes());
    out.extend((BASE + headers).to_le_bytes()); // entry
    out.extend(u64::from(EHDR).to_le_bytes()); // program headers
    out.extend(0u64.to_le_bytes()); // section headers
    out.extend(0u32.to_le_bytes());
    for half in [EHDR, PHDR, 2, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    // PT_LOAD, PF_R | PF_X.
    program_header(&mut out, 1, 5, BASE, size, 0x1000);
    // PT_GNU_STACK, PF_R | PF_W.
    program_header(&mut out, 0x6474_e551, 6, 0, 0, 16);
    out.extend(CODE);
    out
}

fn program_header(out: &mut Vec<u8>, kind: u32, flags: u32, address: u64, size: u64, align: u64) {
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for word in [0, address, address, size, size, align] {
        out.extend(word.to_le_bytes());
    }
}

/// Turns the calling process into a husk: every descriptor is closed but
/// `daemon`, which becomes [`DAEMON_PIDFD`]. Returns only when that fails.
///
/// Signal actions that were ignored stay so across execve(2); the first batch
/// of `prepare` resets them.
#[must_use]
pub fn exec(daemon: BorrowedFd<'_>) -> io::Error {
    match try_exec(daemon) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Waits until a process that is on its way into [`exec`] has arrived: stopped
/// before, it would be told what to do in the middle of another program.
///
/// # Errors
/// NotFound when it has ended, TimedOut when it does not arrive.
pub(super) fn wait_for_exec(zygote: HostPid, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let link = format!("/proc/{zygote}/exe");
    // The kernel shows a memfd as "/memfd:NAME (deleted)".
    while !std::fs::read_link(&link)?
        .as_os_str()
        .as_bytes()
        .starts_with(b"/memfd:mig-husk")
    {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

fn try_exec(daemon: BorrowedFd<'_>) -> io::Result<std::convert::Infallible> {
    const NAME: &CStr = c"mig-husk";
    let program = program_file()?;
    // Mark all for closing first, then make the one descriptor that stays.
    crate::sys::close_range::mark_all_close_on_exec()?;
    if daemon.as_raw_fd() == DAEMON_PIDFD {
        rustix::io::fcntl_setfd(daemon, rustix::io::FdFlags::empty())?;
    } else {
        let placed = nix::fcntl::fcntl(daemon, nix::fcntl::FcntlArg::F_DUPFD(DAEMON_PIDFD))?;
        if placed != DAEMON_PIDFD {
            return Err(io::Error::other(format!(
                "descriptor {DAEMON_PIDFD} is taken"
            )));
        }
    }
    let environment: [&CStr; 0] = [];
    Ok(nix::unistd::fexecve(program, &[NAME], &environment)?)
}

/// The program in memory, so that no file system has to offer it. `MFD_EXEC`
/// is asked for first because `vm.memfd_noexec` may otherwise forbid it; kernels
/// before 6.3 do not know the flag.
fn program_file() -> io::Result<OwnedFd> {
    let program = rustix::fs::memfd_create(c"mig-husk", MemfdFlags::CLOEXEC | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"mig-husk", MemfdFlags::CLOEXEC))?;
    let bytes = elf();
    if rustix::io::write(program.as_fd(), &bytes)? != bytes.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn the_kernel_loads_it_and_it_sleeps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("husk");
        std::fs::write(&path, elf()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        let asleep = || {
            std::fs::read_to_string(format!("/proc/{}/syscall", child.id()))
                .is_ok_and(|text| text.starts_with("34 "))
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !asleep() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let slept = asleep();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(slept, "the husk is not in pause(2)");
    }

    #[test]
    fn it_is_one_small_segment() {
        let elf = elf();
        assert_eq!(elf.len(), 64 + 2 * 56 + CODE.len());
        let entry = u64::from_le_bytes(elf[24..32].try_into().unwrap());
        let offset = usize::try_from(entry - BASE).unwrap();
        assert_eq!(elf[offset..], CODE);
    }
}
