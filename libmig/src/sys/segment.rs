//! shmget(2), shmat(2) and their like for segments of System V shared memory. All but
//! [`Attachment`] act on the IPC namespace of the calling thread.

use std::{fs::File, io, ptr};

use super::HostPid;

const SHM_LOCK: i32 = 11;
const SHM_NORESERVE: i32 = 0o10_000;
const PAGE: u64 = 4096;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// shmget(2) of a new segment. No kernel shows whether one was made with SHM_NORESERVE: one
/// that is too large without is made with it.
///
/// # Errors
/// shmget(2).
pub fn make(key: i32, size: u64, mode: u16) -> io::Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | i32::from(mode);
    let make = |flags: i32| {
        // SAFETY: no pointer is passed.
        check(unsafe { libc::syscall(libc::SYS_shmget, key, size, flags) })
    };
    let id = match make(flags) {
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => make(flags | SHM_NORESERVE),
        made => made,
    }?;
    i32::try_from(id).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// SHM_LOCK.
///
/// # Errors
/// shmctl(2).
pub fn lock(id: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::syscall(libc::SYS_shmctl, id, SHM_LOCK, 0) })?;
    Ok(())
}

/// A segment in the memory of this process, until it is dropped.
#[derive(Debug)]
pub struct Attachment {
    address: u64,
    length: u64,
}

impl Attachment {
    /// shmat(2) of a segment of `size` bytes. The memory of it belongs to the whole process.
    ///
    /// # Errors
    /// shmat(2).
    pub fn new(id: i32, size: u64, read_only: bool) -> io::Result<Self> {
        let flags = if read_only { libc::SHM_RDONLY } else { 0 };
        // SAFETY: the kernel finds a free place; nothing that exists is replaced.
        let address = check(unsafe {
            libc::syscall(libc::SYS_shmat, id, ptr::null::<libc::c_void>(), flags)
        })?;
        Ok(Self {
            address: address.cast_unsigned(),
            length: size.next_multiple_of(PAGE),
        })
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// What is attached as a file, which does not count as an attachment.
    ///
    /// # Errors
    /// open(2).
    pub fn file(&self, writable: bool) -> io::Result<File> {
        let (start, end) = (self.address, self.address + self.length);
        let link = format!("/proc/{}/map_files/{start:x}-{end:x}", HostPid::own());
        File::options().read(true).write(writable).open(link)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // SAFETY: it was attached there by `new`, and nobody has a reference into it.
        unsafe { libc::syscall(libc::SYS_shmdt, self.address) };
    }
}
