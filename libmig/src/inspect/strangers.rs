//! What a tree that no capsule holds shares with other processes of its node:
//! a copy elsewhere would not share it any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt,
};

use super::{
    maps, process,
    sharing::{self, Sharers},
};
use crate::{
    api::Obstacle,
    image::Pid,
    sys::{
        HostPid,
        sched::{self, Shared},
    },
};

/// Kinds of descriptors that are told by their link alone.
const BY_LINK: [&[u8]; 2] = [b"pipe:[", b"socket:["];
/// Mappings of memory that several processes may write to, and that has no name.
const NAMELESS: [&[u8]; 2] = [b"/memfd:", b"/SYSV"];
/// Files there are the node's, and a capsule has others.
const NODE_SHM: &[u8] = b"/dev/shm/";
const REMEDY: &str = "start both programs under one `mig exec`";

/// Everything that processes outside of the tree share with it. `streams` are the
/// inodes of its standard streams, which may lead outside.
#[must_use]
pub fn obstacles(tree: &[(HostPid, Pid)], streams: &BTreeSet<u64>) -> Vec<Obstacle> {
    let own: BTreeMap<HostPid, Pid> = tree.iter().copied().collect();
    let mut sharers = Sharers::default();
    let (mut ends, mut memory) = (BTreeMap::new(), BTreeMap::new());
    for host in own.keys().filter(|host| lives(**host)) {
        // What they share with each other is judged elsewhere.
        drop(sharers.add(*host));
        ends.extend(descriptors(*host).map(|(link, number)| (link, (*host, number))));
        memory.extend(shared_memory(*host).into_iter().map(|key| (key, *host)));
    }
    ends.retain(|link, _| inode(link).is_none_or(|inode| !streams.contains(&inode)));
    let mut found: Vec<Obstacle> = own
        .iter()
        .flat_map(|(host, pid)| in_shm(*host, *pid).into_values())
        .collect();
    let mut named = BTreeSet::new();
    for stranger in others(&own) {
        for link in sharers.add(stranger) {
            if let Some(pid) = own.get(&link.other) {
                let reason = link.reason(stranger.raw());
                found.push(obstacle(
                    *pid,
                    format!("process {pid}"),
                    reason,
                    sharing::REMEDY,
                ));
            }
        }
        let held = descriptors(stranger).filter_map(|(link, _)| ends.get_key_value(&link));
        for (link, (host, number)) in held {
            if named.insert(link.clone()) {
                let object = format!("fd {number} ({})", String::from_utf8_lossy(link));
                let reason = format!("process {stranger}, which does not move, has it open too");
                found.push(obstacle(own[host], object, reason, REMEDY));
            }
        }
        if memory.is_empty() {
            continue;
        }
        for host in shared_memory(stranger)
            .iter()
            .filter_map(|key| memory.get(key))
        {
            let reason = format!("process {stranger}, which does not move, has it mapped too");
            found.push(obstacle(own[host], "shared memory".into(), reason, REMEDY));
        }
    }
    found
}

/// Files of the node's /dev/shm that a process has open or mapped.
fn in_shm(host: HostPid, pid: Pid) -> BTreeMap<Vec<u8>, Obstacle> {
    let areas = maps::read(host).unwrap_or_default().into_iter();
    let entries = fs::read_dir(format!("/proc/{host}/fd"))
        .into_iter()
        .flatten();
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let open = links.map(|link| link.as_os_str().as_bytes().to_vec());
    let names = areas.map(|area| area.name).chain(open);
    let there = names.filter(|name| name.starts_with(NODE_SHM));
    let named = there.map(|name| {
        let object = String::from_utf8_lossy(&name).into_owned();
        let reason = "it is in the /dev/shm of the node, and a job has one of its own";
        let obstacle = obstacle(
            pid,
            object,
            reason.to_owned(),
            "start the program with `mig exec`",
        );
        (name, obstacle)
    });
    named.collect()
}

fn obstacle(pid: Pid, object: String, reason: String, remedy: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object,
        reason,
        remedy: remedy.to_owned(),
        transient: false,
    }
}

/// Programs outside of the tree. This daemon, and its movers with the same descriptors, hold what they look at.
fn others(own: &BTreeMap<HostPid, Pid>) -> impl Iterator<Item = HostPid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let hosts = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some(HostPid::new(number))
    });
    let ours = |host| {
        host == HostPid::own() || sched::share(HostPid::own(), host, Shared::Files).unwrap_or(false)
    };
    hosts.filter(move |host| !own.contains_key(host) && lives(*host) && !ours(*host))
}

/// Neither a zombie nor a thread of the kernel, which have nothing to share.
fn lives(host: HostPid) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    process::stat(host).is_ok_and(|stat| !stat.is_dead() && stat.flags & PF_KTHREAD == 0)
}

/// Links of its pipes and sockets, with one of the numbers.
fn descriptors(host: HostPid) -> impl Iterator<Item = (Vec<u8>, i32)> {
    let entries = fs::read_dir(format!("/proc/{host}/fd"));
    entries.into_iter().flatten().flatten().filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let link = link.as_os_str().as_bytes();
        let number = entry.file_name().to_str()?.parse().ok()?;
        let known = BY_LINK.iter().any(|kind| link.starts_with(kind));
        known.then(|| (link.to_vec(), number))
    })
}

/// The number in `pipe:[N]`.
fn inode(link: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(link).ok()?;
    text.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

fn shared_memory(host: HostPid) -> BTreeSet<((u32, u32), u64)> {
    let areas = maps::read(host).unwrap_or_default();
    let nameless = |name: &[u8]| {
        name.ends_with(b" (deleted)") || NAMELESS.iter().any(|kind| name.starts_with(kind))
    };
    let shared = areas
        .iter()
        .filter(|area| area.shared && nameless(&area.name));
    shared.map(|area| (area.device, area.inode)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pipe_of_a_stranger_is_named_unless_it_is_a_standard_stream() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec 3<&0; sleep 1000 <&3 >/dev/null 2>&1 & echo $!; exec 2>/dev/null; wait",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let (shell, sleeper) = (HostPid::new(child.id().cast_signed()), line.trim().parse());
        let sleeper = HostPid::new(sleeper.unwrap());
        let tree = [(sleeper, sleeper.raw())];
        let end = fs::read_link(format!("/proc/{sleeper}/fd/0")).unwrap();
        let stream = inode(end.as_os_str().as_bytes()).unwrap();
        let named = obstacles(&tree, &BTreeSet::new());
        let spared = obstacles(&tree, &BTreeSet::from([stream]));
        let together = obstacles(&[tree[0], (shell, shell.raw())], &BTreeSet::from([stream]));
        crate::sys::signal::send(sleeper, 9).unwrap();
        child.wait().unwrap();
        assert!(
            named.iter().any(|o| o.object.contains("pipe:[")),
            "{named:?}"
        );
        assert!(
            spared.iter().all(|o| !o.object.contains("fd 0 ")),
            "{spared:?}"
        );
        assert!(
            together.iter().all(|o| !o.object.contains("fd 0 ")),
            "{together:?}"
        );
    }
}
