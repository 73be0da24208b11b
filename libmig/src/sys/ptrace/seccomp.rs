//! Filters of seccomp(2) of a stopped tracee, and their suspension. The kernel
//! (CONFIG_CHECKPOINT_RESTORE) answers whoever has CAP_SYS_ADMIN and is under no
//! filter itself: EACCES or EPERM for others.

use std::{mem, ptr};

use super::{HostPid, Options, PtraceError, Stopped, request};

const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: libc::c_uint = 0x420d;
/// struct sock_filter.
const INSTRUCTION: usize = 8;

/// PTRACE_O_SUSPEND_SECCOMP: the filters of the tracee say nothing for as long as
/// it is traced.
pub const SUSPEND_SECCOMP: Options = Options::from_bits_retain(1 << 21);

impl Stopped {
    /// The filter with this index, the oldest first: its program (an array of struct
    /// sock_filter) and its flags (SECCOMP_FILTER_FLAG_LOG). Nothing beyond the last.
    ///
    /// # Errors
    /// EACCES for a tracer that may not ask; EMEDIUMTYPE when the kernel has not
    /// kept the program.
    pub fn seccomp_filter(&self, index: usize) -> Result<Option<(Vec<u8>, u64)>, PtraceError> {
        let thread = self.thread();
        let get = |data| {
            // SAFETY: the caller of `get` gives room for the whole program, or null.
            unsafe {
                request::call(
                    "read the seccomp filter of",
                    PTRACE_SECCOMP_GET_FILTER,
                    thread,
                    index,
                    data,
                )
            }
        };
        let count = match get(ptr::null_mut()) {
            Ok(count) => count,
            Err(PtraceError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ENOENT) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut program = vec![0u8; count * INSTRUCTION];
        get(program.as_mut_ptr().cast())?;
        Ok(Some((program, flags(thread, index)?)))
    }
}

/// PTRACE_SECCOMP_GET_METADATA (Linux 4.16).
fn flags(thread: HostPid, index: usize) -> Result<u64, PtraceError> {
    #[repr(C)]
    struct Metadata {
        index: u64,
        flags: u64,
    }
    let mut metadata = Metadata {
        index: index as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads and writes one `Metadata`, as `addr` says.
    unsafe {
        request::call(
            "read the seccomp flags of",
            PTRACE_SECCOMP_GET_METADATA,
            thread,
            mem::size_of::<Metadata>(),
            (&raw mut metadata).cast(),
        )?
    };
    Ok(metadata.flags)
}
