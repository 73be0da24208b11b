//! Births in pid namespaces of the job, and in groups that cannot be named there.

use super::{Member, Planner, Step};
use crate::{
    api::Obstacle,
    image::{INIT, Pid},
};

impl Planner<'_> {
    /// Whether the pid namespace of a process is the one that its parent's next child gets.
    /// A parent that has unshared has no children in its own any more, and the first one makes it.
    pub(super) fn may_enter(&self, member: &Member) -> bool {
        let Some(parent) = self.by_pid.get(&member.ppid) else {
            return true;
        };
        let Some(space) = parent.child_space else {
            return true;
        };
        if member.space != Some(space) {
            return true;
        }
        let siblings = self.members.iter().filter(|one| one.ppid == parent.pid);
        siblings
            .filter(|one| one.pid != member.pid)
            .filter(|one| one.space != Some(space) || one.first)
            .all(|one| self.session.contains_key(&one.pid))
    }

    /// Whether the birth itself makes the pid namespace; unshares first where the parent has.
    pub(super) fn enter(&mut self, member: &Member) -> bool {
        let Some(parent) = self.by_pid.get(&member.ppid) else {
            return false;
        };
        if member.space == parent.space || !member.first {
            return false;
        }
        if parent.child_space != member.space {
            return true;
        }
        self.steps.push(Step::Unshare { pid: parent.pid });
        false
    }

    pub(super) fn set_apart(&mut self, wanted: bool) {
        if let Some(Step::Spawn { apart, .. }) = self.steps.last_mut() {
            *apart = wanted;
        }
    }

    /// A process cannot join a group that it cannot name: it is born in it. False when
    /// the group cannot be founded yet.
    pub(super) fn joined_before(
        &mut self,
        creator: Pid,
        member: &Member,
    ) -> Result<bool, Obstacle> {
        let group = member.pgid;
        if !member.blind || self.group_of(creator) == group {
            return Ok(true);
        }
        let exists = self.founded.contains_key(&group) || group == member.sid || group == INIT;
        if !exists {
            if self.by_pid.contains_key(&group) && !self.session.contains_key(&group) {
                return Ok(false);
            }
            self.found(member)?;
        }
        if self.group_of(creator) != group {
            self.join(creator, group);
        }
        Ok(true)
    }

    pub(super) fn join(&mut self, pid: Pid, group: Pid) {
        self.group.insert(pid, group);
        self.steps.push(Step::JoinGroup { pid, group });
    }

    pub(super) fn group_of(&self, pid: Pid) -> Pid {
        self.group.get(&pid).copied().unwrap_or(self.zygote_group)
    }
}
