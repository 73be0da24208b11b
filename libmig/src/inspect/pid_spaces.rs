//! Pid namespaces that a job has made: who is in which, and whether the tree can
//! be born in them again.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt};

use super::{
    nest::Misfit,
    process::{self, is_gone},
};
use crate::{
    image::{ChildSpace, Pid, PidSpace},
    sys::HostPid,
};

/// A process of a tree that has made pid namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// For the daemon.
    pub host: HostPid,
    /// In the capsule.
    pub pid: Pid,
    /// Its namespace; `None` for the capsule's.
    pub space: Option<PidSpace>,
    /// Where its children are born.
    pub children: ChildSpace,
    parent: HostPid,
    /// In its own namespace.
    own: Pid,
    /// How many namespaces it has an ID in.
    depth: usize,
    threads: usize,
    dead: bool,
}

/// The processes of a tree, if any is in a pid namespace other than the capsule's or
/// will have children there; otherwise none.
///
/// # Errors
/// The kernel does not tell. What is gone is left out.
pub fn survey(keeper: HostPid, tree: &[(HostPid, Pid)]) -> io::Result<Vec<Resident>> {
    let home = inode(keeper, "pid")?;
    let at_home = |host: HostPid| {
        let is = |name| inode(host, name).map(|found| found == home);
        is("pid").unwrap_or(true) && is("pid_for_children").unwrap_or(true)
    };
    let fresh = |host| matches!(inode(host, "pid_for_children"), Err(error) if is_gone(&error));
    if tree
        .iter()
        .all(|(host, _)| at_home(*host) && !(fresh(*host) && alive(*host)))
    {
        return Ok(Vec::new());
    }
    let mut known = BTreeMap::from([(home, None)]);
    let mut found = Vec::new();
    for (host, pid) in tree {
        match resident(*host, *pid, &mut known) {
            Ok(resident) => found.push(resident),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn alive(host: HostPid) -> bool {
    process::stat(host).is_ok_and(|stat| !stat.is_dead())
}

type Known = BTreeMap<u64, Option<PidSpace>>;

fn resident(host: HostPid, pid: Pid, known: &mut Known) -> io::Result<Resident> {
    let stat = process::stat(host)?;
    let status = process::status(host)?;
    let own = inode(host, "pid")?;
    let space = number(known, own);
    let children = match inode(host, "pid_for_children") {
        _ if stat.is_dead() => ChildSpace::Own,
        Ok(inode) if inode == own => ChildSpace::Own,
        Ok(inode) => number(known, inode).map_or(ChildSpace::Own, ChildSpace::Of),
        // The kernel has no link to one that nobody is in.
        Err(error) if is_gone(&error) => ChildSpace::Fresh,
        Err(error) => return Err(error),
    };
    Ok(Resident {
        host,
        pid,
        space,
        children,
        parent: stat.ppid,
        own: status.own_id().unwrap_or(pid),
        depth: status.ns_pid.len(),
        threads: process::threads(host)?.len(),
        dead: stat.is_dead(),
    })
}

fn number(known: &mut Known, inode: u64) -> Option<PidSpace> {
    let next = PidSpace::try_from(known.len() - 1).ok();
    *known.entry(inode).or_insert(next)
}

fn inode(host: HostPid, name: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{host}/ns/{name}"))?.ino())
}

/// A process with threads in a pid and in a user namespace of the job.
#[must_use]
pub fn misfit_of_threads() -> Misfit {
    Misfit {
        reason: "it has threads, and is in a pid and a user namespace of the job: nobody could give them their IDs".to_owned(),
        remedy: "start the program without a user namespace of its own",
    }
}

/// Why processes of these cannot be born where they are.
#[must_use]
pub fn misfits(all: &[Resident]) -> Vec<(Pid, Misfit)> {
    let mut found = Vec::new();
    for one in all {
        let mut refuse = |reason: &str, remedy| {
            let reason = reason.to_owned();
            found.push((one.pid, Misfit { reason, remedy }));
        };
        if one.children != ChildSpace::Own && one.threads > 1 {
            refuse(
                "its next children are born in another pid namespace than its threads",
                "let the program unshare before it starts threads",
            );
        }
        if let ChildSpace::Of(space) = one.children
            && !all.iter().any(|init| {
                init.space == Some(space) && init.own == 1 && !init.dead && init.parent == one.host
            })
        {
            refuse(
                "the pid namespace for its children has ended, or another program has made it",
                "start the program without a pid namespace of its own",
            );
        }
        let parent = all.iter().find(|other| other.host == one.parent);
        let (space, depth) = parent.map_or((None, 0), |parent| (parent.space, parent.depth));
        let expected = parent.is_some_and(|parent| {
            one.space == parent.space || one.space.map(ChildSpace::Of) == Some(parent.children)
        });
        let is_first = one.own == 1 && (parent.is_none() || one.depth == depth + 1);
        if one.space != space && !expected && !is_first {
            refuse(
                "it has come into a pid namespace of the job from outside",
                "start it from a program that is in there",
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident(pid: Pid, parent: Pid, space: Option<PidSpace>, own: Pid) -> Resident {
        Resident {
            host: HostPid::new(pid),
            pid,
            space,
            children: ChildSpace::Own,
            parent: HostPid::new(parent),
            own,
            depth: if space.is_some() { 2 } else { 1 },
            threads: 1,
            dead: false,
        }
    }

    #[test]
    fn a_first_process_and_all_below_it_are_born_again() {
        let outer = resident(10, 1, None, 10);
        let init = resident(11, 10, Some(0), 1);
        let child = resident(12, 11, Some(0), 2);
        assert_eq!(misfits(&[outer.clone(), init.clone(), child]), []);
        // Its parent has ended.
        assert_eq!(misfits(std::slice::from_ref(&init)), []);
        let brother = resident(13, 10, Some(0), 3);
        assert_eq!(
            misfits(&[outer.clone(), init.clone(), brother.clone()]).len(),
            1
        );
        let outer = Resident {
            children: ChildSpace::Of(0),
            ..outer
        };
        assert_eq!(misfits(&[outer.clone(), init.clone(), brother]), []);
        assert_eq!(misfits(std::slice::from_ref(&outer)).len(), 1);
        let threads = Resident {
            threads: 2,
            ..outer
        };
        assert_eq!(misfits(&[threads, init]).len(), 1);
    }

    #[test]
    fn a_tree_without_any_has_none() {
        let own = HostPid::own();
        assert_eq!(survey(own, &[(own, own.raw())]).unwrap(), []);
    }
}
