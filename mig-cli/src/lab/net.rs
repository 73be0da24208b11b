//! The lab's network, made by netlink alone: a bridge in the keeper's network namespace, and for each
//! node a veth pair whose other end is the node's `eth0`. The machine's own network is never touched.
//!
//! A netlink socket belongs to the network namespace in which it was opened, whatever its process
//! does later: so a node's init reaches back to the bridge after it has left.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, new_connection,
    packet_core::ErrorMessage,
    packet_route::{
        link::{InfoData, InfoVeth},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    },
};

use super::{NodeId, process::ProcessId};

/// The bridge between the nodes.
const BRIDGE: &str = "lab0";
/// A node's only interface besides `lo`.
const INTERFACE: &str = "eth0";
/// A hardware address that nobody has: frames to it are lost without a word.
const NOBODY: [u8; 6] = [0x02, 0x6d, 0x69, 0x67, 0xff, 0xff];

/// Makes the bridge in the calling process's network namespace.
pub(crate) fn make_bridge() -> Result<()> {
    run(async |netlink| {
        let bridge = LinkBridge::new(BRIDGE).build();
        netlink
            .link()
            .add(bridge)
            .execute()
            .await
            .context("make a bridge (CONFIG_BRIDGE)")
    })
}

/// Makes the veth pair of a node. `leave` moves the calling process from the bridge's network
/// namespace into the node's own, new one.
pub(crate) fn make_veth(node: NodeId, leave: impl FnOnce() -> Result<()>) -> Result<()> {
    let bridge = if_nametoindex(BRIDGE).context("find the lab's bridge")?;
    run(async move |netlink| {
        leave()?;
        let namespace = File::open("/proc/self/ns/net").context("open the node's network")?;
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name(INTERFACE)
            .address(node.hardware_address().to_vec())
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let pair = LinkVeth::new(&node.to_string(), INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .controller(bridge)
            .up()
            .build();
        netlink
            .link()
            .add(pair)
            .execute()
            .await
            .context("make a veth pair (CONFIG_VETH)")
    })
}

/// Gives the node its loopback and its address, in the node's network namespace.
pub(crate) fn configure(node: NodeId) -> Result<()> {
    // Optional in a kernel; without it there is nothing to switch off. A link-local address would be
    // a second way to a peer, which `cut` does not know.
    let _ = std::fs::write(
        format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6"),
        "1",
    );
    let loopback = if_nametoindex("lo").context("find lo")?;
    let interface = if_nametoindex(INTERFACE).context("find eth0")?;
    run(async |netlink| {
        netlink
            .address()
            .add(interface, IpAddr::V4(node.address()), 24)
            .execute()
            .await
            .context("add the node's address")?;
        for index in [loopback, interface] {
            let up = LinkUnspec::new_with_index(index).up().build();
            netlink
                .link()
                .set(up)
                .execute()
                .await
                .context("set an interface up")?;
        }
        Ok(())
    })
}

/// Whether frames from one node to another get lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// They are sent to nobody.
    Cut,
    /// They arrive.
    Whole,
}

/// Breaks or mends one direction: a permanent neighbour entry with an address that nobody has takes
/// effect at once, for connections that are open already too, and says nothing to either end.
///
/// The calling thread is in the node's network namespace afterwards.
pub(crate) fn set_path(from: ProcessId, to: NodeId, path: Path) -> Result<()> {
    let namespace = File::open(format!("/proc/{}/ns/net", from.pid))
        .context("open the node's network namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the node's network namespace")?;
    let interface = if_nametoindex(INTERFACE).context("find eth0 in the node")?;
    run(async |netlink| match path {
        Path::Cut => netlink
            .neighbours()
            .add(interface, IpAddr::V4(to.address()))
            .link_layer_address(&NOBODY)
            .replace()
            .execute()
            .await
            .context("add a neighbour entry"),
        Path::Whole => forget_neighbour(netlink, interface, to.address()).await,
    })
}

async fn forget_neighbour(netlink: Handle, interface: u32, address: Ipv4Addr) -> Result<()> {
    let mut entry = NeighbourMessage::default();
    entry.header.family = rtnetlink::packet_route::AddressFamily::Inet;
    entry.header.ifindex = interface;
    entry
        .attributes
        .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
            address,
        )));
    match netlink.neighbours().del(entry).execute().await {
        // Mended already.
        Err(rtnetlink::Error::NetlinkError(ErrorMessage {
            code: Some(code), ..
        })) if code.get() == -nix::libc::ENOENT => Ok(()),
        result => result.context("remove a neighbour entry"),
    }
}

/// Runs netlink requests on the calling thread, in its network namespace.
fn run<T>(work: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start a runtime for netlink")?;
    runtime.block_on(async {
        let (connection, handle, _messages) = new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        work(handle).await
    })
}
