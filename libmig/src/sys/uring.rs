//! io_uring(7): the memory that a ring shares with its program, and what can be learnt of
//! a ring through a duplicate of its descriptor.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Where mmap(2) finds the two queues, and the submission entries.
const OFF_RINGS: u64 = 0;
const OFF_ENTRIES: u64 = 0x1000_0000;
const SETUP_CQSIZE: u32 = 1 << 3;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const REGISTER_EVENTFD: u32 = 4;
const UNREGISTER_EVENTFD: u32 = 5;
const REGISTER_PBUF_STATUS: u32 = 26;
/// struct io_uring_sqe, struct io_uring_cqe.
const ENTRY: u64 = 64;
const COMPLETION: u64 = 16;
/// Where the completions begin, and to what the array after them is aligned.
const COMPLETIONS_AT: u64 = 64;
const PAGE: u64 = 4096;
/// Groups of provided buffers that are looked for.
const BUFFER_GROUPS: u32 = 64;

/// struct io_uring_params as far as it is used: 120 bytes.
#[repr(C)]
#[derive(Debug, Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq_offsets: [u32; 10],
    cq_offsets: [u32; 10],
}

/// Where the array of indexes begins among the queues.
#[must_use]
pub fn array_at(cq_entries: u32) -> u64 {
    (COMPLETIONS_AT + u64::from(cq_entries) * COMPLETION).next_multiple_of(64)
}

/// Offsets of the counters: heads and tails of both queues, and what was dropped.
pub mod at {
    /// The kernel's place in the submission queue.
    pub const SQ_HEAD: usize = 0;
    /// The program's.
    pub const SQ_TAIL: usize = 4;
    /// The program's place in the completion queue.
    pub const CQ_HEAD: usize = 8;
    /// The kernel's.
    pub const CQ_TAIL: usize = 12;
    /// Submissions that were no entries.
    pub const DROPPED: usize = 32;
}

/// What sets a ring apart that nothing in /proc tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trait {
    /// IORING_SETUP_SINGLE_ISSUER: only one thread may use it.
    OneThread,
    /// IORING_SETUP_R_DISABLED, not enabled yet.
    Disabled,
    /// IORING_SETUP_IOPOLL.
    Polled,
    /// IORING_REGISTER_EVENTFD.
    Eventfd,
    /// IORING_REGISTER_PBUF_RING, or buffers provided otherwise.
    Buffers,
}

/// A ring of this kernel that is like one that was just made.
#[derive(Debug)]
pub struct Made {
    /// Its descriptor.
    pub ring: OwnedFd,
    /// IORING_FEAT_*.
    pub features: u32,
}

/// io_uring_setup(2) with queues of these sizes, which are powers of two.
///
/// # Errors
/// EPERM where io_uring is switched off, ENOSYS where there is none; Unsupported when the queues
/// are laid out otherwise than everywhere.
pub fn make(sq_entries: u32, cq_entries: u32) -> io::Result<Made> {
    let mut params = Params {
        cq_entries,
        flags: SETUP_CQSIZE,
        ..Params::default()
    };
    // SAFETY: the kernel writes the 120 bytes of `params`.
    let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, sq_entries, &raw mut params) };
    let number = i32::try_from(check(made)?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: a new descriptor, which nobody else knows.
    let ring = unsafe { OwnedFd::from_raw_fd(number) };
    let [sq_head, sq_tail, .., array, _, _, _] = params.sq_offsets;
    let [cq_head, cq_tail, .., completions, _, _, _, _] = params.cq_offsets;
    let places = [sq_head, sq_tail, cq_head, cq_tail].map(|place| place as usize);
    let usual = places == [at::SQ_HEAD, at::SQ_TAIL, at::CQ_HEAD, at::CQ_TAIL]
        && u64::from(array) == array_at(cq_entries)
        && u64::from(completions) == COMPLETIONS_AT
        && (params.sq_entries, params.cq_entries) == (sq_entries, cq_entries);
    if !usual {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Made {
        ring,
        features: params.features,
    })
}

/// The memory of a ring.
#[derive(Debug)]
pub struct Memory {
    queues: Area,
    entries: Area,
}

impl Memory {
    /// Maps it. A ring without an array of indexes (IORING_SETUP_NO_SQARRAY) may have less.
    ///
    /// # Errors
    /// The sizes are not those of the ring.
    pub fn map(ring: &impl AsFd, sq_entries: u32, cq_entries: u32) -> io::Result<Self> {
        let array = array_at(cq_entries);
        let whole = array + u64::from(sq_entries) * 4;
        let queues =
            Area::map(ring, OFF_RINGS, whole).or_else(|_| Area::map(ring, OFF_RINGS, array))?;
        let entries = Area::map(ring, OFF_ENTRIES, u64::from(sq_entries) * ENTRY)?;
        Ok(Self { queues, entries })
    }

    /// Both queues, and the entries to be submitted.
    #[must_use]
    pub fn read(&self) -> (Vec<u8>, Vec<u8>) {
        (self.queues.read(), self.entries.read())
    }

    /// Overwrites what of them there is.
    pub fn write(&self, queues: &[u8], entries: &[u8]) {
        self.queues.write(queues);
        self.entries.write(entries);
    }

    /// Makes the counters of a new ring those of one that has answered `count` requests, with
    /// as many requests that do nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn advance(&self, ring: &impl AsFd, sq_entries: u32, count: u32) -> io::Result<()> {
        let mut done = 0;
        while done < count {
            let step = sq_entries.min(count - done);
            done += step;
            self.queues
                .counter(at::SQ_TAIL)
                .store(done, Ordering::Release);
            if enter(ring, step, 0, 0, None)? != i64::from(step) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let answered = self.queues.counter(at::CQ_TAIL).load(Ordering::Acquire);
            if answered != done {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.queues
                .counter(at::CQ_HEAD)
                .store(answered, Ordering::Release);
        }
        Ok(())
    }
}

/// What sets a ring apart. It is left as it is. `empty`: nothing waits to be reaped.
///
/// # Errors
/// The kernel's, in words that are not expected.
pub fn traits(ring: &impl AsFd, empty: bool) -> io::Result<Option<Trait>> {
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    let number = eventfd.as_raw_fd();
    // SAFETY: the kernel reads 4 bytes.
    match unsafe { register(ring, REGISTER_EVENTFD, (&raw const number).cast(), 1) } {
        // SAFETY: no argument.
        Ok(_) => _ = unsafe { register(ring, UNREGISTER_EVENTFD, ptr::null(), 0)? },
        Err(error) => match error.raw_os_error() {
            Some(libc::EBUSY) => return Ok(Some(Trait::Eventfd)),
            Some(libc::EEXIST) => return Ok(Some(Trait::OneThread)),
            Some(libc::EBADFD) => return Ok(Some(Trait::Disabled)),
            _ => return Err(error),
        },
    }
    for group in 0..BUFFER_GROUPS {
        let mut status = [0u32; 10];
        status[0] = group;
        let place = (&raw const status).cast();
        // SAFETY: struct io_uring_buf_status has 40 bytes, which the kernel reads and writes.
        if unsafe { register(ring, REGISTER_PBUF_STATUS, place, 1) }.is_ok() {
            return Ok(Some(Trait::Buffers));
        }
    }
    if !empty {
        return Ok(None);
    }
    // Who polls for completions does not sleep, and so never for too long.
    match enter(ring, 0, 1, ENTER_GETEVENTS | ENTER_EXT_ARG, Some([0, 1])) {
        Ok(_) => Ok(Some(Trait::Polled)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(None),
            Some(libc::EBADFD) => Ok(Some(Trait::Disabled)),
            Some(libc::EEXIST) => Ok(Some(Trait::OneThread)),
            _ => Err(error),
        },
    }
}

fn enter(
    ring: &impl AsFd,
    submit: u32,
    wait: u32,
    flags: u32,
    timeout: Option<[i64; 2]>,
) -> io::Result<i64> {
    // struct io_uring_getevents_arg: sigmask, its size, padding, timespec.
    let place = timeout
        .as_ref()
        .map_or(0, |time| ptr::from_ref(time) as u64);
    let extended = [0u64, 0, place];
    let (argument, size) = match timeout {
        Some(_) => ((&raw const extended).cast::<u8>(), size_of_val(&extended)),
        None => (ptr::null(), 0),
    };
    let fd = ring.as_fd().as_raw_fd();
    // SAFETY: the argument is as long as its size says, and lives until the call returns.
    check(unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd,
            submit,
            wait,
            flags,
            argument,
            size,
        )
    })
}

/// # Safety
/// `argument` points to what the operation wants.
unsafe fn register(
    ring: &impl AsFd,
    operation: u32,
    argument: *const u8,
    count: u32,
) -> io::Result<i64> {
    let fd = ring.as_fd().as_raw_fd();
    // SAFETY: the caller's.
    check(unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, argument, count) })
}

fn check(result: libc::c_long) -> io::Result<i64> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A shared mapping of a ring, which its program may write to at any time.
#[derive(Debug)]
struct Area {
    start: NonNull<u8>,
    length: usize,
}

impl Area {
    fn map(ring: &impl AsFd, offset: u64, length: u64) -> io::Result<Self> {
        let whole = length.next_multiple_of(PAGE);
        let length = usize::try_from(whole).map_err(|_| io::ErrorKind::InvalidInput)?;
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at no address of anybody's.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, ring, offset)? };
        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        // SAFETY: the mapping has `length` bytes; no reference to them is made.
        unsafe { ptr::copy(self.start.as_ptr(), bytes.as_mut_ptr(), self.length) };
        bytes
    }

    fn write(&self, bytes: &[u8]) {
        let length = bytes.len().min(self.length);
        // SAFETY: both have at least `length` bytes; no reference to the mapping is made.
        unsafe { ptr::copy(bytes.as_ptr(), self.start.as_ptr(), length) };
    }

    fn counter(&self, place: usize) -> &AtomicU32 {
        assert!(
            place + 4 <= self.length && place.is_multiple_of(4),
            "a counter"
        );
        // SAFETY: within the mapping, which lives as long as `self`, aligned, and only used atomically.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(place).cast()) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the mapping. It cannot fail.
        _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}
