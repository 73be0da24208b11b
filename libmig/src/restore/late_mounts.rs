//! File systems of the kind proc: made by a process that is in the pid namespace, when it is there.

use std::{collections::VecDeque, fs::File, os::fd::OwnedFd, path::Path};

use rustix::process::{Pid as RustixPid, PidfdFlags, PidfdGetfdFlags};

use super::{
    build::Building,
    error::{self, RestoreError, remote},
    mounts::{attach, clone, open},
    task::Task,
};
use crate::{
    image::{JobImage, Mount, MountSource, NamespaceId, PidSpace},
    inspect::visit,
    sys::remote::{Arg, Batch, Injector},
};

const STEP: &str = "mount a proc of the job";
const CLOEXEC: u64 = 1;
const SET_FLAG: u64 = 0;
const SET_STRING: u64 = 1;
const CREATE: u64 = 6;

/// A mount that is on one of proc, or is one.
#[derive(Debug)]
pub(super) struct Late {
    /// The namespace.
    pub(super) namespace: NamespaceId,
    pub(super) mount: Mount,
    pub(super) what: What,
}

/// What it is a mount of.
#[derive(Debug)]
pub(super) enum What {
    /// A proc of a pid namespace, to be made with these options.
    Proc(Option<PidSpace>, Vec<(String, String)>),
    /// This, which is mounted nowhere yet.
    Made(OwnedFd),
}

impl Building {
    /// Mounts what could not be mounted before there were processes.
    pub(super) fn mount_late(&mut self, image: &JobImage) -> Result<(), RestoreError> {
        let mut late = VecDeque::from(std::mem::take(&mut self.namespaces.mounts.late));
        // Of one file system there is one instance for each process that makes it.
        while let Some(one) = late.pop_front() {
            let made = match &one.what {
                What::Proc(space, options) => Some(self.make_proc(image, *space, options)?),
                What::Made(_) => None,
            };
            if let Some(namespace) = self.namespaces.file(one.namespace) {
                put(namespace, one, made)?;
            }
        }
        Ok(())
    }

    fn make_proc(
        &mut self,
        image: &JobImage,
        space: Option<PidSpace>,
        options: &[(String, String)],
    ) -> Result<OwnedFd, RestoreError> {
        let is_first = |one: &&crate::image::Process| {
            one.inner.space == space && one.inner.pid.last() == Some(&1)
        };
        let first = image
            .processes
            .iter()
            .find(is_first)
            .filter(|_| space.is_some());
        let maker = match first {
            Some(first) => self.husks.get_mut(&first.pid),
            None => Some(&mut self.zygote),
        };
        let missing = || std::io::Error::other("its pid namespace has no first process");
        let maker = maker.ok_or_else(|| error::host(STEP)(missing()))?;
        make(maker, self.injector, options)
    }
}

/// Mounts what had to wait; `mount` is it where it is a proc.
fn put(namespace: &File, late: Late, mount: Option<OwnedFd>) -> Result<(), RestoreError> {
    let wanted = late.mount;
    let made = match late.what {
        What::Made(made) => Some(made),
        What::Proc(..) => mount,
    };
    let Some(mount) = made else {
        return Ok(());
    };
    visit::within_mounts(namespace, |_| {
        let root = open(Path::new("/"))?;
        let part = match &wanted.source {
            MountSource::System { root, .. } if root.len() > 1 => {
                clone(&mount, &root[1..], false).ok()
            }
            _ => None,
        };
        attach(part.as_ref().unwrap_or(&mount), &root, &wanted)
    })
    .map_err(error::host(STEP))
}

/// Has a husk make a proc, and takes it.
fn make(
    maker: &mut Task,
    injector: Injector,
    options: &[(String, String)],
) -> Result<OwnedFd, RestoreError> {
    let mut batch = Batch::new();
    let name = batch.string(b"proc");
    let context = Arg::Result(batch.call(libc::SYS_fsopen, &[name.into(), CLOEXEC.into()]));
    for (name, value) in options {
        let key = batch.string(name.as_bytes()).into();
        let (command, value) = match value.is_empty() {
            true => (SET_FLAG, 0u64.into()),
            false => (SET_STRING, batch.string(value.as_bytes()).into()),
        };
        let args = [context, command.into(), key, value, 0u64.into()];
        batch.call(libc::SYS_fsconfig, &args);
    }
    let nothing = 0u64.into();
    let args = [context, CREATE.into(), nothing, nothing, nothing];
    batch.call(libc::SYS_fsconfig, &args);
    let mount = batch.call(libc::SYS_fsmount, &[context, CLOEXEC.into(), nothing]);
    batch.call(libc::SYS_close, &[context]);
    let results = maker.run(injector, &batch, STEP)?;
    let number = results.value(mount).map_err(remote(maker.id, STEP))?;
    let taken = take(maker, number);
    let mut batch = Batch::new();
    batch.call(libc::SYS_close, &[number.into()]);
    maker.run(injector, &batch, STEP)?;
    taken.map_err(error::host(STEP))
}

fn take(maker: &Task, number: u64) -> std::io::Result<OwnedFd> {
    let pid = RustixPid::from_raw(maker.host().raw()).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let number = i32::try_from(number).map_err(|_| std::io::ErrorKind::InvalidData)?;
    let flags = PidfdGetfdFlags::empty();
    Ok(rustix::process::pidfd_getfd(&pidfd, number, flags)?)
}
