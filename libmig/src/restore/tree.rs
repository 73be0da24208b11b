//! Who is forked by whom, and when: the order of clone, setsid and setpgid
//! that yields a given tree. Pure: lists of numbers in, a list of steps out.
//!
//! The kernel gives a process a session only by birth or by its own setsid(2),
//! and a group only while that group exists in its session. So a child that is
//! in its parent's former session is born before the parent's setsid, and what
//! a dead leader left behind is rebuilt around a helper with the leader's pid.
//!
//! Everything starts from the zygote, a child of the capsule's init in the
//! init's session. `build` carries the steps out.

mod apart;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::Obstacle,
    image::{INIT, Pid, PidSpace},
};

/// What the planner needs to know of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Member {
    /// Its pid.
    pub pid: Pid,
    /// Its parent, or [`INIT`].
    pub ppid: Pid,
    /// Its process group.
    pub pgid: Pid,
    /// Its session.
    pub sid: Pid,
    /// Its pid namespace, if it is one that the job has made.
    pub space: Option<PidSpace>,
    /// It is pid 1 there.
    pub first: bool,
    /// It cannot name its group: that is of a namespace above.
    pub blind: bool,
    /// The pid namespace of its children, if that is another one.
    pub child_space: Option<PidSpace>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `creator` forks a process with the pid `pid`: its child, or, with
    /// `sibling`, its parent's (CLONE_PARENT).
    Spawn {
        /// Who forks.
        creator: Pid,
        /// The new pid.
        pid: Pid,
        /// Whether the creator's parent becomes the parent.
        sibling: bool,
        /// A helper: it is no part of the tree and exits later.
        helper: bool,
        /// In a new pid namespace.
        apart: bool,
    },
    /// The process unshares its pid namespace: its next child is pid 1 of a new one.
    Unshare {
        /// Who.
        pid: Pid,
    },
    /// The process calls setsid(2).
    LeadSession {
        /// Who.
        pid: Pid,
    },
    /// The process calls setpgid(0, group).
    JoinGroup {
        /// Who.
        pid: Pid,
        /// Which group; founded when it is the process's own pid.
        group: Pid,
    },
    /// A helper exits and is waited for.
    Dismiss {
        /// Who.
        pid: Pid,
        /// Its parent, which waits for it; the capsule's init does so by itself.
        reaper: Pid,
    },
}

/// Plans the tree `members`, grown from `zygote`, a child of [`INIT`] whose
/// group is `zygote_group`. IDs in `taken` (thread IDs, say) are not used for
/// helpers.
///
/// # Errors
/// The obstacle, when no order of system calls leads to this tree.
pub fn plan(
    members: &[Member],
    zygote: Pid,
    zygote_group: Pid,
    taken: &BTreeSet<Pid>,
) -> Result<Vec<Step>, Obstacle> {
    let mut planner = Planner::new(members, zygote, zygote_group, taken)?;
    planner.births()?;
    planner.groups()?;
    planner.dismiss();
    Ok(planner.steps)
}

struct Planner<'a> {
    members: &'a [Member],
    by_pid: BTreeMap<Pid, &'a Member>,
    zygote: Pid,
    zygote_group: Pid,
    /// Session in which a process is born.
    born_in: BTreeMap<Pid, Pid>,
    used: BTreeSet<Pid>,
    /// Session in which each existing process is now.
    session: BTreeMap<Pid, Pid>,
    /// Parent of each existing process, helpers included.
    parent: BTreeMap<Pid, Pid>,
    /// Group in which each existing process is now.
    group: BTreeMap<Pid, Pid>,
    /// Groups that exist besides those of sessions, and their sessions.
    founded: BTreeMap<Pid, Pid>,
    /// Helpers, in order of birth.
    helpers: Vec<Pid>,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn new(
        members: &'a [Member],
        zygote: Pid,
        zygote_group: Pid,
        taken: &BTreeSet<Pid>,
    ) -> Result<Self, Obstacle> {
        let mut by_pid = BTreeMap::new();
        for member in members {
            if member.pid <= INIT
                || member.pid == zygote
                || by_pid.insert(member.pid, member).is_some()
            {
                return Err(obstacle(
                    member.pid,
                    "process ID",
                    "is reserved or appears twice",
                ));
            }
        }
        let mut used = taken.clone();
        used.insert(zygote);
        for m in members {
            used.extend([m.pid, m.pgid, m.sid]);
        }
        let mut planner = Self {
            members,
            by_pid,
            zygote,
            zygote_group,
            born_in: BTreeMap::new(),
            used,
            session: BTreeMap::from([(zygote, INIT)]),
            parent: BTreeMap::from([(zygote, INIT)]),
            group: BTreeMap::from([(zygote, zygote_group)]),
            founded: BTreeMap::new(),
            helpers: Vec::new(),
            steps: Vec::new(),
        };
        planner.born_in = planner.birth_sessions()?;
        Ok(planner)
    }

    /// Children before parents: the session in which each process must be born.
    fn birth_sessions(&self) -> Result<BTreeMap<Pid, Pid>, Obstacle> {
        let order = self.parents_first()?;
        let mut needed: BTreeMap<Pid, Pid> = BTreeMap::new();
        // The session a leader was in before its setsid, where a child tells.
        let mut before: BTreeMap<Pid, Pid> = BTreeMap::new();
        for member in order.iter().rev() {
            let need = if member.sid == member.pid {
                before.get(&member.pid).copied()
            } else {
                Some(member.sid)
            };
            let Some(need) = need else { continue };
            needed.insert(member.pid, need);
            let Some(parent) = self.by_pid.get(&member.ppid) else {
                continue;
            };
            if need == parent.sid {
                continue;
            }
            let conflict = before
                .insert(parent.pid, need)
                .is_some_and(|other| other != need);
            if parent.sid != parent.pid || conflict {
                return Err(obstacle(
                    member.pid,
                    format!("session {need}"),
                    format!("its parent {} was never in it", parent.pid),
                ));
            }
        }
        let mut born = BTreeMap::new();
        for member in order {
            let default = self
                .by_pid
                .get(&member.ppid)
                .map_or(INIT, |parent| parent.sid);
            born.insert(
                member.pid,
                needed.get(&member.pid).copied().unwrap_or(default),
            );
        }
        Ok(born)
    }

    fn parents_first(&self) -> Result<Vec<&'a Member>, Obstacle> {
        let mut children: BTreeMap<Pid, Vec<&Member>> = BTreeMap::new();
        for member in self.members {
            children.entry(member.ppid).or_default().push(member);
        }
        let mut order: Vec<&Member> = children.remove(&INIT).unwrap_or_default();
        let mut next = 0;
        while let Some(member) = order.get(next) {
            next += 1;
            order.extend(children.remove(&member.pid).unwrap_or_default());
        }
        match children.values().flatten().next() {
            Some(lost) => Err(obstacle(
                lost.pid,
                format!("parent {}", lost.ppid),
                "is not part of the job",
            )),
            None => Ok(order),
        }
    }

    /// Forks and setsids, in rounds until nothing more can be done.
    fn births(&mut self) -> Result<(), Obstacle> {
        let order = self.parents_first()?;
        loop {
            let mut progress = false;
            let mut waiting = None;
            for member in &order {
                if !self.session.contains_key(&member.pid) {
                    if self.try_spawn(member)? {
                        progress = true;
                    } else {
                        waiting = Some(member.pid);
                        continue;
                    }
                }
                let leads = member.sid == member.pid;
                if leads && self.session.get(&member.pid) != Some(&member.pid) {
                    if self.born_before_setsid(member) {
                        self.lead(member.pid);
                        progress = true;
                    } else {
                        waiting = Some(member.pid);
                    }
                }
            }
            match (waiting, progress) {
                (None, _) => return Ok(()),
                (Some(_), true) => {}
                (Some(pid), false) => {
                    return Err(obstacle(
                        pid,
                        "session",
                        "its session and its ancestors wait for each other",
                    ));
                }
            }
        }
    }

    /// Whether all children of a leader that belong to its former session exist.
    fn born_before_setsid(&self, leader: &Member) -> bool {
        self.members
            .iter()
            .filter(|child| child.ppid == leader.pid)
            .all(|child| {
                self.born_in.get(&child.pid) == Some(&leader.pid)
                    || self.session.contains_key(&child.pid)
            })
    }

    fn try_spawn(&mut self, member: &Member) -> Result<bool, Obstacle> {
        let birth = self.born_in.get(&member.pid).copied().unwrap_or(INIT);
        if member.ppid != INIT {
            let ready = self.session.get(&member.ppid) == Some(&birth)
                && self.may_enter(member)
                && self.joined_before(member.ppid, member)?;
            if ready {
                let apart = self.enter(member);
                self.spawn(member.ppid, member.pid, false, false);
                self.set_apart(apart);
            }
            return Ok(ready);
        }
        let Some(holder) = self.holder(birth)? else {
            return Ok(false);
        };
        if self.parent.get(&holder) == Some(&INIT) {
            if !self.joined_before(holder, member)? {
                return Ok(false);
            }
            self.spawn(holder, member.pid, true, false);
            self.set_apart(member.first);
            if holder == self.zygote && self.group_of(holder) != self.zygote_group {
                self.join(holder, self.zygote_group);
            }
            return Ok(true);
        }
        // An orphan in a session whose leader has a living parent: its own
        // parent was a process between the two. One is made, and dies again.
        let between = self.fresh(member.pid)?;
        self.spawn(holder, between, false, true);
        self.spawn(between, member.pid, false, false);
        self.parent.insert(member.pid, INIT);
        Ok(true)
    }

    /// A process that is in `session` and can fork there; made when its leader is dead.
    fn holder(&mut self, session: Pid) -> Result<Option<Pid>, Obstacle> {
        if session == INIT {
            return Ok(Some(self.zygote));
        }
        if self.session.get(&session) == Some(&session) {
            return Ok(Some(session));
        }
        match self.by_pid.get(&session) {
            Some(leader) if leader.sid == session => Ok(None),
            Some(_) => Err(obstacle(
                session,
                format!("session {session}"),
                "its ID is that of a process outside of it",
            )),
            None if session <= 0 => Err(obstacle(
                session,
                format!("session {session}"),
                "lies outside of the capsule",
            )),
            None => {
                self.spawn(self.zygote, session, true, true);
                self.lead(session);
                Ok(Some(session))
            }
        }
    }

    /// Process groups, when every process exists: founders, then members,
    /// then founders that moved on.
    fn groups(&mut self) -> Result<(), Obstacle> {
        for member in self.members {
            let leads = member.sid == member.pid;
            if leads && member.pgid != member.pid {
                return Err(obstacle(
                    member.pid,
                    format!("process group {}", member.pgid),
                    "is not the session leader's own",
                ));
            }
            if leads
                || member.pgid == self.group_of(member.pid)
                || self.founded.contains_key(&member.pgid)
            {
                continue;
            }
            self.found(member)?;
        }
        for member in self.members {
            if self
                .founded
                .get(&member.pgid)
                .is_some_and(|session| *session != member.sid)
            {
                return Err(obstacle(
                    member.pid,
                    format!("process group {}", member.pgid),
                    "is in another session",
                ));
            }
            let stays = member.pgid == member.pid || member.sid == member.pid;
            let is_founder = self.founded.contains_key(&member.pid);
            if !stays && !is_founder && member.pgid != self.group_of(member.pid) {
                self.join(member.pid, member.pgid);
            }
        }
        for member in self.members {
            let is_founder = self.founded.contains_key(&member.pid);
            if is_founder && member.pgid != self.group_of(member.pid) {
                self.join(member.pid, member.pgid);
            }
        }
        Ok(())
    }

    fn found(&mut self, member: &Member) -> Result<(), Obstacle> {
        self.found_group(member)?;
        self.founded.insert(member.pgid, member.sid);
        Ok(())
    }

    /// Lets the group of `member` come into being.
    fn found_group(&mut self, member: &Member) -> Result<(), Obstacle> {
        let group = member.pgid;
        if (group == INIT && member.sid == INIT) || group == member.sid {
            return Ok(());
        }
        let founder = match self.by_pid.get(&group) {
            Some(found) if found.sid == member.sid && found.sid != found.pid => group,
            None if group > INIT => {
                let Some(holder) = self.holder(member.sid)? else {
                    return Err(obstacle(
                        member.pid,
                        format!("session {}", member.sid),
                        "has no leader",
                    ));
                };
                if self.session.contains_key(&group) {
                    return Err(obstacle(
                        member.pid,
                        format!("process group {group}"),
                        "is in another session",
                    ));
                }
                self.spawn(holder, group, false, true);
                group
            }
            _ => {
                return Err(obstacle(
                    member.pid,
                    format!("process group {group}"),
                    "is outside of its session",
                ));
            }
        };
        self.join(founder, group);
        Ok(())
    }

    /// Helpers leave, the last one first: each is outlived by its parent.
    fn dismiss(&mut self) {
        for pid in std::mem::take(&mut self.helpers).into_iter().rev() {
            let reaper = self.parent.get(&pid).copied().unwrap_or(INIT);
            self.steps.push(Step::Dismiss { pid, reaper });
        }
    }

    fn spawn(&mut self, creator: Pid, pid: Pid, sibling: bool, helper: bool) {
        let session = self.session.get(&creator).copied().unwrap_or(INIT);
        self.session.insert(pid, session);
        let parent = if sibling {
            self.parent.get(&creator).copied().unwrap_or(INIT)
        } else {
            creator
        };
        self.parent.insert(pid, parent);
        self.group.insert(pid, self.group_of(creator));
        if helper {
            self.helpers.push(pid);
        }
        self.steps.push(Step::Spawn {
            creator,
            pid,
            sibling,
            helper,
            apart: false,
        });
    }

    fn lead(&mut self, pid: Pid) {
        self.session.insert(pid, pid);
        self.group.insert(pid, pid);
        self.steps.push(Step::LeadSession { pid });
    }

    /// An ID that nobody in the job has.
    fn fresh(&mut self, pid: Pid) -> Result<Pid, Obstacle> {
        let free = (INIT + 1..self.zygote)
            .rev()
            .find(|id| !self.used.contains(id));
        let id = free.ok_or_else(|| obstacle(pid, "process ID", "none is left for a helper"))?;
        self.used.insert(id);
        Ok(id)
    }
}

fn obstacle(pid: Pid, object: impl Into<String>, reason: impl Into<String>) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: object.into(),
        reason: reason.into(),
        remedy: "let the programs that share this session end first".into(),
        transient: false,
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
