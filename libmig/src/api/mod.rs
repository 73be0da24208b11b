//! Data that `mig` and `migd` say to each other, and that both print.
//!
//! Invariant: these types are plain data with stable serde names: what
//! `--json` prints is what travels (docs/json.md). The framing of the local
//! socket is in [`local`]; [`Client`] is the blocking end of it.

mod client;
mod cpu;
mod event;
pub mod exec;
mod exit;
mod failure;
mod id;
mod info;
pub mod local;
mod obstacle;
mod phase;
pub mod place;
mod report;
mod request;
pub mod terminal;
pub mod termios;

pub use client::{Client, ClientError};
pub use cpu::{CpuChoice, CpuLevel, ParseCpuError};
pub use event::Event;
pub use exit::{CHECKPOINTED, ExitRecord, ExitStatus};
pub use failure::{Code, Failure};
pub use id::{JobId, NodeName, ParseIdError, Target, valid_alias};
pub use info::{JobInfo, JobState, NodeInfo, NodeState};
pub use obstacle::Obstacle;
pub use phase::Phase;
pub use report::{CheckpointReport, MoveMode, MoveReport, RestoreReport, WhereReport, WhyReport};
pub use request::{ExecReply, FromDaemon, MoveRequest, Reply, Request, RestoreRequest};
