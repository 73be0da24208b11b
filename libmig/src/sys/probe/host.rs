//! What the lab builds its nodes of: overlay mounts, veth pairs and bridges,
//! each made in a namespace that ends with the child.

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
        stat::Mode,
    },
    unistd::mkdir,
};

use super::in_child;

/// An overlay mount, in a mount namespace of its own.
///
/// # Errors
/// What the kernel says.
pub fn overlayfs() -> Result<(), Errno> {
    const NONE: Option<&str> = None;
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), NONE)?;
        for folder in ["/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/root"] {
            mkdir(folder, Mode::S_IRWXU)?;
        }
        let layers = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work";
        let flags = MsFlags::empty();
        mount(
            Some("overlay"),
            "/tmp/root",
            Some("overlay"),
            flags,
            Some(layers),
        )
    })
}

/// A veth pair, in a network namespace of its own.
///
/// # Errors
/// What the kernel says; EOPNOTSUPP when it has no such devices.
pub fn veth() -> Result<(), Errno> {
    in_child(|| link(b"veth\0\0\0\0", 5))
}

/// A bridge, in a network namespace of its own.
///
/// # Errors
/// What the kernel says; EOPNOTSUPP when it has no such devices.
pub fn bridge() -> Result<(), Errno> {
    in_child(|| link(b"bridge\0\0", 7))
}

/// Makes a network device by RTM_NEWLINK (rtnetlink(7)). `length` is that of
/// the kind's name with its zero, without padding.
fn link(kind: &[u8; 8], length: u16) -> Result<(), Errno> {
    const RTM_NEWLINK: u16 = 16;
    /// NLM_F_REQUEST, ACK, EXCL and CREATE.
    const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    unshare(CloneFlags::CLONE_NEWNET)?;
    // struct nlmsghdr (16), struct ifinfomsg (16, all zero), two attributes (4 + 4 + 8).
    let mut message = [0_u8; 48];
    message[0..4].copy_from_slice(&48_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    message[32..34].copy_from_slice(&16_u16.to_ne_bytes());
    message[34..36].copy_from_slice(&IFLA_LINKINFO.to_ne_bytes());
    message[36..38].copy_from_slice(&(4 + length).to_ne_bytes());
    message[38..40].copy_from_slice(&IFLA_INFO_KIND.to_ne_bytes());
    message[40..48].copy_from_slice(kind);
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&netlink);
    send(number, &message, MsgFlags::empty())?;
    let mut reply = [0_u8; 512];
    let received = recv(number, &mut reply, MsgFlags::empty())?;
    // struct nlmsgerr behind the header: 0 or a negative errno.
    let error = reply.get(16..20).filter(|_| received >= 20);
    let error: [u8; 4] = error.and_then(|e| e.try_into().ok()).ok_or(Errno::EPROTO)?;
    match i32::from_ne_bytes(error) {
        0 => Ok(()),
        error => Err(Errno::from_raw(error.saturating_neg())),
    }
}
