//! The ptrace(2) requests that nix lacks or flattens, one function each.

use std::{
    ffi::c_void,
    io, mem, ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::errno::Errno;

use super::{HostPid, PtraceError};
use crate::image::{Registers, SigInfo};

const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;
const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
/// Room for every XSAVE layout that exists: AMX brings it to 11 KiB.
const XSTATE_MAX: usize = 64 * 1024;
/// What this kernel's takes, once it has been seen.
static XSTATE_LEN: AtomicUsize = AtomicUsize::new(XSTATE_MAX);
const SIGINFO_LEN: usize = 128;
/// Bytes of a 64-bit user_regs_struct; a 32-bit task answers with 68.
const REGISTERS_LEN: usize = mem::size_of::<Registers>();

/// What PTRACE_GET_RSEQ_CONFIGURATION answers (`struct ptrace_rseq_configuration`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of struct rseq; 0 when nothing is registered.
    pub address: u64,
    /// Registered length.
    pub length: u32,
    /// Signature before each abort handler.
    pub signature: u32,
    /// Registration flags.
    pub flags: u32,
    pad: u32,
}

/// An errno of a request on a thread that is in a stop.
pub(super) fn error(request: &'static str, thread: HostPid, errno: Errno) -> PtraceError {
    match errno {
        Errno::ESRCH => PtraceError::Gone { thread },
        errno => PtraceError::Refused {
            request,
            thread,
            source: errno.into(),
        },
    }
}

/// ptrace(2) for a thread in a ptrace stop.
///
/// # Safety
/// `data` must be what `request` wants: valid for its reads and writes.
pub(super) unsafe fn call(
    name: &'static str,
    request: libc::c_uint,
    thread: HostPid,
    addr: usize,
    data: *mut c_void,
) -> Result<usize, PtraceError> {
    // SAFETY: the caller vouches for `data`; no other argument is a pointer of ours.
    let result = unsafe {
        libc::ptrace(
            request,
            thread.raw(),
            ptr::without_provenance_mut::<c_void>(addr),
            data,
        )
    };
    usize::try_from(result).map_err(|_| error(name, thread, Errno::last()))
}

/// The message of the last fork or clone event: the child, in our pid namespace.
pub(super) fn event_child(thread: HostPid) -> Result<HostPid, PtraceError> {
    let message = nix::sys::ptrace::getevent(thread.into())
        .map_err(|errno| error("ask for the child of", thread, errno))?;
    i32::try_from(message)
        .map(HostPid::new)
        .map_err(|_| PtraceError::Refused {
            request: "ask for the child of",
            thread,
            source: io::ErrorKind::InvalidData.into(),
        })
}

/// PTRACE_GETREGSET NT_PRSTATUS. The returned length tells 64-bit from 32-bit
/// tasks, which nix's getregset hides.
pub(super) fn registers(thread: HostPid) -> Result<Registers, PtraceError> {
    let mut registers: Registers = [0; 27];
    let mut iov = libc::iovec {
        iov_base: registers.as_mut_ptr().cast(),
        iov_len: REGISTERS_LEN,
    };
    // SAFETY: the iovec covers `registers`, which outlives the call.
    unsafe {
        call(
            "read the registers of",
            libc::PTRACE_GETREGSET,
            thread,
            NT_PRSTATUS,
            (&raw mut iov).cast(),
        )?
    };
    if iov.iov_len == REGISTERS_LEN {
        Ok(registers)
    } else {
        Err(PtraceError::Compat { thread })
    }
}

/// PTRACE_SETREGSET NT_PRSTATUS.
pub(super) fn set_registers(thread: HostPid, registers: &Registers) -> Result<(), PtraceError> {
    let mut registers = *registers;
    let mut iov = libc::iovec {
        iov_base: registers.as_mut_ptr().cast(),
        iov_len: REGISTERS_LEN,
    };
    // SAFETY: the iovec covers `registers`, which outlives the call.
    unsafe {
        call(
            "set the registers of",
            libc::PTRACE_SETREGSET,
            thread,
            NT_PRSTATUS,
            (&raw mut iov).cast(),
        )?
    };
    Ok(())
}

/// PTRACE_GETREGSET NT_X86_XSTATE: the XSAVE area in its standard format.
pub(super) fn xstate(thread: HostPid) -> Result<Vec<u8>, PtraceError> {
    let mut area = vec![0u8; XSTATE_LEN.load(Ordering::Relaxed)];
    let mut iov = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    // SAFETY: the iovec covers `area`, which outlives the call.
    unsafe {
        call(
            "read the vector state of",
            libc::PTRACE_GETREGSET,
            thread,
            NT_X86_XSTATE,
            (&raw mut iov).cast(),
        )?
    };
    area.truncate(iov.iov_len);
    XSTATE_LEN.store(iov.iov_len, Ordering::Relaxed);
    Ok(area)
}

/// PTRACE_SETREGSET NT_X86_XSTATE: a shorter area than this CPU's is EFAULT.
pub(super) fn set_xstate(thread: HostPid, area: &[u8]) -> Result<(), PtraceError> {
    let mut area = area.to_vec();
    let mut iov = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    // SAFETY: the iovec covers `area`, which outlives the call.
    unsafe {
        call(
            "set the vector state of",
            libc::PTRACE_SETREGSET,
            thread,
            NT_X86_XSTATE,
            (&raw mut iov).cast(),
        )?
    };
    Ok(())
}

/// PTRACE_GETSIGMASK: inside sigsuspend or ppoll, the mask that will be put back.
pub(super) fn sigmask(thread: HostPid) -> Result<u64, PtraceError> {
    let mut mask = 0u64;
    // SAFETY: the kernel writes 8 bytes, as `addr` says.
    unsafe {
        call(
            "read the signal mask of",
            PTRACE_GETSIGMASK,
            thread,
            8,
            (&raw mut mask).cast(),
        )?
    };
    Ok(mask)
}

/// PTRACE_SETSIGMASK.
pub(super) fn set_sigmask(thread: HostPid, mask: u64) -> Result<(), PtraceError> {
    let mut mask = mask;
    // SAFETY: the kernel reads 8 bytes, as `addr` says.
    unsafe {
        call(
            "set the signal mask of",
            PTRACE_SETSIGMASK,
            thread,
            8,
            (&raw mut mask).cast(),
        )?
    };
    Ok(())
}

/// PTRACE_PEEKSIGINFO, until the queue ends.
pub(super) fn peek_siginfo(thread: HostPid, shared: bool) -> Result<Vec<SigInfo>, PtraceError> {
    #[repr(C)]
    struct Arguments {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const CHUNK: i32 = 32;
    let mut queue = Vec::new();
    loop {
        let mut buffer = [[0u8; SIGINFO_LEN]; CHUNK as usize];
        let mut arguments = Arguments {
            offset: queue.len() as u64,
            flags: if shared { PTRACE_PEEKSIGINFO_SHARED } else { 0 },
            count: CHUNK,
        };
        // Here it is `addr` that points to the arguments.
        let addr = (&raw mut arguments).expose_provenance();
        // SAFETY: the kernel reads `arguments` and writes at most CHUNK siginfo_t of 128 bytes.
        let count = unsafe {
            call(
                "read the pending signals of",
                PTRACE_PEEKSIGINFO,
                thread,
                addr,
                buffer.as_mut_ptr().cast(),
            )?
        };
        queue.extend(buffer.iter().take(count).map(|info| SigInfo(info.to_vec())));
        if count == 0 {
            return Ok(queue);
        }
    }
}

/// PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13).
pub(super) fn rseq(thread: HostPid) -> Result<RseqConfiguration, PtraceError> {
    let mut configuration = RseqConfiguration::default();
    let len = mem::size_of::<RseqConfiguration>();
    // SAFETY: the kernel writes at most `len` bytes.
    unsafe {
        call(
            "read the rseq of",
            PTRACE_GET_RSEQ_CONFIGURATION,
            thread,
            len,
            (&raw mut configuration).cast(),
        )?
    };
    Ok(configuration)
}

/// Whether system calls of the thread are handed to a signal handler of its program
/// (PR_SET_SYSCALL_USER_DISPATCH). Before Linux 6.4 nobody can tell.
pub(super) fn dispatches_calls(thread: HostPid) -> Result<bool, PtraceError> {
    /// struct ptrace_sud_config.
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        mode: u64,
        selector: u64,
        place: [u64; 2],
    }
    const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;
    let mut configuration = Configuration::default();
    let len = mem::size_of::<Configuration>();
    // SAFETY: the kernel writes `len` bytes or nothing.
    let asked = unsafe {
        call(
            "read the syscall user dispatch of",
            PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
            thread,
            len,
            (&raw mut configuration).cast(),
        )
    };
    match asked {
        Err(PtraceError::Refused { .. }) => Ok(false),
        asked => asked.map(|_| configuration.mode != 0),
    }
}

/// Resumes with PTRACE_CONT or PTRACE_SYSCALL; raw, since nix's `Signal` has
/// no real-time signals.
pub(super) fn resume(thread: HostPid, until_syscall: bool, signal: i32) -> Result<(), PtraceError> {
    let request = if until_syscall {
        libc::PTRACE_SYSCALL
    } else {
        libc::PTRACE_CONT
    };
    let data = ptr::without_provenance_mut(usize::try_from(signal).unwrap_or(0));
    // SAFETY: `data` is a signal number.
    unsafe { call("resume", request, thread, 0, data)? };
    Ok(())
}

/// PTRACE_DETACH.
pub(super) fn detach(thread: HostPid, signal: i32) -> Result<(), PtraceError> {
    let data = ptr::without_provenance_mut(usize::try_from(signal).unwrap_or(0));
    // SAFETY: `data` is a signal number.
    unsafe { call("detach from", libc::PTRACE_DETACH, thread, 0, data)? };
    Ok(())
}
