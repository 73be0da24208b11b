//! Another program in the place of a process that has been given up: its
//! process ID, parent, session and first three descriptors stay.
//!
//! The process is in a frozen cgroup all the while and runs nothing: its
//! registers and the code that they point to are changed, and no more. When it
//! is let out of the freezer, it closes what it has open, calls execve(2) at once,
//! and needs nobody for that.

use std::{
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use super::{CaptureError, gather::OPTIONS};
use crate::{
    image::Registers,
    inspect::{maps, process},
    sys::{
        HostPid, process_vm,
        ptrace::{self, Stopped, Waited, reg},
    },
};

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the threads run.
///
/// ```text
/// syscall                   close_range(3, ~0, 0), from the registers
/// mov eax, 59               execve(r12, r13, r14)
/// mov rdi, r12; mov rsi, r13; mov rdx, r14
/// syscall
/// mov eax, 231              exit_group(126): there is no way back
/// mov edi, 126
/// syscall
/// idle: mov eax, 34         pause(), for ever
/// syscall
/// jmp idle
/// ```
const CODE: [u8; 39] = [
    0x0f, 0x05, // close_range
    0xb8, 0x3b, 0, 0, 0, 0x4c, 0x89, 0xe7, 0x4c, 0x89, 0xee, 0x4c, 0x89, 0xf2, 0x0f,
    0x05, // execve
    0xb8, 0xe7, 0, 0, 0, 0xbf, 0x7e, 0, 0, 0, 0x0f, 0x05, // exit_group
    0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7, // pause
];
/// Where those go that are not to call execve.
const IDLE: u64 = 30;
/// Where the arguments are.
const DATA: u64 = 64;

/// Makes `process`, which is frozen by its cgroup and has been given up, exec
/// `program` with these arguments and no environment as soon as it is thawed, with
/// all signals blocked. Repeatable until then.
///
/// # Errors
/// What is in the way; the process is frozen as before, and must not be thawed.
pub fn succeed(process: HostPid, program: &Path, arguments: &[String]) -> Result<(), CaptureError> {
    let mut threads = stop(process)?;
    let page = page(process, program, arguments)?;
    process_vm::force_write(process, page.address, &page.bytes)
        .map_err(CaptureError::proc(process, "memory for code"))?;
    for thread in &mut threads {
        let leads = thread.thread() == process;
        // Whatever is pending must not come before the new program.
        thread.set_sigmask(u64::MAX)?;
        let registers = page.registers(&thread.registers()?, leads);
        thread.set_registers(&registers)?;
    }
    for thread in threads {
        thread.detach()?;
    }
    Ok(())
}

/// In the freezer nobody comes and goes.
fn stop(process: HostPid) -> Result<Vec<Stopped>, CaptureError> {
    let threads = process::threads(process).map_err(CaptureError::proc(process, "threads"))?;
    for thread in &threads {
        ptrace::seize(*thread, OPTIONS)?;
        ptrace::interrupt(*thread)?;
    }
    let mut stopped = Vec::with_capacity(threads.len());
    for thread in threads {
        if let Waited::Stopped(mut found, _) =
            ptrace::wait_until(thread, Instant::now() + PATIENCE)?
        {
            found.detach_on_drop();
            stopped.push(found);
        }
    }
    Ok(stopped)
}

/// Code and arguments as they are written over the process's own.
struct Page {
    address: u64,
    bytes: Vec<u8>,
    path: u64,
    argv: u64,
    envp: u64,
}

impl Page {
    fn registers(&self, old: &Registers, leads: bool) -> Registers {
        let mut new = *old;
        // No system call to restart.
        new[reg::ORIG_RAX] = u64::MAX;
        new[reg::RAX] = libc::SYS_close_range.cast_unsigned();
        new[reg::RDI] = 3;
        new[reg::RSI] = u64::from(u32::MAX);
        new[reg::RDX] = 0;
        new[reg::R12] = self.path;
        new[reg::R13] = self.argv;
        new[reg::R14] = self.envp;
        new[reg::RIP] = self.address + if leads { 0 } else { IDLE };
        new
    }
}

/// Somewhere in the program's own code, of which it needs nothing any more.
fn page(process: HostPid, program: &Path, arguments: &[String]) -> Result<Page, CaptureError> {
    let areas = maps::read(process).map_err(CaptureError::proc(process, "maps"))?;
    let code = areas.iter().filter(|area| {
        let readable_code = libc::PROT_READ | libc::PROT_EXEC;
        !area.shared && i32::from(area.protection) & readable_code == readable_code
    });
    let largest = code.max_by_key(|area| (area.name != b"[vsyscall]", area.end - area.start));
    let none = || {
        let error = std::io::Error::other("no room in any executable mapping");
        CaptureError::proc(process, "maps")(error)
    };
    let area = largest.ok_or_else(none)?;
    let page = compose(area.start, program, arguments);
    // Beyond the end of its file a mapping has no pages, but for the first.
    if page.bytes.len() as u64 > (area.end - area.start).min(4096) {
        return Err(none());
    }
    Ok(page)
}

fn compose(address: u64, program: &Path, arguments: &[String]) -> Page {
    let mut bytes = CODE.to_vec();
    let data = usize::try_from(DATA).unwrap_or(CODE.len());
    bytes.resize(data, 0);
    let mut string = |text: &[u8]| {
        let place = address + bytes.len() as u64;
        bytes.extend_from_slice(text);
        bytes.push(0);
        place
    };
    let path = string(program.as_os_str().as_bytes());
    let places: Vec<u64> = arguments
        .iter()
        .map(|text| string(text.as_bytes()))
        .collect();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let argv = address + bytes.len() as u64;
    for place in places {
        bytes.extend_from_slice(&place.to_le_bytes());
    }
    let envp = address + bytes.len() as u64;
    bytes.extend_from_slice(&0u64.to_le_bytes());
    Page {
        address,
        bytes,
        path,
        argv,
        envp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_where_the_pause_is() {
        let idle = usize::try_from(IDLE).unwrap();
        assert_eq!(CODE[idle..idle + 5], [0xb8, 34, 0, 0, 0]);
        assert!(CODE.len() as u64 <= DATA);
    }

    #[test]
    fn arguments_are_found_where_the_pointers_say() {
        let base = 0x7000_0000;
        let page = compose(base, Path::new("/bin/x"), &["x".into(), "yz".into()]);
        let at = |place: u64| usize::try_from(place - base).unwrap();
        let word = |place: u64| {
            let eight = page.bytes[at(place)..at(place) + 8].try_into().unwrap();
            u64::from_le_bytes(eight)
        };
        assert!(page.bytes[at(page.path)..].starts_with(b"/bin/x\0"));
        assert!(page.bytes[at(word(page.argv))..].starts_with(b"x\0"));
        assert!(page.bytes[at(word(page.argv + 8))..].starts_with(b"yz\0"));
        assert_eq!((word(page.argv + 16), page.argv + 16), (0, page.envp));
        assert_eq!(page.envp % 8, 0);
    }
}
