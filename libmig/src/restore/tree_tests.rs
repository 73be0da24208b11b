//! The planner against a model of the kernel: random programs make trees with
//! fork, setsid, setpgid, exit and wait; the plan, carried out in the same
//! model, must give the same tree.

use super::*;

const ZYGOTE: Pid = 4_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    ppid: Pid,
    pgid: Pid,
    sid: Pid,
    zombie: bool,
}

#[derive(Debug, Clone, Default)]
struct Model {
    processes: BTreeMap<Pid, Process>,
}

impl Model {
    fn fork(&mut self, parent: Pid, pid: Pid, sibling: bool) {
        let creator = self.processes[&parent].clone();
        assert!(!creator.zombie, "a dead process forked");
        assert!(!self.id_in_use(pid), "pid {pid} is taken");
        let ppid = if sibling { creator.ppid } else { parent };
        self.processes.insert(
            pid,
            Process {
                ppid,
                zombie: false,
                ..creator
            },
        );
    }

    fn id_in_use(&self, id: Pid) -> bool {
        self.processes
            .iter()
            .any(|(pid, p)| *pid == id || p.pgid == id || p.sid == id)
    }

    fn setsid(&mut self, pid: Pid) -> bool {
        if self.processes.values().any(|p| p.pgid == pid) {
            return false;
        }
        let process = self.processes.get_mut(&pid).unwrap();
        (process.sid, process.pgid) = (pid, pid);
        true
    }

    fn setpgid(&mut self, pid: Pid, group: Pid) -> bool {
        let sid = self.processes[&pid].sid;
        let exists = self
            .processes
            .values()
            .any(|p| p.pgid == group && p.sid == sid);
        if sid == pid || (group != pid && !exists) {
            return false;
        }
        self.processes.get_mut(&pid).unwrap().pgid = group;
        true
    }

    fn exit(&mut self, pid: Pid) {
        self.processes.get_mut(&pid).unwrap().zombie = true;
        for process in self.processes.values_mut().filter(|p| p.ppid == pid) {
            process.ppid = INIT;
        }
        self.init_reaps();
    }

    fn init_reaps(&mut self) {
        self.processes
            .retain(|pid, p| *pid == INIT || !(p.zombie && p.ppid == INIT));
    }

    fn members(&self) -> Vec<Member> {
        let tree = self.processes.iter().filter(|(pid, _)| **pid != INIT);
        tree.map(|(pid, p)| Member {
            pid: *pid,
            ppid: p.ppid,
            pgid: p.pgid,
            sid: p.sid,
            ..Member::default()
        })
        .collect()
    }

    fn new() -> Self {
        let init = Process {
            ppid: 0,
            pgid: INIT,
            sid: INIT,
            zombie: false,
        };
        Self {
            processes: BTreeMap::from([(INIT, init)]),
        }
    }
}

/// Carries a plan out in the model.
fn replay(steps: &[Step]) -> Vec<Member> {
    let mut model = Model::new();
    model.fork(INIT, ZYGOTE, false);
    for step in steps {
        match *step {
            Step::Spawn {
                creator,
                pid,
                sibling,
                ..
            } => model.fork(creator, pid, sibling),
            Step::Unshare { .. } => {}
            Step::LeadSession { pid } => assert!(model.setsid(pid), "setsid of {pid}"),
            Step::JoinGroup { pid, group } => {
                assert!(model.setpgid(pid, group), "setpgid of {pid} to {group}")
            }
            Step::Dismiss { pid, reaper } => {
                assert_eq!(model.processes[&pid].ppid, reaper);
                model.exit(pid);
                model.processes.remove(&pid);
            }
        }
    }
    model.exit(ZYGOTE);
    model.members()
}

fn check(members: &[Member]) {
    let steps = plan(members, ZYGOTE, INIT, &BTreeSet::new()).unwrap();
    assert_eq!(replay(&steps), members, "{steps:#?}");
}

fn member(pid: Pid, ppid: Pid, pgid: Pid, sid: Pid) -> Member {
    Member {
        pid,
        ppid,
        pgid,
        sid,
        ..Member::default()
    }
}

/// xorshift64*: the same trees in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides
    }
}

fn random_tree(dice: &mut Dice) -> Vec<Member> {
    let mut model = Model::new();
    let mut next = 2;
    for _ in 0..dice.roll(60) + 1 {
        let alive: Vec<Pid> = model
            .processes
            .iter()
            .filter(|(_, p)| !p.zombie)
            .map(|(pid, _)| *pid)
            .collect();
        let pid = alive[dice.roll(alive.len())];
        match dice.roll(10) {
            0..=4 => {
                model.fork(pid, next, false);
                next += 1;
            }
            5 | 6 if pid != INIT => drop(model.setsid(pid)),
            7 if pid != INIT => {
                let group = if dice.roll(2) == 0 {
                    pid
                } else {
                    model.processes[&alive[dice.roll(alive.len())]].pgid
                };
                model.setpgid(pid, group);
            }
            8 if pid != INIT => model.exit(pid),
            9 => model.processes.retain(|_, p| !(p.zombie && p.ppid == pid)),
            _ => {}
        }
    }
    model.members()
}

#[test]
fn every_tree_that_programs_can_make_is_rebuilt() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut largest = 0;
    for _ in 0..5000 {
        let members = random_tree(&mut dice);
        largest = largest.max(members.len());
        check(&members);
    }
    assert!(
        largest > 15,
        "the random trees are too small to mean anything"
    );
}

#[test]
fn a_child_stays_in_the_session_that_its_parent_left() {
    check(&[
        member(10, INIT, 10, 10),
        member(11, 10, INIT, INIT),
        member(12, 10, 10, 10),
    ]);
}

#[test]
fn orphans_of_dead_leaders_keep_session_and_group() {
    check(&[
        member(20, INIT, 15, 10),
        member(21, INIT, 15, 10),
        member(22, 21, 10, 10),
    ]);
}

#[test]
fn an_orphan_in_the_session_of_a_nested_leader() {
    check(&[
        member(5, INIT, 5, INIT),
        member(10, 5, 10, 10),
        member(20, INIT, 20, 10),
    ]);
}

#[test]
fn a_founder_may_have_moved_on() {
    check(&[
        member(5, INIT, 6, INIT),
        member(6, 5, 6, INIT),
        member(7, 5, 5, INIT),
    ]);
}

#[test]
fn what_no_program_can_have_made_is_refused() {
    for impossible in [
        vec![member(5, 99, 5, INIT)],
        vec![member(5, 6, 5, INIT), member(6, 5, 6, INIT)],
        vec![member(5, INIT, 5, INIT), member(5, INIT, 5, INIT)],
        vec![member(5, INIT, 1, 5)],
        vec![
            member(5, INIT, 5, INIT),
            member(6, 5, 6, 77),
            member(7, 5, 7, 78),
        ],
        vec![member(5, INIT, 5, 0)],
        vec![member(INIT, 0, INIT, INIT)],
    ] {
        assert!(
            plan(&impossible, ZYGOTE, INIT, &BTreeSet::new()).is_err(),
            "{impossible:?}"
        );
    }
}

#[test]
fn a_blind_process_is_born_in_its_group() {
    let first = Member {
        space: Some(0),
        first: true,
        blind: true,
        ..member(11, 10, 10, INIT)
    };
    let child = Member {
        first: false,
        ..member(12, 11, 10, INIT)
    };
    let child = Member {
        space: Some(0),
        blind: true,
        ..child
    };
    let members = [member(10, INIT, 10, INIT), first, child];
    let steps = plan(&members, ZYGOTE, INIT, &BTreeSet::new()).unwrap();
    let plain = members.map(|m| member(m.pid, m.ppid, m.pgid, m.sid));
    assert_eq!(replay(&steps), plain);
    let joined = Step::JoinGroup { pid: 10, group: 10 };
    let born = Step::Spawn {
        creator: 10,
        pid: 11,
        sibling: false,
        helper: false,
        apart: true,
    };
    let at = |step| steps.iter().position(|one| *one == step).unwrap();
    assert!(at(joined) < at(born), "{steps:?}");
    // Its parent has ended: the zygote is in the group for a moment.
    let orphan = Member {
        ppid: INIT,
        ..members[1]
    };
    let members = [member(10, INIT, 10, INIT), orphan];
    let steps = plan(&members, ZYGOTE, INIT, &BTreeSet::new()).unwrap();
    let plain = members.map(|m| member(m.pid, m.ppid, m.pgid, m.sid));
    assert_eq!(replay(&steps), plain, "{steps:?}");
}

#[test]
fn a_process_unshares_when_its_children_elsewhere_are_born() {
    let parent = Member {
        child_space: Some(0),
        ..member(10, INIT, 10, INIT)
    };
    let second = Member {
        space: Some(0),
        ..member(11, 10, 11, INIT)
    };
    let first = Member {
        space: Some(0),
        first: true,
        ..member(12, 10, 12, INIT)
    };
    let members = [parent, second, first, member(13, 10, 13, INIT)];
    let steps = plan(&members, ZYGOTE, INIT, &BTreeSet::new()).unwrap();
    let order: Vec<Pid> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Spawn { pid, apart, .. } => {
                assert!(!apart);
                Some(*pid)
            }
            Step::Unshare { pid } => Some(-pid),
            _ => None,
        })
        .collect();
    assert_eq!(order, [10, 13, -10, 12, 11]);
}
