//! What the lab says to a node's init, over a unix socket in the lab's folder (which only root may
//! enter): one line there, one line of JSON back.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Lab, NodeId, node::Init};

/// A node's init answers at once, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any line of this protocol.
const MAX_LINE: u64 = 4096;

/// What a node's init can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// Say whether migd runs
    Status,
    /// Start migd unless it runs
    Start,
    /// Kill migd with SIGKILL, as a crash would
    Kill,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Start => "start",
            Self::Kill => "kill",
        }
    }
}

/// A node init's answer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// migd's pid in the node, while it runs.
    pub(crate) migd: Option<i32>,
    /// Why the order was not carried out.
    pub(crate) error: Option<String>,
}

/// Gives a node's init an order and waits until it is carried out.
pub(crate) fn order(lab: &Lab, node: NodeId, order: Order) -> Result<Answer> {
    let ask = || -> Result<Answer> {
        let mut stream = UnixStream::connect(lab.node_socket(node))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{}", order.word())?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    let answer = ask().with_context(|| format!("ask the init of {node}"))?;
    match answer.error {
        Some(error) => bail!("{node} could not {} migd: {error}", order.word()),
        None => Ok(answer),
    }
}

/// Serves one caller, in the node's init. Whatever a caller does wrong, the init lives on.
pub(crate) fn answer(listener: &UnixListener, init: &mut Init) {
    let Ok((mut stream, _)) = listener.accept() else {
        return;
    };
    // A caller that says nothing must not keep the init from its orphans.
    let prepared = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(1))))
        .and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(1))));
    let mut line = String::new();
    let read =
        prepared.and_then(|()| BufReader::new((&stream).take(MAX_LINE)).read_line(&mut line));
    let result = match (read, line.trim()) {
        (Ok(_), "status") => Ok(()),
        (Ok(_), "start") => init.start_migd(),
        (Ok(_), "kill") => init.kill_migd(),
        _ => return,
    };
    let answer = Answer {
        migd: init.migd().map(nix::unistd::Pid::as_raw),
        error: result.err().map(|error| format!("{error:#}")),
    };
    if let Ok(text) = serde_json::to_string(&answer) {
        // The caller may have left.
        let _ = writeln!(stream, "{text}");
    }
}
