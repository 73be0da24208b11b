//! Ending as the program did: the shell is to see the same.

use std::fmt::Display;

use libmig::api::ExitStatus;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigSet, Signal, raise},
};

use super::Ending;
use crate::exit;

/// What a wait status word says.
pub(crate) fn status_of(word: i32) -> ExitStatus {
    match word & 0x7f {
        0 => ExitStatus::Code(word >> 8 & 0xff),
        signal => ExitStatus::Signal(signal),
    }
}

/// Says what there is to say of the end of a session with `job`; returns the exit code.
pub(crate) fn report(ending: &Ending, job: &impl Display) -> u8 {
    match ending {
        Ending::Exited(status) => as_program(*status),
        Ending::Failed { code, message } => {
            eprintln!("mig: {message}");
            u8::try_from(*code).unwrap_or(exit::NOT_EXECUTABLE)
        }
        Ending::Detached => {
            eprintln!("mig: job {job} runs on");
            exit::OK
        }
    }
}

/// The exit code for a wait status word. A signal kills this process as it
/// killed the program (without a core of its own); the code is for signals
/// that do not: the kernel would say 128 + signal, too.
pub(crate) fn as_program(word: i32) -> u8 {
    let status = status_of(word);
    if let ExitStatus::Signal(number) = status
        && let Ok(signal) = Signal::try_from(number)
    {
        setrlimit(Resource::RLIMIT_CORE, 0, 0).ok();
        let mut mask = SigSet::empty();
        mask.add(signal);
        raise(signal).ok();
        mask.thread_unblock().ok();
    }
    u8::try_from(status.shell_code()).unwrap_or(exit::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words_are_those_of_waitpid() {
        assert_eq!(status_of(42 << 8), ExitStatus::Code(42));
        assert_eq!(status_of(9), ExitStatus::Signal(9));
        assert_eq!(status_of(11 | 0x80), ExitStatus::Signal(11));
        assert_eq!(as_program(7 << 8), 7);
    }
}
