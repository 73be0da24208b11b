//! Ending as the program did: the shell is to see the same.

use std::fmt::Display;

use libmig::api::ExitStatus;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigSet, Signal, raise},
};

use super::Ending;
use crate::exit;

/// Says what there is to say of the end of a session with `job`; returns the exit code.
pub(crate) fn report(ending: &Ending, job: &impl Display) -> u8 {
    match ending {
        Ending::Exited(word) => {
            if ExitStatus::of_word(*word) == ExitStatus::Checkpointed {
                eprintln!(
                    "mig: job {job} has ended in a checkpoint: `mig restore` goes on with it"
                );
            }
            as_program(*word)
        }
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
    let status = ExitStatus::of_word(word);
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
    fn a_code_is_that_of_the_program() {
        assert_eq!(as_program(7 << 8), 7);
    }
}
