//! POSIX message queues: opened in the IPC namespace of the job.

use std::io;

use rustix::fs::OFlags;

use super::{
    FilesError, Opened,
    object::{finish, flags, reopen},
};
use crate::{
    image::{FileObject, JobImage},
    inspect::system_v,
    restore::mqueue,
    sys::HostPid,
};

/// O_LARGEFILE of the kernel, which the C library has as 0.
const LARGE_FILE: i32 = 0o100_000;

impl Opened {
    /// Opens the queues, which stood for nothing until now, in the namespace of `init`. To be called
    /// when they have been made, and before any descriptor is on its way.
    ///
    /// # Errors
    /// One is not there.
    pub(in crate::restore) fn open_queues(
        &mut self,
        image: &JobImage,
        init: HostPid,
    ) -> Result<(), FilesError> {
        for (opened, description) in self.files.iter_mut().zip(&image.files) {
            let FileObject::Queue(name) = &description.object else {
                continue;
            };
            let failed =
                || FilesError::make(format!("the queue /{}", String::from_utf8_lossy(name)));
            let open = || mqueue::open(name, description.flags);
            let found = system_v::within(init, open).map_err(failed())?;
            let missing = || failed()(io::Error::from(io::ErrorKind::NotFound));
            let queue = found.ok_or_else(missing)?;
            // Where the program has opened it by a name in /dev/mqueue.
            let by_name = description.flags & LARGE_FILE != 0;
            let how =
                flags(description.flags) | OFlags::from_bits_retain(LARGE_FILE.cast_unsigned());
            *opened = match by_name {
                true => reopen(&queue, how).map_err(|errno| failed()(errno.into()))?,
                false => queue,
            };
            finish(opened, description)?;
        }
        Ok(())
    }
}
