//! What is in a checkpoint, for people. Reads all of it.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use serde::Serialize;

use super::{Header, Reader};
use crate::{
    image::{BulkTarget, FileObject, JobImage, NeededFile, ProcessKind},
    transfer::{Connection, Incoming, Message, Offer, TransferError},
};

/// What `mig inspect --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The checkpoint's own name.
    pub uuid: String,
    /// Version of the layout.
    pub version: u32,
    /// Version of the stream.
    pub protocol: u16,
    /// The job.
    pub job: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its command line.
    pub command: String,
    /// Its owner.
    pub user: String,
    /// The owner's number.
    pub uid: u32,
    /// The node that wrote it.
    pub node: String,
    /// Release of its daemon.
    pub release: String,
    /// Its kernel.
    pub kernel: String,
    /// When, in seconds since 1970.
    pub captured_unix: u64,
    /// The processes.
    pub processes: Vec<ProcessSummary>,
    /// Files that must be there when it is restored.
    pub files: Vec<String>,
    /// Open file descriptions by kind.
    pub open: BTreeMap<&'static str, usize>,
    /// Locks on files.
    pub locks: Vec<String>,
    /// Bytes of contents.
    pub memory: MemorySummary,
    /// The files that are read for it, oldest first; the last is the one that was named.
    pub chain: Vec<LinkSummary>,
}

/// One file of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkSummary {
    /// Its own name.
    pub uuid: String,
    /// When it was taken, in seconds since 1970.
    pub captured_unix: u64,
    /// Its length.
    pub file_bytes: u64,
    /// Bytes of this checkpoint's contents that lie in it.
    pub contents_bytes: u64,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessSummary {
    /// In the capsule.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its name.
    pub comm: String,
    /// Its threads; none of a zombie.
    pub threads: usize,
    /// Descriptors that are open.
    pub descriptors: usize,
}

/// Bytes in a checkpoint, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemorySummary {
    /// Of single processes.
    pub private_bytes: u64,
    /// Of shared memory objects.
    pub shared_bytes: u64,
    /// Of files without a name.
    pub file_bytes: u64,
}

/// Reads the whole checkpoint, and what it needs of the files that it builds on.
///
/// # Errors
/// What is damaged, with its place, or out of order.
pub fn summarize<R: Read + Seek>(reader: Reader<R>) -> Result<Summary, TransferError> {
    let header = reader.header().clone();
    let link = |reader: &Reader<R>| LinkSummary {
        uuid: reader.header().uuid.clone(),
        captured_unix: reader.header().captured_unix,
        file_bytes: reader.length(),
        contents_bytes: 0,
    };
    let mut chain: Vec<_> = reader.bases().iter().chain([&reader]).map(link).collect();
    let mut stream = Connection::new(reader);
    let proposal = stream.proposal()?;
    stream.expect("the capsule's state", |message| match message {
        Message::State(state) => Ok(state),
        other => Err(other),
    })?;
    let image = match stream.receive()? {
        Incoming::Image(image) => *image,
        other => return Err(other.instead_of("an image")),
    };
    let mut memory = MemorySummary::default();
    loop {
        match stream.receive()? {
            Incoming::Bulk(target) => {
                let kind = match target {
                    BulkTarget::Memory { .. } => &mut memory.private_bytes,
                    BulkTarget::Shared { .. } => &mut memory.shared_bytes,
                    BulkTarget::File { .. } => &mut memory.file_bytes,
                };
                let bytes = stream.bulk_bytes().len() as u64;
                *kind += bytes;
                let from = stream.link().last_recall().unwrap_or(chain.len() - 1);
                chain[from].contents_bytes += bytes;
            }
            Incoming::Message(Message::End { bulk_bytes }) => {
                let got = stream.bulk();
                if got != bulk_bytes {
                    let sent = bulk_bytes;
                    return Err(TransferError::Incomplete { sent, got });
                }
                return Ok(tell(
                    header,
                    &proposal.offer,
                    &proposal.files,
                    &image,
                    (memory, chain),
                ));
            }
            other => return Err(other.instead_of("bulk or its end")),
        }
    }
}

fn tell(
    header: Header,
    offer: &Offer,
    files: &[NeededFile],
    image: &JobImage,
    (memory, chain): (MemorySummary, Vec<LinkSummary>),
) -> Summary {
    let mut open = BTreeMap::new();
    for file in &image.files {
        *open.entry(kind(&file.object)).or_default() += 1;
    }
    let path = |needed: &NeededFile| String::from_utf8_lossy(&needed.file.path).into_owned();
    let mut files: Vec<String> = files.iter().map(path).collect();
    files.sort_unstable();
    files.dedup();
    Summary {
        uuid: header.uuid,
        version: super::VERSION,
        protocol: header.protocol,
        job: header.job,
        name: offer.name.clone(),
        command: offer.command.clone(),
        user: offer.user.clone(),
        uid: offer.uid,
        node: header.node,
        release: header.release,
        kernel: header.kernel,
        captured_unix: header.captured_unix,
        processes: processes(image),
        files,
        open,
        locks: image.locks.iter().map(ToString::to_string).collect(),
        memory,
        chain,
    }
}

fn processes(image: &JobImage) -> Vec<ProcessSummary> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |process: &crate::image::Process| {
        let (comm, threads, descriptors) = match &process.kind {
            ProcessKind::Zombie { comm, .. } => (text(comm), 0, 0),
            ProcessKind::Live(live) => (
                live.threads
                    .first()
                    .map_or_else(String::new, |leader| text(&leader.comm)),
                live.threads.len(),
                live.descriptors.len(),
            ),
        };
        ProcessSummary {
            pid: process.pid,
            ppid: process.ppid,
            comm,
            threads,
            descriptors,
        }
    };
    image.processes.iter().map(one).collect()
}

fn kind(object: &FileObject) -> &'static str {
    match object {
        FileObject::Path(_) | FileObject::Proc { .. } => "file",
        FileObject::Unlinked(_) => "unlinked file",
        FileObject::Device { .. } => "device",
        FileObject::Pipe(_) => "pipe",
        FileObject::Stdio(_) => "standard stream",
        FileObject::TtyMaster(_) | FileObject::TtySlave(_) | FileObject::ControllingTty(_) => {
            "terminal"
        }
        FileObject::Shared(_) => "shared memory",
        FileObject::Unix(_) => "socket",
        _ => "event source",
    }
}
