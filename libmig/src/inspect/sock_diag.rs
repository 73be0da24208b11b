//! One question to sock_diag(7), and its answer.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// The length of struct nlmsghdr.
pub(super) const HEADER: usize = 16;

/// Asks about one socket; `body` is the request of its family. The answer begins
/// with a struct nlmsghdr.
///
/// # Errors
/// ENOENT when there is no such socket in this network namespace.
pub(super) fn ask(body: &[u8]) -> io::Result<Vec<u8>> {
    let flags = SocketFlags::CLOEXEC;
    let family = AddressFamily::NETLINK;
    let netlink = socket_with(family, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    send(&netlink, &request(body), SendFlags::empty())?;
    let mut answer = vec![0; 4096];
    let (length, _) = recv(&netlink, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
    answer.truncate(length);
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    match half(&answer, 4).ok_or_else(malformed)? {
        SOCK_DIAG_BY_FAMILY => Ok(answer),
        NLMSG_ERROR => {
            let code = word(&answer, HEADER).ok_or_else(malformed)?;
            Err(io::Error::from_raw_os_error(-code.cast_signed()))
        }
        _ => Err(malformed()),
    }
}

/// struct nlmsghdr, then `body`.
fn request(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).expect("it is short");
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// Two bytes of an answer, in the order of this machine.
pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// Four of them.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}
