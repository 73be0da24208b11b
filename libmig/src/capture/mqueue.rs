//! What waits in POSIX message queues. Nobody can look at it but by taking it out: all is put
//! back at once, while the tree stands still.

use std::io;

use crate::{
    image::PosixQueue,
    inspect::mqueue::{self, Queue},
    sys::mqueue as calls,
};

/// The queues of the calling thread's namespace. None of them notifies anybody: that would be
/// told of what is put back. What has been taken out is in our memory alone: whoever calls this
/// has raised a shield.
pub(super) fn capture() -> io::Result<Vec<PosixQueue>> {
    let Some(root) = mqueue::mount()? else {
        return Ok(Vec::new());
    };
    mqueue::list(root)?.into_iter().map(look).collect()
}

/// The names of those that notify somebody.
pub(super) fn list_notifying() -> io::Result<Vec<Vec<u8>>> {
    let Some(root) = mqueue::mount()? else {
        return Ok(Vec::new());
    };
    let queues = mqueue::list(root)?.into_iter();
    Ok(queues
        .filter(|one| one.notifies)
        .map(|one| one.name)
        .collect())
}

fn look(queue: Queue) -> io::Result<PosixQueue> {
    let attributes = calls::attributes(&queue.file)?;
    let messages = match attributes.waiting {
        0 => Vec::new(),
        _ => taken_and_put_back(&queue, attributes.longest)?,
    };
    Ok(PosixQueue {
        name: queue.name,
        mode: queue.stat.st_mode & 0o7777,
        uid: queue.stat.st_uid,
        gid: queue.stat.st_gid,
        most: attributes.most,
        longest: attributes.longest,
        messages: messages
            .into_iter()
            .map(|(priority, text)| (priority, text.into()))
            .collect(),
    })
}

fn taken_and_put_back(queue: &Queue, longest: i64) -> io::Result<Vec<(u32, Vec<u8>)>> {
    let longest = usize::try_from(longest).unwrap_or(0);
    let mut messages = Vec::new();
    let emptied = loop {
        match calls::receive(&queue.file, longest) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    for (priority, text) in &messages {
        calls::send(&queue.file, *priority, text)?;
    }
    emptied.map(|()| messages)
}
