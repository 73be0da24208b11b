//! The request of `mig exec`: from a caller and its descriptors to a running job.

use std::{os::fd::OwnedFd, path::PathBuf};

use anyhow::{Result, ensure};
use libmig::api::{
    JobId,
    exec::{ExecRequest, FD_COUNT, StdioKind, TerminalRequest},
    terminal::Window,
};

use super::{
    handle::{Handle, Launcher, Start},
    identity::{Identity, Peer},
    program::Program,
};

/// Window of a job that is detached from the start.
const DETACHED_WINDOW: Window = Window {
    rows: 24,
    columns: 80,
    x_pixels: 0,
    y_pixels: 0,
};

/// A job that runs.
#[derive(Debug)]
pub struct Started {
    /// Where `mig exec` connects to it.
    pub attach: PathBuf,
    /// The daemon's connection to it.
    pub handle: Handle,
}

/// Starts a job here. `fds` are those of [`libmig::api::exec`]: cwd, 0, 1, 2.
/// Blocks for some milliseconds.
///
/// # Errors
/// When the request or the caller is not acceptable, or the kernel refuses a part of the capsule. Nothing is left
/// behind then.
pub fn exec(
    launcher: &Launcher,
    job: &JobId,
    request: &ExecRequest,
    mut fds: Vec<OwnedFd>,
    peer: &Peer<'_>,
) -> Result<Started> {
    request.validate()?;
    ensure!(
        fds.len() == FD_COUNT,
        "{} descriptors instead of {FD_COUNT}",
        fds.len()
    );
    let program = Program {
        argv: request.argv.clone(),
        env: request.env.clone(),
        identity: Identity::of(peer)?,
        terminal: request.wants_console().then(|| terminal(request)),
        on_console: request
            .stdio
            .map(|kind| request.detach || kind == StdioKind::Terminal),
    };
    fds.push(peer.pidfd.try_clone_to_owned()?);
    let start = Start {
        program,
        detached: request.detach,
        fds,
    };
    let handle = launcher.spawn(job, peer.uid, Some(start))?;
    Ok(Started {
        attach: handle.attach_path(),
        handle,
    })
}

/// The terminal as asked for. Detached from the start, its foreground is the program's: no one else can have it.
fn terminal(request: &ExecRequest) -> TerminalRequest {
    let asked = request.terminal.clone().unwrap_or(TerminalRequest {
        window: DETACHED_WINDOW,
        termios: vec![],
        foreground: true,
    });
    TerminalRequest {
        foreground: asked.foreground || request.detach,
        ..asked
    }
}
