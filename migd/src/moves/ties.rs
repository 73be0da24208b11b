//! What ties a tree that no capsule holds to others: standard streams that are
//! pipes, and the terminal where it was started. They become those of a job.

use std::io;

use libmig::image::{INIT, Stdio};
use libmig::inspect::fd;
use libmig::inspect::process::{self, Scope};
use libmig::inspect::stdio::{CapsuleStdio, Console, Outside, StdioEnd};
use libmig::sys::HostPid;
use migd::capsule::PipeId;
use nix::libc;
use rustix::fs::{FileType, Mode, OFlags};

const PTY_SLAVES: std::ops::RangeInclusive<u32> = 136..=143;

/// Pipes towards others and the terminal of the tree of `root`.
///
/// # Errors
/// When it has ended.
pub(super) fn of(root: HostPid) -> io::Result<CapsuleStdio> {
    Ok(CapsuleStdio {
        streams: streams(root),
        console: console(root)?,
        root: Some(fd::root(Scope::From(root).keeper())?),
    })
}

/// Which of 0, 1 and 2 are pipes with one end in the tree.
pub(super) fn streams(root: HostPid) -> Vec<StdioEnd> {
    let own = [Stdio::In, Stdio::Out, Stdio::Err].into_iter().zip(0..);
    let mut ends: Vec<StdioEnd> = own
        .filter_map(|(stream, number)| {
            let stat = rustix::fs::stat(format!("/proc/{root}/fd/{number}")).ok()?;
            (FileType::from_raw_mode(stat.st_mode) == FileType::Fifo).then_some(StdioEnd {
                device: stat.st_dev,
                inode: stat.st_ino,
                stream,
            })
        })
        .collect();
    if ends.is_empty() {
        return ends;
    }
    let mut held = vec![(false, false); ends.len()];
    for (host, _) in process::tree(Scope::From(root)) {
        for number in fd::numbers(host).unwrap_or_default() {
            let Ok(seen) = fd::Seen::look(host, number) else {
                continue;
            };
            let is =
                |end: &StdioEnd| (end.device, end.inode) == (seen.stat.st_dev, seen.stat.st_ino);
            for (_, (reads, writes)) in ends.iter().zip(&mut held).filter(|(end, _)| is(end)) {
                let mode = seen.info.flags & libc::O_ACCMODE;
                *reads |= mode != libc::O_WRONLY;
                *writes |= mode != libc::O_RDONLY;
            }
        }
    }
    let mut held = held.into_iter();
    ends.retain(|_| held.next() != Some((true, true)));
    ends
}

/// The same as the init of a capsule knows them.
pub(super) fn pipes(stdio: &CapsuleStdio) -> [Option<PipeId>; 3] {
    [Stdio::In, Stdio::Out, Stdio::Err].map(|stream| {
        let end = stdio.streams.iter().find(|end| end.stream == stream)?;
        Some(PipeId {
            device: end.device,
            inode: end.inode,
        })
    })
}

/// The terminal that controls its session, or one that it has for a standard stream.
fn console(root: HostPid) -> io::Result<Option<Console>> {
    let stat = process::stat(root)?;
    let controlling = stat
        .controlling_terminal()
        .filter(|d| PTY_SLAVES.contains(&d.0));
    let streams = (0..3).filter_map(|number| {
        let stat = rustix::fs::stat(format!("/proc/{root}/fd/{number}")).ok()?;
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        PTY_SLAVES.contains(&device.0).then_some(device)
    });
    let Some((_, index)) = controlling.or_else(|| streams.into_iter().next()) else {
        return Ok(None);
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(slave) = rustix::fs::open(format!("/dev/pts/{index}"), flags, Mode::empty()) else {
        // Of another devpts: its descriptors are refused by their names.
        return Ok(None);
    };
    let groups = process::tree(Scope::From(root))
        .into_iter()
        .filter_map(|(host, _)| process::status(host).ok()?.ns_pgid.last().copied());
    let in_front = groups.into_iter().any(|group| group == stat.foreground);
    let outside = Outside {
        controls: controlling.is_some(),
        foreground: if in_front { stat.foreground } else { INIT },
    };
    Ok(Some(Console {
        index,
        master: slave,
        outside: Some(outside),
    }))
}
