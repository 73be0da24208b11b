//! Host and domain name in the uts namespace of another process.

use std::{fs::File, io, thread};

use rustix::{
    system::uname,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::sys::HostPid;

/// (nodename, domainname) as `pid` sees them.
pub(super) fn of(pid: HostPid) -> io::Result<(String, String)> {
    let namespace = File::open(format!("/proc/{pid}/ns/uts"))?;
    // setns(2) concerns the calling thread alone: one that ends right after.
    let visitor = thread::spawn(move || {
        use std::os::fd::AsFd;
        move_into_link_name_space(
            namespace.as_fd(),
            Some(LinkNameSpaceType::HostNameAndNISDomainName),
        )?;
        let names = uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        Ok((text(names.nodename()), text(names.domainname())))
    });
    visitor
        .join()
        .map_err(|_| io::Error::other("the visitor of the uts namespace panicked"))?
}
