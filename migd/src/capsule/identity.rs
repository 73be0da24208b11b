//! Whose a job is: read from the kernel by the caller's pid at the daemon's side,
//! put on by the main program before it execs.
//!
//! Invariant: the program gets at most what its caller had when it connected. User and group
//! come from SO_PEERCRED; /proc is believed only where it agrees with that.
//! A caller may exec a set-user-ID, set-group-ID or file-capability program after it
//! connected, so saved IDs that differ are refused, and permitted
//! capabilities are taken only as far as an exec would have kept them.

use std::{
    fs, io,
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
};

use anyhow::{Context, Result, bail, ensure};
use libmig::sys::{clone, resource::RESOURCES};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Rlimit, setpriority_process, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, CpuSet, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, sched_getaffinity, sched_setaffinity,
        set_capabilities, set_keep_capabilities, set_no_new_privs,
    },
};
use serde::{Deserialize, Serialize};

/// Everything that a program inherits from its parent and that is not a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient, as in /proc/PID/status.
    pub capabilities: [u64; 5],
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// (soft, hard) by RLIMIT_*; `None` is unlimited.
    pub limits: Vec<(Option<u64>, Option<u64>)>,
    /// File mode creation mask.
    pub umask: u32,
    /// Nice value.
    pub nice: i32,
    /// CPUs that it may run on.
    pub cpus: Vec<usize>,
    /// /proc/PID/oom_score_adj.
    pub oom_score_adj: i32,
    /// Ignored signals, bit n-1 for signal n: `nohup` must work.
    pub ignored: u64,
    /// Blocked signals.
    pub blocked: u64,
}

/// The caller of a request, as the socket knows it.
#[derive(Debug)]
pub struct Peer<'a> {
    /// SO_PEERCRED, in the daemon's pid namespace.
    pub pid: i32,
    /// User when it connected.
    pub uid: u32,
    /// Group when it connected.
    pub gid: u32,
    /// SO_PEERPIDFD: keeps `pid` from meaning another process.
    pub pidfd: BorrowedFd<'a>,
}

/// Bit of SIGPIPE in a mask.
const SIGPIPE: u64 = 1 << 12;

/// Namespaces that the job shares with the daemon at home.
const SHARED_NAMESPACES: [&str; 4] = ["mnt", "user", "net", "pid"];

impl Identity {
    /// Reads a caller's identity.
    ///
    /// # Errors
    /// When the caller is gone, has changed its credentials since it connected,
    /// or lives in namespaces that are not the daemon's.
    pub fn of(peer: &Peer<'_>) -> Result<Identity> {
        let folder = format!("/proc/{}", peer.pid);
        for name in SHARED_NAMESPACES {
            let (theirs, ours) = (
                format!("{folder}/ns/{name}"),
                format!("/proc/self/ns/{name}"),
            );
            let same = fs::metadata(&theirs)
                .and_then(|a| Ok(a.ino() == fs::metadata(ours)?.ino()))
                .with_context(|| format!("{theirs} cannot be read"))?;
            ensure!(
                same,
                "the caller lives in another {name} namespace than migd"
            );
        }
        let root = fs::read_link(format!("{folder}/root"))?;
        ensure!(
            root.as_os_str() == "/",
            "the caller's root is {}",
            root.display()
        );
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let identity = parse_status(&status, peer)?;
        let identity = Identity {
            limits: parse_limits(&fs::read_to_string(format!("{folder}/limits"))?)?,
            oom_score_adj: fs::read_to_string(format!("{folder}/oom_score_adj"))?
                .trim()
                .parse()?,
            nice: stat_nice(&fs::read_to_string(format!("{folder}/stat"))?)?,
            cpus: cpus_of(peer.pid)?,
            ..identity
        };
        ensure!(alive(peer.pidfd)?, "the caller is gone");
        Ok(identity)
    }

    /// Becomes this identity. For the child that is about to exec, with one thread.
    ///
    /// # Errors
    /// Whatever must not be skipped and cannot be set; then the program must not run.
    pub fn put_on(&self) -> io::Result<()> {
        for (resource, &(current, maximum)) in RESOURCES.into_iter().zip(&self.limits) {
            let wanted = Rlimit { current, maximum };
            let have = rustix::process::getrlimit(resource);
            if have != wanted && setrlimit(resource, wanted).is_err() {
                setrlimit(resource, at_most(have, wanted))?;
            }
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.umask));
        if rustix::process::getpriority_process(None)? != self.nice {
            setpriority_process(None, self.nice)?;
        }
        let mut set = CpuSet::new();
        self.cpus
            .iter()
            .filter(|&&cpu| cpu < CpuSet::MAX_CPU)
            .for_each(|&cpu| set.set(cpu));
        sched_setaffinity(None, &set)?;
        // Lowering it below what the daemon has needs CAP_SYS_RESOURCE: then it stays as it is, higher.
        drop(fs::write(
            "/proc/self/oom_score_adj",
            self.oom_score_adj.to_string(),
        ));
        self.become_user()?;
        clone::reset_signals(self.ignored, self.blocked)
    }

    /// IDs and capabilities. Root's capabilities are its own after this; another user's
    /// permitted set is what exec keeps: the ambient set.
    fn become_user(&self) -> io::Result<()> {
        let [inheritable, permitted, effective, bounding, ambient] =
            self.capabilities.map(CapabilitySet::from_bits_retain);
        // `iter` would end with all bits that have no name, as one.
        for (_, capability) in CapabilitySet::all().iter_names() {
            if !bounding.contains(capability) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
        let groups: Vec<_> = self.groups.iter().map(|&g| Gid::from_raw(g)).collect();
        setgroups(&groups)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setresgid(gid, gid, gid)?;
        set_keep_capabilities(true)?;
        setresuid(uid, uid, uid)?;
        let sets = CapabilitySets {
            effective,
            permitted,
            inheritable,
        };
        set_capabilities(None, sets)?;
        for capability in ambient.iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
        if self.no_new_privs {
            set_no_new_privs(true)?;
        }
        Ok(())
    }
}

/// The lower of both, number by number; `None` is unlimited. Without CAP_SYS_RESOURCE a
/// hard limit above the daemon's own is out of reach.
fn at_most(a: Rlimit, b: Rlimit) -> Rlimit {
    let lower = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let maximum = lower(a.maximum, b.maximum);
    Rlimit {
        current: lower(b.current, maximum),
        maximum,
    }
}

fn parse_status(status: &str, peer: &Peer<'_>) -> Result<Identity> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| format!("/proc/{}/status has no {name}", peer.pid))
    };
    let numbers = |name: &str| -> Result<Vec<u32>> {
        let words = field(name)?.split_whitespace();
        Ok(words.map(str::parse).collect::<Result<_, _>>()?)
    };
    let mask = |name: &str| -> Result<u64> { Ok(u64::from_str_radix(field(name)?, 16)?) };
    ensure_all("user", &numbers("Uid")?, peer.uid)?;
    ensure_all("group", &numbers("Gid")?, peer.gid)?;
    let [inheritable, bounding, ambient] = [mask("CapInh")?, mask("CapBnd")?, mask("CapAmb")?];
    let kept = if peer.uid == 0 {
        [mask("CapPrm")?, mask("CapEff")?]
    } else {
        [ambient; 2]
    };
    Ok(Identity {
        uid: peer.uid,
        gid: peer.gid,
        groups: numbers("Groups")?,
        capabilities: [inheritable, kept[0], kept[1], bounding, ambient],
        no_new_privs: field("NoNewPrivs")? == "1",
        limits: vec![],
        umask: u32::from_str_radix(field("Umask")?, 8)?,
        nice: 0,
        cpus: vec![],
        oom_score_adj: 0,
        // `mig` is a Rust program: its runtime ignores SIGPIPE before main, so
        // what its parent had set cannot be known. Shells do not ignore it.
        ignored: mask("SigIgn")? & !SIGPIPE,
        blocked: mask("SigBlk")?,
    })
}

fn ensure_all(what: &str, ids: &[u32], id: u32) -> Result<()> {
    if ids.len() != 4 || ids.iter().any(|&i| i != id) {
        bail!(
            "the caller's {what} IDs are {ids:?}, not {id} four times: it is another program than connected, or set-ID"
        );
    }
    Ok(())
}

/// Soft and hard limits, in the kernel's order: the name takes 25 columns.
fn parse_limits(text: &str) -> Result<Vec<(Option<u64>, Option<u64>)>> {
    let value = |word: Option<&str>| match word {
        Some("unlimited") => Ok(None),
        Some(word) => word.parse().map(Some).context("a limit is no number"),
        None => bail!("a limit is missing"),
    };
    let limits = text.lines().skip(1).map(|line| {
        let mut words = line.get(25..).unwrap_or_default().split_whitespace();
        Ok((value(words.next())?, value(words.next())?))
    });
    let limits = limits.collect::<Result<Vec<_>>>()?;
    ensure!(
        limits.len() == RESOURCES.len(),
        "{} limits instead of 16",
        limits.len()
    );
    Ok(limits)
}

/// Field 19 of /proc/PID/stat; the name before it may contain anything.
fn stat_nice(stat: &str) -> Result<i32> {
    let (_, rest) = stat.rsplit_once(')').context("stat has no name")?;
    let word = rest
        .split_whitespace()
        .nth(16)
        .context("stat is too short")?;
    Ok(word.parse()?)
}

fn cpus_of(pid: i32) -> Result<Vec<usize>> {
    let set = sched_getaffinity(rustix::process::Pid::from_raw(pid))?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// A pidfd is readable when its process has ended.
fn alive(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    Ok(rustix::event::poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )? == 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn own_pidfd() -> std::os::fd::OwnedFd {
        rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap()
    }

    fn peer(pidfd: &std::os::fd::OwnedFd) -> Peer<'_> {
        Peer {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pidfd: pidfd.as_fd(),
        }
    }

    #[test]
    fn the_caller_is_read_as_the_kernel_has_it() {
        let pidfd = own_pidfd();
        let identity = Identity::of(&peer(&pidfd)).unwrap();
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(identity.limits[7], (files.current, files.maximum));
        assert_eq!(
            identity.nice,
            rustix::process::getpriority_process(None).unwrap()
        );
        assert!(!identity.cpus.is_empty());
        assert_eq!(identity.ignored & SIGPIPE, 0);
    }

    #[test]
    fn ids_that_changed_after_the_connection_are_refused() {
        let pidfd = own_pidfd();
        let other = Peer {
            uid: peer(&pidfd).uid + 1,
            ..peer(&pidfd)
        };
        assert!(
            Identity::of(&other)
                .unwrap_err()
                .to_string()
                .contains("user IDs")
        );
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let saved = status.replace("Uid:\t0\t0\t0\t0", "Uid:\t0\t0\t5\t0");
        if saved != status {
            assert!(parse_status(&saved, &peer(&pidfd)).is_err());
        }
    }

    #[test]
    fn a_users_permitted_capabilities_end_with_the_exec() {
        let pidfd = own_pidfd();
        let status = "Uid:\t5 5 5 5\nGid:\t6 6 6 6\nGroups:\t6 7\nUmask:\t0027\nCapInh:\t1\n\
            CapPrm:\tff\nCapEff:\tff\nCapBnd:\tfff\nCapAmb:\t2\nNoNewPrivs:\t1\n\
            SigIgn:\t1001\nSigBlk:\t4\n";
        let user = Peer {
            uid: 5,
            gid: 6,
            ..peer(&pidfd)
        };
        let identity = parse_status(status, &user).unwrap();
        assert_eq!(identity.capabilities, [1, 2, 2, 0xfff, 2]);
        assert_eq!((identity.ignored, identity.blocked), (1, 4));
        assert_eq!((identity.umask, identity.no_new_privs), (0o27, true));
        assert_eq!(identity.groups, [6, 7]);
    }

    #[test]
    fn a_limit_above_our_own_becomes_our_own() {
        let ours = Rlimit {
            current: Some(10),
            maximum: Some(100),
        };
        let wanted = Rlimit {
            current: Some(500),
            maximum: None,
        };
        let got = at_most(ours, wanted);
        assert_eq!((got.current, got.maximum), (Some(100), Some(100)));
    }
}
