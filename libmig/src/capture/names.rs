//! Host and domain name in the uts namespace of another process.

use std::{fs::File, io};

use rustix::{system::uname, thread::LinkNameSpaceType};

use crate::{inspect::visit, sys::HostPid};

/// (nodename, domainname) as `pid` sees them.
pub(super) fn of(pid: HostPid) -> io::Result<(String, String)> {
    let namespace = File::open(format!("/proc/{pid}/ns/uts"))?;
    visit::within(
        namespace,
        LinkNameSpaceType::HostNameAndNISDomainName,
        || {
            let names = uname();
            let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
            Ok((text(names.nodename()), text(names.domainname())))
        },
    )
}
