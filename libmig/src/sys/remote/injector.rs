//! Puts the walker into a process, has it run batches, and takes it out again.

use super::{
    Batch, Foothold, RemoteError, Results,
    code::{self, CODE_LEN, header},
    foothold::{
        ERESTART_RESTARTBLOCK, ERESTARTNOHAND, PlainCall, force_write, injected, restarted, run_to,
        run_to_call, two_calls,
    },
    plan::{self, put},
};
use crate::{
    image::Registers,
    sys::{
        process_vm,
        ptrace::{Stopped, bit, reg},
        survivor::Shield,
    },
};

/// Bytes of the data area. Only what a batch uses is ever touched.
const DATA_LEN: u64 = 256 * 1024;

/// Where the pages go, and where to stand to put them there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Start of [`Injector::SPAN`] free bytes.
    pub hole: u64,
    /// For the two mmap calls.
    pub foothold: Foothold,
}

/// The number of a system call, and who is told its first argument before it is made.
pub type Pause<'a> = (i64, &'a mut dyn FnMut(u64));

/// The injected pages of one address space. Threads that share it, and
/// children that were forked with it, run batches at the same addresses; the
/// threads of one address space one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injector {
    code: u64,
}

impl Injector {
    /// Bytes of address space that an injector takes.
    pub const SPAN: u64 = CODE_LEN + DATA_LEN;

    /// Maps the pages and writes the code: never writable and executable at once.
    ///
    /// # Errors
    /// ENOMEM or EEXIST of mmap as [`RemoteError::Call`]; the thread is as it was.
    pub fn install(thread: &mut Stopped, site: &Site) -> Result<Self, RemoteError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let map = |address: u64, len: u64, protection: i32| PlainCall {
            number: libc::SYS_mmap,
            args: [
                address,
                len,
                u64::from(protection.cast_unsigned()),
                u64::from(flags.cast_unsigned()),
                u64::MAX,
                0,
            ],
        };
        let code = map(site.hole, CODE_LEN, libc::PROT_READ | libc::PROT_EXEC);
        let data = map(
            site.hole + CODE_LEN,
            DATA_LEN,
            libc::PROT_READ | libc::PROT_WRITE,
        );
        let mapped = two_calls(thread, site.foothold, [code, data])?;
        let injector = Self { code: site.hole };
        if let Some(failed) = mapped.into_iter().find(|result| *result < 0) {
            injector.unmap(thread, site.foothold, mapped.map(|result| result >= 0))?;
            return Err(call_failed(thread, libc::SYS_mmap, failed));
        }
        force_write(thread.thread(), site.hole, code::walker().bytes)?;
        Ok(injector)
    }

    /// The injector at `code`, for a process that inherited its pages or had them moved.
    #[must_use]
    pub fn at(code: u64) -> Self {
        Self { code }
    }

    /// Address of the code page; the data area follows it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.code
    }

    /// Has the thread execute a batch. Its registers and mask are afterwards
    /// what they were before, in a stop inside the kernel's get_signal().
    ///
    /// # Errors
    /// When the thread dies or stops for something else. A failing system call
    /// is no error here: ask [`Results`].
    pub fn run(&self, thread: &mut Stopped, batch: &Batch) -> Result<Results, RemoteError> {
        self.run_pausing(thread, batch, None)
    }

    /// The same, with a pause where the thread is about to make a certain call for the
    /// first time: the number of the call, and who is told its first argument meanwhile.
    /// A thread that loses its tracer there goes on and finds home.
    ///
    /// # Errors
    /// As [`Injector::run`].
    pub fn run_pausing(
        &self,
        thread: &mut Stopped,
        batch: &Batch,
        mut pause: Option<Pause<'_>>,
    ) -> Result<Results, RemoteError> {
        let capacity = usize::try_from(DATA_LEN).expect("256 KiB");
        let mut results = Results::new(thread.thread(), batch);
        let mut first = 0;
        while first < batch.len() {
            let piece = plan::cut(batch, first, capacity)?;
            let base = self.code + CODE_LEN;
            let mut image = piece.image(batch, &results, base);
            let children = self.run_once(thread, &mut image, pause.take())?;
            results.children.extend(children);
            piece.collect(&image, base, &mut results);
            if results.stopped_in(piece.first..piece.end) {
                break;
            }
            first = piece.end;
        }
        Ok(results)
    }

    /// Unmaps both areas.
    ///
    /// # Errors
    /// When the thread dies or munmap fails.
    pub fn remove(self, thread: &mut Stopped, foothold: Foothold) -> Result<(), RemoteError> {
        self.unmap(thread, foothold, [true, true])
    }

    fn unmap(
        &self,
        thread: &mut Stopped,
        foothold: Foothold,
        which: [bool; 2],
    ) -> Result<(), RemoteError> {
        let unmap = |present: bool, address: u64, len: u64| {
            // getpid stands for nothing to do.
            let number = if present {
                libc::SYS_munmap
            } else {
                libc::SYS_getpid
            };
            PlainCall {
                number,
                args: [address, len, 0, 0, 0, 0],
            }
        };
        let calls = [
            unmap(which[0], self.code, CODE_LEN),
            unmap(which[1], self.code + CODE_LEN, DATA_LEN),
        ];
        let results = two_calls(thread, foothold, calls)?;
        match results.into_iter().find(|result| *result < 0) {
            Some(failed) => Err(call_failed(thread, libc::SYS_munmap, failed)),
            None => Ok(()),
        }
    }

    /// One piece: writes the data area, runs the walker, reads the data area back.
    fn run_once(
        &self,
        thread: &mut Stopped,
        image: &mut [u8],
        pause: Option<Pause<'_>>,
    ) -> Result<Vec<crate::sys::HostPid>, RemoteError> {
        let saved = thread.registers()?;
        let mask = thread.sigmask()?;
        let signal = thread
            .signals()
            .quiet_signal()
            .ok_or(RemoteError::NoQuietSignal {
                thread: thread.thread(),
            })?;
        self.fill_header(image, &saved, mask, signal, thread.signals().caught);
        let data = self.code + CODE_LEN;
        let memory = |source| RemoteError::Memory {
            thread: thread.thread(),
            address: data,
            source,
        };
        process_vm::write_all(thread.thread(), data, image).map_err(memory)?;

        let _shield = Shield::raise();
        // Registers before mask, and back mask before registers: at every
        // instant a lost tracer leaves code that ends with the right mask.
        thread.set_registers(&injected(&saved, self.code))?;
        let run = thread
            .set_sigmask(!bit(signal))
            .map_err(RemoteError::from)
            .and_then(|()| pause.map_or(Ok(()), |pause| run_to_call(thread, pause)))
            .and_then(|()| run_to(thread, signal, self.code + code::walker().lost));
        if matches!(&run, Err(RemoteError::Ptrace(error)) if error.is_lost()) {
            return run;
        }
        thread.set_sigmask(mask)?;
        thread.set_registers(&saved)?;
        let children = run?;
        let memory = |source| RemoteError::Memory {
            thread: thread.thread(),
            address: data,
            source,
        };
        process_vm::read_exact(thread.thread(), data, image).map_err(memory)?;
        Ok(children)
    }

    /// What the self-restoring path needs.
    fn fill_header(
        &self,
        image: &mut [u8],
        saved: &Registers,
        mask: u64,
        signal: i32,
        caught: u64,
    ) {
        let home = restarted(saved);
        let handled = interrupted(saved, &home);
        put(image, header::SIGNAL, u64::from(signal.cast_unsigned()));
        put(image, header::MASK, mask);
        put(image, header::CAUGHT, caught & !mask);
        put(image, header::HANDLED_RAX, handled[reg::RAX]);
        put(image, header::HANDLED_RIP, handled[reg::RIP]);
        for (index, value) in home.iter().enumerate() {
            put(image, header::REGISTERS + index * 8, *value);
        }
    }
}

/// The registers of a program whose system call a handler interrupts, which
/// the kernel then does not restart; else those in `home`.
fn interrupted(saved: &Registers, home: &Registers) -> Registers {
    // The program's register may hold anything, also the one number that has no negative.
    let restarts_unless_handled = matches!(
        saved[reg::RAX].cast_signed().wrapping_neg(),
        ERESTARTNOHAND | ERESTART_RESTARTBLOCK
    );
    if saved[reg::ORIG_RAX].cast_signed() < 0 || !restarts_unless_handled {
        return *home;
    }
    let mut registers = *saved;
    registers[reg::RAX] = (-i64::from(libc::EINTR)).cast_unsigned();
    registers
}

fn call_failed(thread: &Stopped, number: i64, result: i64) -> RemoteError {
    let errno = i32::try_from(result.wrapping_neg()).unwrap_or(libc::EINVAL);
    RemoteError::Call {
        thread: thread.thread(),
        number,
        source: std::io::Error::from_raw_os_error(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_as_the_kernel_would() {
        let registers = |orig: i64, rax: i64| {
            let mut registers = [0u64; 27];
            registers[reg::ORIG_RAX] = orig.cast_unsigned();
            registers[reg::RAX] = rax.cast_unsigned();
            registers[reg::RIP] = 0x1002;
            registers
        };
        let cases = [
            (0, -512, 0, 0x1000),
            (0, -513, 0, 0x1000),
            (34, -514, 34, 0x1000),
            (35, -516, 219, 0x1000),
            (0, -4, -4, 0x1002),
            (0, 17, 17, 0x1002),
            (-1, -512, -512, 0x1002),
            (0, i64::MIN, i64::MIN, 0x1002),
        ];
        for (orig, rax, expected_rax, expected_rip) in cases {
            let home = restarted(&registers(orig, rax));
            assert_eq!(
                (home[reg::RAX].cast_signed(), home[reg::RIP]),
                (expected_rax, expected_rip),
                "{orig} {rax}"
            );
        }
        let hostile = registers(34, i64::MIN);
        assert_eq!(interrupted(&hostile, &hostile), hostile);
        let pause = registers(34, -514);
        let handled = interrupted(&pause, &restarted(&pause));
        assert_eq!(
            (handled[reg::RAX].cast_signed(), handled[reg::RIP]),
            (-4, 0x1002)
        );
    }
}
