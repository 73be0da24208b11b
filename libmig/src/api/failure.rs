//! What went wrong, as it crosses a socket: code, message, causes, hint.
//!
//! Invariant: causes are kept as a list, outermost first; they are never
//! flattened into the message, so that the CLI can print them line by line.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Obstacle, Phase};

/// The kind of a failure. `mig` maps each to an exit code (docs/exit-codes.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Anything without a code of its own.
    Failed,
    /// A request that makes no sense.
    Usage,
    /// The job cannot move; see the obstacles.
    Refused,
    /// No such job, process or node.
    NotFound,
    /// The job belongs to someone else.
    NotYours,
    /// The daemon cannot be reached.
    Unreachable,
    /// It took too long.
    Timeout,
    /// The other side speaks another protocol version.
    Version,
    /// Another move of the job is under way, or the node is full.
    Busy,
    /// A peer cannot be reached or was cut off.
    PeerLost,
    /// A peer or a client broke the protocol.
    Protocol,
    /// The kernel or the machine refused something.
    Host,
    /// Whether the move was committed is not known yet; it is being resolved.
    Undecided,
}

/// A failure as it travels and as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind.
    pub code: Code,
    /// What failed, a lower-case fragment.
    pub message: String,
    /// Why, outermost cause first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What the user can do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// The phase of the move in which it happened.
    #[serde(default)]
    pub phase: Option<Phase>,
    /// What stands in the way, for [`Code::Refused`].
    #[serde(default)]
    pub obstacles: Vec<Obstacle>,
}

impl Failure {
    /// A failure without causes.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            phase: None,
            obstacles: Vec::new(),
        }
    }

    /// A failure whose causes are `error` and the chain of its sources.
    #[must_use]
    pub fn from_error(
        code: Code,
        message: impl Into<String>,
        error: &(dyn StdError + 'static),
    ) -> Failure {
        let mut failure = Failure::new(code, message);
        let mut next = Some(error);
        while let Some(cause) = next {
            failure.causes.push(cause.to_string());
            next = cause.source();
        }
        failure
    }

    /// A refusal that names every obstacle.
    #[must_use]
    pub fn refused(message: impl Into<String>, obstacles: Vec<Obstacle>) -> Failure {
        Failure {
            obstacles,
            ..Failure::new(Code::Refused, message)
        }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the phase in which it happened.
    #[must_use]
    pub fn in_phase(mut self, phase: Phase) -> Failure {
        self.phase = Some(phase);
        self
    }

    /// Adds one innermost cause.
    #[must_use]
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Failure {
        self.causes.push(cause.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(phase) = self.phase {
            write!(f, " (in phase {phase})")?;
        }
        Ok(())
    }
}

impl StdError for Failure {}
