//! Reading and writing another process's memory: process_vm_readv(2),
//! process_vm_writev(2), which honour the protection of mappings, and
//! `/proc/PID/mem`, which (for a tracer) does not.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::unix::fs::FileExt,
};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};

use super::HostPid;

/// Fills `buffer` from `address` of the process.
///
/// # Errors
/// EFAULT when a part of the range is unmapped or not readable; ESRCH when the
/// process is gone; EPERM without the right to trace it.
pub fn read_exact(pid: HostPid, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let remote = [remote_range(address, done, buffer.len())?];
        let count = process_vm_readv(
            pid.into(),
            &mut [IoSliceMut::new(&mut buffer[done..])],
            &remote,
        )?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += count;
    }
    Ok(())
}

/// Writes all of `bytes` to `address` of the process.
///
/// # Errors
/// As [`read_exact`]; the mapping must be writable.
pub fn write_all(pid: HostPid, address: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let remote = [remote_range(address, done, bytes.len())?];
        let count = process_vm_writev(pid.into(), &[IoSlice::new(&bytes[done..])], &remote)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += count;
    }
    Ok(())
}

fn remote_range(address: u64, done: usize, len: usize) -> io::Result<RemoteIoVec> {
    let base = usize::try_from(address).map_err(|_| io::ErrorKind::InvalidInput)?;
    let base = base.checked_add(done).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(RemoteIoVec {
        base,
        len: len - done,
    })
}

/// Opens `/proc/PID/mem` for reading and writing. Accesses through it ignore
/// the protection of mappings (FOLL_FORCE): a write to a private page that is
/// not writable copies it, as a debugger's breakpoint does.
///
/// # Errors
/// EACCES without the right to trace the process, ENOENT when it is gone.
pub fn open_mem(pid: HostPid) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
}

/// Writes `bytes` past the protection of the mapping.
///
/// # Errors
/// As [`open_mem`]; EIO when the range is unmapped or shared and read-only.
pub fn force_write(pid: HostPid, address: u64, bytes: &[u8]) -> io::Result<()> {
    open_mem(pid)?.write_all_at(bytes, address)
}

/// Reads past the protection of the mapping. Populates what it reads: ask
/// PAGEMAP_SCAN first whether there is anything.
///
/// # Errors
/// As [`open_mem`]; EIO when the range is unmapped.
pub fn force_read(pid: HostPid, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    open_mem(pid)?.read_exact_at(buffer, address)
}
