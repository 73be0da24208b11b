//! kill(2) with any signal number: nix's `Signal` ends at 31, the kernel's signals at 64.
//! And what a process does with the signals and timers of the program that it has been.

use std::{io, mem, ptr};

use super::HostPid;

/// Sends `signal` to a process.
///
/// # Errors
/// ESRCH when it is gone, EINVAL for a number that is none.
pub fn send(process: HostPid, signal: i32) -> io::Result<()> {
    // SAFETY: two integers; no memory is touched.
    if unsafe { libc::kill(process.raw(), signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Stops the interval timers of the calling process, which execve(2) keeps.
///
/// # Errors
/// None that is known.
pub fn stop_itimers() -> io::Result<()> {
    // SAFETY: two structs of integers, for which 0 is a value.
    let never: libc::itimerval = unsafe { mem::zeroed() };
    for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: the new value is read, and no old one is asked for.
        if unsafe { libc::setitimer(timer, &raw const never, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Forgets pending signals of the calling process, those whose bits (n - 1 for signal
/// n) are set. What is done with later ones stays.
pub fn discard_pending(mask: u64) {
    let numbers = (1..=64).filter(|number| mask & (1 << (number - 1)) != 0);
    for number in numbers {
        // SAFETY: a struct of integers, for which 0 is a value; SIG_IGN is no function.
        let mut ignore: libc::sigaction = unsafe { mem::zeroed() };
        ignore.sa_sigaction = libc::SIG_IGN;
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: both structs outlive the calls; what was there before is put back. Signals
        // that cannot be ignored are refused by the first call.
        unsafe {
            if libc::sigaction(number, &raw const ignore, &raw mut before) == 0 {
                libc::sigaction(number, &raw const before, ptr::null_mut());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};

    use super::*;

    #[test]
    fn what_is_pending_is_forgotten_and_nothing_else() {
        let both = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGUSR2]);
        let before = both.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        raise(Signal::SIGUSR1).unwrap();
        raise(Signal::SIGUSR2).unwrap();
        discard_pending(1 << (libc::SIGUSR1 - 1));
        let left = both.wait().unwrap();
        before.thread_set_mask().unwrap();
        assert_eq!(left, Signal::SIGUSR2);
    }
}
