//! The only table of exit codes. docs/exit-codes.md and `mig --help` show it;
//! a test keeps the three together.

use libmig::api::{ClientError, Code};

/// It worked.
pub(crate) const OK: u8 = 0;
/// It failed, for a reason without a code of its own.
pub(crate) const FAILED: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// The job or process cannot move; the obstacles are named.
pub(crate) const REFUSED: u8 = 3;
/// No such job, process or node.
pub(crate) const NOT_FOUND: u8 = 4;
/// The job or process belongs to someone else.
pub(crate) const NOT_YOURS: u8 = 5;
/// The daemon cannot be reached.
pub(crate) const UNREACHABLE: u8 = 6;
/// It took too long.
pub(crate) const TIMEOUT: u8 = 7;
/// Another move of the job is under way, or the node is full: try again.
pub(crate) const BUSY: u8 = 8;
/// Another node cannot be reached, or was cut off.
pub(crate) const PEER_LOST: u8 = 9;
/// The other side speaks another version of the protocol.
pub(crate) const VERSION: u8 = 10;
/// The move was committed, but the destination has not answered yet.
pub(crate) const UNDECIDED: u8 = 11;
/// The job has ended in a checkpoint.
pub(crate) const CHECKPOINTED: u8 = 124;
/// `mig exec` itself failed before the program ran.
pub(crate) const EXEC_FAILED: u8 = 125;
/// `mig exec`: the program cannot be executed, as in a shell.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// `mig exec`: the program was not found, as in a shell.
pub(crate) const NO_PROGRAM: u8 = 127;

/// Every code and what it means, for the help.
pub(crate) const TABLE: [(u8, &str); 16] = [
    (OK, "it worked"),
    (FAILED, "it failed, for a reason without a code of its own"),
    (USAGE, "the command line makes no sense"),
    (
        REFUSED,
        "the job or process cannot move; the obstacles are named",
    ),
    (NOT_FOUND, "no such job, process or node"),
    (NOT_YOURS, "the job or process belongs to someone else"),
    (UNREACHABLE, "the daemon cannot be reached"),
    (TIMEOUT, "it took too long"),
    (
        BUSY,
        "another move of the job is under way, or the node is full",
    ),
    (PEER_LOST, "another node cannot be reached, or was cut off"),
    (
        VERSION,
        "the other side speaks another version of the protocol",
    ),
    (
        UNDECIDED,
        "the move was committed, but its answer is still awaited",
    ),
    (
        CHECKPOINTED,
        "the job has ended in a checkpoint: mig restore goes on with it",
    ),
    (EXEC_FAILED, "mig exec itself failed before the program ran"),
    (NOT_EXECUTABLE, "mig exec: the program cannot be executed"),
    (NO_PROGRAM, "mig exec: the program was not found"),
];

/// The code for an error that came from the daemon, or from the way to it.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Failed(failure)) => of(failure.code),
        Some(ClientError::Connect { .. } | ClientError::Talk(_)) => UNREACHABLE,
        Some(ClientError::Version { .. }) => VERSION,
        None => FAILED,
    }
}

fn of(code: Code) -> u8 {
    match code {
        Code::Usage => USAGE,
        Code::Refused => REFUSED,
        Code::NotFound => NOT_FOUND,
        Code::NotYours => NOT_YOURS,
        Code::Unreachable => UNREACHABLE,
        Code::Timeout => TIMEOUT,
        Code::Busy => BUSY,
        Code::PeerLost => PEER_LOST,
        Code::Version => VERSION,
        Code::Undecided => UNDECIDED,
        Code::Failed | Code::Protocol | Code::Host => FAILED,
    }
}

/// The table as `mig --help` shows it.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in TABLE {
        text.push_str(&format!("{code:>5}  {meaning}\n"));
    }
    text.push_str("`mig exec` and `mig wait` exit as the job did: its code, or 128 + signal.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_code() {
        let manual = include_str!("../../docs/exit-codes.md");
        for (code, meaning) in TABLE {
            assert!(
                manual.contains(&format!("| {code} | {meaning}")),
                "{code} | {meaning}"
            );
        }
    }
}
