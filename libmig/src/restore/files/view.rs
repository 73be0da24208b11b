//! Files of `/proc`: opened when the processes that they are about exist, and
//! wound forward when these are complete.

use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::fs::SeekFrom;

use super::{
    FilesError, Opened,
    object::{by_name, finish, flags},
};
use crate::{
    image::{FileObject, JobImage, OpenFile},
    inspect::{proc_file, text_place},
};

impl Opened {
    /// Opens the files of `/proc`, which stood for nothing until now. To be
    /// called when every process of the tree has its address space (the kernel
    /// remembers which one), and before any takes its descriptors.
    ///
    /// # Errors
    /// [`FilesError::Refused`] names a file that this kernel does not have.
    pub fn open_views(&mut self, image: &JobImage, root: BorrowedFd<'_>) -> Result<(), FilesError> {
        for (opened, description) in self.files.iter_mut().zip(&image.files) {
            let FileObject::Proc { file, .. } = &description.object else {
                continue;
            };
            // The image comes from another node; we open with all our rights.
            if proc_file::about(&file.path, description.flags).is_none() {
                return Err(FilesError::Malformed("such file of /proc"));
            }
            let view = by_name(root, file, flags(description.flags))?;
            finish(&view, description)?;
            *opened = view;
        }
        Ok(())
    }

    /// Winds the files of `/proc` forward. To be called when the processes have
    /// all their threads and all their memory: the text is made as it is passed.
    /// It may be shorter here; then it is at its end. See [`text_place`].
    pub fn wind_views(&self, image: &JobImage) {
        let views = self.files.iter().zip(&image.files);
        for (opened, description) in views.filter(|(_, description)| has_offset(description)) {
            if let Err(error) = wind(opened, description) {
                tracing::debug!(%error, ?description, "a file of /proc starts anew");
            }
        }
    }
}

fn wind(opened: &OwnedFd, description: &OpenFile) -> io::Result<()> {
    let offset = match &description.object {
        FileObject::Proc {
            place: Some(place), ..
        } => {
            let text = text_place::read(File::from(opened.try_clone()?))?;
            text_place::position(&text, *place)
        }
        _ => u64::try_from(description.position).unwrap_or(0),
    };
    rustix::fs::seek(opened, SeekFrom::Start(offset))?;
    // The kernel has written the text for the seek, while the process was stopped, and would
    // read on in it: elsewhere is another text. Directories cannot be read so, nor need it.
    let _ = rustix::io::pread(opened, &mut [0], offset + 1);
    Ok(())
}

fn has_offset(description: &OpenFile) -> bool {
    matches!(description.object, FileObject::Proc { .. })
        && description.flags & libc::O_PATH == 0
        && description.position != 0
}
