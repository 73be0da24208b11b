//! Contents of files that have no name any more. They are read through
//! descriptions of our own, so that the program's offsets stay.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use rustix::{fs::SeekFrom, io::Errno};

use super::{FilesError, table::Found};
use crate::{
    capture::BulkSink,
    image::{BulkTarget, FileId},
};

/// Bytes in one piece, as [`BulkSink`] allows.
const PIECE: usize = 1024 * 1024;

/// The unlinked files of a tree.
#[derive(Debug, Default)]
pub struct UnlinkedContents {
    files: Vec<(FileId, File)>,
}

impl UnlinkedContents {
    pub(super) fn add(&mut self, file: FileId, found: &Found) -> Result<(), FilesError> {
        let link = format!("/proc/self/fd/{}", found.copy.as_raw_fd());
        let contents = File::open(link).map_err(found.host("the contents"))?;
        self.files.push((file, contents));
        Ok(())
    }

    /// Sends the contents, without the holes.
    ///
    /// # Errors
    /// What the file system or the sink says.
    pub fn send(&self, sink: &mut dyn BulkSink) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        for (file, contents) in &self.files {
            send_file(*file, contents, &mut buffer, sink)?;
        }
        Ok(())
    }
}

fn send_file(
    file: FileId,
    contents: &File,
    buffer: &mut [u8],
    sink: &mut dyn BulkSink,
) -> io::Result<()> {
    let mut offset = 0;
    while let Some(start) = seek(contents, SeekFrom::Data(offset))? {
        let end = seek(contents, SeekFrom::Hole(start))?.unwrap_or(start);
        offset = start;
        while offset < end {
            let wanted = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let count = contents.read_at(&mut buffer[..wanted], offset)?;
            if count == 0 {
                return Ok(());
            }
            sink.bulk(BulkTarget::File { file, offset }, &buffer[..count])?;
            offset += count as u64;
        }
    }
    Ok(())
}

/// ENXIO means that there is no data (or nothing at all) behind that place.
fn seek(file: &File, place: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, place) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
