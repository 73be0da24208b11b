//! Calls of the process that a socket's peer is told of (SO_PEERCRED).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::{kind, made};
use crate::{
    image::{UnixCredentials, UnixSocket},
    restore::{
        error::{self, RestoreError},
        files::FilesError,
        grow::Husks,
        task::Task,
    },
    sys::remote::{Arg, Batch, Injector},
};

/// Leaves an ID as it is, for setresuid(2).
const SAME: Arg = Arg::Value(u64::MAX);

/// What a connection is asked for at.
pub(super) enum Target<'a> {
    /// An abstract name with its leading zero.
    Abstract(&'a [u8]),
    /// The file of a socket that has not got its name yet, in this directory.
    Staged(BorrowedFd<'a>),
}

/// connect(2) of a socket of the daemon, as the process that its peer is told of.
/// Whether that may write to the file of an address was judged at the source.
pub(super) fn connect(
    own: BorrowedFd<'_>,
    state: &UnixSocket,
    target: &Target<'_>,
    husks: &mut Husks,
    (injector, daemon): (Injector, i32),
) -> Result<(), RestoreError> {
    as_maker(own, state, husks, (injector, daemon), |batch| {
        let mut address = libc::AF_UNIX.to_ne_bytes()[..2].to_vec();
        match target {
            Target::Abstract(name) => address.extend_from_slice(name),
            Target::Staged(directory) => {
                // Its own directory comes later.
                let args = [daemon.into(), directory.as_raw_fd().into(), 0.into()];
                let fetched = batch.call(libc::SYS_pidfd_getfd, &args);
                batch.call(libc::SYS_fchdir, &[fetched.into()]);
                batch.call(libc::SYS_close, &[fetched.into()]);
                address.extend_from_slice(super::name::FILE.as_bytes());
                address.push(0);
            }
        }
        let length = Arg::Value(address.len() as u64);
        (libc::SYS_connect, Arg::from(batch.data(&address)), length)
    })
}

/// Makes a call on a socket of the daemon as the process that its peer is told
/// of. The number of the call is followed by its second and third argument.
pub(super) fn as_maker(
    own: BorrowedFd<'_>,
    state: &UnixSocket,
    husks: &mut Husks,
    (injector, daemon): (Injector, i32),
    call: impl FnOnce(&mut Batch) -> (i64, Arg, Arg),
) -> Result<(), RestoreError> {
    let (maker, husk) = maker(state, husks)?;
    let mut batch = Batch::new();
    let args = [daemon.into(), own.as_raw_fd().into(), 0.into()];
    let fetched = batch.call(libc::SYS_pidfd_getfd, &args);
    let (number, second, third) = call(&mut batch);
    become_user(&mut batch, maker.uid, maker.gid);
    batch.call(libc::SYS_setfsuid, &[0.into()]);
    batch.call(number, &[fetched.into(), second, third]);
    become_root(&mut batch);
    batch.call(libc::SYS_close, &[fetched.into()]);
    husk.run(injector, &batch, "take part in a socket")?;
    Ok(())
}

/// A pair, made by the process that its ends are to tell of. Of one that has
/// ended they tell of another process, with the same user and group.
pub(super) fn pair(
    state: &UnixSocket,
    husks: &mut Husks,
    injector: Injector,
) -> Result<(OwnedFd, OwnedFd), RestoreError> {
    const STEP: &str = "make a pair of sockets";
    kind(state)?;
    let (maker, husk) = maker(state, husks)?;
    let mut batch = Batch::new();
    let place = batch.reserve(8);
    become_user(&mut batch, maker.uid, maker.gid);
    let kind = state.kind | libc::SOCK_CLOEXEC;
    let args = [libc::AF_UNIX.into(), kind.into(), 0.into(), place.into()];
    batch.call(libc::SYS_socketpair, &args);
    become_root(&mut batch);
    let results = husk.run(injector, &batch, STEP)?;
    let raw = rustix::process::Pid::from_raw(husk.host().raw()).expect("a husk has an ID");
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
        .map_err(error::host("open a process of the job"))?;
    let mut closing = Batch::new();
    let mut fetch = |number: u32| {
        let number = number.cast_signed();
        closing.call(libc::SYS_close, &[number.into()]);
        rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).map_err(made())
    };
    let ends = (
        fetch(results.half(place))?,
        fetch(results.half(place.at(4)))?,
    );
    husk.run(injector, &closing, STEP)?;
    Ok(ends)
}

/// The process that SO_PEERCRED of a socket tells of, or one that stands for it.
fn maker<'h>(
    state: &UnixSocket,
    husks: &'h mut Husks,
) -> Result<(UnixCredentials, &'h mut Task), FilesError> {
    let maker = state.credentials.unwrap_or(UnixCredentials {
        pid: 0,
        uid: 0,
        gid: 0,
    });
    let pid = match husks.contains_key(&maker.pid) {
        true => maker.pid,
        false => *husks
            .keys()
            .next()
            .ok_or(FilesError::Malformed("live process"))?,
    };
    let husk = husks.get_mut(&pid).expect("it has just been found");
    Ok((maker, husk))
}

/// The effective user and group, which SO_PEERCRED tells.
fn become_user(batch: &mut Batch, uid: u32, gid: u32) {
    batch.call(libc::SYS_setresgid, &[SAME, gid.into(), SAME]);
    batch.call(libc::SYS_setresuid, &[SAME, uid.into(), SAME]);
}

fn become_root(batch: &mut Batch) {
    batch.call(libc::SYS_setresuid, &[SAME, 0.into(), SAME]);
    batch.call(libc::SYS_setresgid, &[SAME, 0.into(), SAME]);
}
