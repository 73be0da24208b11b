//! What `mig exec` asks of the daemon: a program, its surroundings, and which
//! of its three standard streams are a terminal.
//!
//! The request travels with four descriptors (SCM_RIGHTS), in this order: the
//! current directory (O_PATH is enough), then 0, 1 and 2 of `mig exec`. A
//! terminal among these stays with `mig exec`: the program gets a pty, and
//! its bytes travel as [`super::terminal`] frames. Everything else is given to
//! the program as that very descriptor.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{CpuChoice, NodeName, terminal::Window, valid_alias};

/// Longest argument list plus environment, in bytes: what execve(2) takes by default.
pub const MAX_STRINGS: usize = 2 << 20;
/// Most arguments and environment entries together.
pub const MAX_STRING_COUNT: usize = 1 << 16;
/// How many descriptors come with a request: cwd, 0, 1, 2.
pub const FD_COUNT: usize = 4;

/// A program to start. Whose it is the kernel says (SO_PEERCRED), not the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program and its arguments; at least one.
    pub argv: Vec<ByteBuf>,
    /// The environment, `NAME=value` each.
    pub env: Vec<ByteBuf>,
    /// What to do with descriptors 0, 1 and 2.
    pub stdio: [StdioKind; 3],
    /// The user's terminal, if one of the streams is a terminal.
    pub terminal: Option<TerminalRequest>,
    /// Start without a terminal connection: a pty whose output is kept for `mig attach`.
    pub detach: bool,
    /// Alias for the job's ID.
    pub name: Option<String>,
    /// Start it there instead of here.
    pub node: Option<NodeName>,
    /// The balancer leaves the job where it is.
    pub pin: bool,
    /// The level of CPUs that it keeps to, if any.
    pub cpu: Option<CpuChoice>,
}

/// What a standard stream of `mig exec` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdioKind {
    /// A terminal: the program gets the pty.
    Terminal,
    /// Anything else: the program gets the descriptor itself.
    Descriptor,
}

/// The state in which the program finds its terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalRequest {
    /// Its size.
    pub window: Window,
    /// struct termios2 of the user's terminal; empty for the kernel's defaults.
    #[serde(with = "serde_bytes")]
    pub termios: Vec<u8>,
    /// The program starts in the foreground of its terminal. Not so when
    /// `mig exec` runs in the background or in a pipeline: another program may then own
    /// the keyboard, and ours is stopped (SIGTTIN) at its first read.
    pub foreground: bool,
}

/// Why a request cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// No program.
    #[error("the argument list is empty")]
    NoProgram,
    /// Longer than execve(2) takes.
    #[error(
        "arguments and environment are {bytes} bytes in {count} strings, more than {MAX_STRINGS} bytes in {MAX_STRING_COUNT}"
    )]
    TooLong {
        /// Bytes, terminators included.
        bytes: usize,
        /// Strings.
        count: usize,
    },
    /// A zero byte in a string.
    #[error("an argument or environment entry contains a zero byte")]
    ZeroByte,
    /// The name is no name.
    #[error(
        "`{0}` is no job name: at most 63 printable characters without blanks, not a number, no leading dash"
    )]
    BadName(String),
    /// A terminal stream without a terminal.
    #[error("a standard stream is a terminal, but the request does not describe it")]
    NoTerminal,
}

impl ExecRequest {
    /// Checks what serde cannot: sizes, zero bytes, the name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ExecError> {
        if self.argv.is_empty() {
            return Err(ExecError::NoProgram);
        }
        let strings = || self.argv.iter().chain(&self.env);
        let count = self.argv.len() + self.env.len();
        let bytes = strings().map(|s| s.len() + 1).sum::<usize>();
        if bytes > MAX_STRINGS || count > MAX_STRING_COUNT {
            return Err(ExecError::TooLong { bytes, count });
        }
        if strings().any(|s| s.contains(&0)) {
            return Err(ExecError::ZeroByte);
        }
        if let Some(name) = &self.name
            && !valid_alias(name)
        {
            return Err(ExecError::BadName(name.clone()));
        }
        if self.stdio.contains(&StdioKind::Terminal) && self.terminal.is_none() {
            return Err(ExecError::NoTerminal);
        }
        Ok(())
    }

    /// Whether the program gets a pty.
    #[must_use]
    pub fn wants_console(&self) -> bool {
        self.detach || self.stdio.contains(&StdioKind::Terminal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ExecRequest {
        ExecRequest {
            argv: vec![ByteBuf::from("true")],
            env: vec![ByteBuf::from("A=b")],
            stdio: [StdioKind::Descriptor; 3],
            terminal: None,
            detach: false,
            name: None,
            node: None,
            pin: false,
            cpu: None,
        }
    }

    #[test]
    fn refuses_what_execve_would_not_take() {
        assert_eq!(request().validate(), Ok(()));
        let empty = ExecRequest {
            argv: vec![],
            ..request()
        };
        assert_eq!(empty.validate(), Err(ExecError::NoProgram));
        let zero = ExecRequest {
            argv: vec![ByteBuf::from("a\0b")],
            ..request()
        };
        assert_eq!(zero.validate(), Err(ExecError::ZeroByte));
        let long = ExecRequest {
            env: vec![ByteBuf::from(vec![b'x'; MAX_STRINGS])],
            ..request()
        };
        assert!(matches!(long.validate(), Err(ExecError::TooLong { .. })));
    }

    #[test]
    fn names_are_never_numbers_or_options() {
        for bad in ["", "7", "-x", "a b", &"a".repeat(65)] {
            let named = ExecRequest {
                name: Some(bad.to_owned()),
                ..request()
            };
            assert!(named.validate().is_err(), "{bad:?}");
        }
        let named = ExecRequest {
            name: Some("render-3.b".into()),
            ..request()
        };
        assert_eq!(named.validate(), Ok(()));
    }

    #[test]
    fn a_terminal_stream_needs_a_terminal() {
        let stdio = [
            StdioKind::Terminal,
            StdioKind::Descriptor,
            StdioKind::Descriptor,
        ];
        assert_eq!(
            ExecRequest { stdio, ..request() }.validate(),
            Err(ExecError::NoTerminal)
        );
    }
}
