//! `mig inspect`: what is in a checkpoint. No daemon is asked.

use std::{io::BufReader, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use libmig::checkpoint::{DamageError, Reader, Summary, summarize};

use super::chain::Chain;
use crate::{
    exit,
    ui::{self, human, printable},
};

/// Say what is in a checkpoint
///
/// Reads and checks all of the file, and what it needs of those that it builds on;
/// damage is named with its place. Needs no daemon.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads and prints.
pub(crate) fn run(args: &InspectArgs) -> Result<u8> {
    let what = || format!("{} cannot be read as a checkpoint", args.file.display());
    let chain = Chain::open(&args.file)?;
    let open = |file| Reader::open(BufReader::new(file));
    let bases: Result<Vec<_>, _> = chain.bases.into_iter().map(open).collect();
    let reader = open(chain.head).with_context(what)?;
    let reader = reader.on(bases.with_context(what)?).with_context(what)?;
    let summary = match summarize(reader) {
        Ok(summary) => summary,
        Err(error) => {
            // Behind the words about a connection, which there is none of here.
            return match DamageError::behind(&error) {
                Some(damage) => Err(anyhow::anyhow!("{damage}")).with_context(what),
                None => Err(error).with_context(what),
            };
        }
    };
    if args.json {
        ui::json(&summary)?;
    } else {
        ui::line(text(&summary).trim_end())?;
    }
    Ok(exit::OK)
}

fn text(summary: &Summary) -> String {
    let name = summary.name.as_deref().unwrap_or("no name");
    let mut lines = vec![
        format!(
            "checkpoint {} (layout {}, stream {})",
            summary.uuid, summary.version, summary.protocol
        ),
        format!(
            "job {} ({name}) of {} ({}): {}",
            summary.job, summary.user, summary.uid, summary.command
        ),
        format!(
            "written by node {}, mig {}, Linux {}, at {} (seconds since 1970)",
            summary.node, summary.release, summary.kernel, summary.captured_unix
        ),
        format!(
            "contents: {} private, {} shared, {} of files without a name",
            human::bytes(summary.memory.private_bytes),
            human::bytes(summary.memory.shared_bytes),
            human::bytes(summary.memory.file_bytes)
        ),
    ];
    if let [_, _, ..] = &summary.chain[..] {
        lines.extend(summary.chain.iter().map(|link| {
            format!(
                "from {} of {} (seconds since 1970), {}: {}",
                link.uuid,
                link.captured_unix,
                human::bytes(link.file_bytes),
                human::bytes(link.contents_bytes)
            )
        }));
    }
    for process in &summary.processes {
        lines.push(format!(
            "process {} (child of {}): {}, threads {}, descriptors {}",
            process.pid, process.ppid, process.comm, process.threads, process.descriptors
        ));
    }
    for (kind, count) in &summary.open {
        lines.push(format!("open: {kind}: {count}"));
    }
    let locks = summary.locks.iter().map(|lock| format!("lock: {lock}"));
    lines.extend(locks);
    let files = summary.files.iter().map(|file| format!("needs {file}"));
    lines.extend(files);
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n")
}
