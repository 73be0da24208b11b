//! The preflight of a process: looks at all of its state but its descriptors
//! ([`super::files`] judges those) while it runs, changes nothing, and names
//! what this version cannot move.
//!
//! What is not known (a format, a flag, a policy) is refused by its name. What
//! ends while this looks is no obstacle: the capture judges again.
//!
//! | file | what it looks at |
//! |---|---|
//! | `subject` | one process, and how findings become obstacles |
//! | `tasks` | threads: tracers, seccomp, security modules, scheduling, CPU features |
//! | `states` | threads that cannot be stopped at this instant |
//! | `namespaces` | namespaces, control groups, the parent |
//! | `sharing` | what threads do not share, and what processes do |
//! | `memory` | the program, its mappings, its directories |
//! | `timers` | POSIX timers |
//! | `capsule` | what belongs to the job and to none of its processes |

mod capsule;
mod memory;
mod namespaces;
mod sharing;
mod states;
mod subject;
mod tasks;
mod timers;

use self::{namespaces::Home, subject::Subject};
use super::{
    atlas::Atlas,
    fd,
    process::{self, Scope},
};
use crate::{api::Obstacle, image::Pid, sys::HostPid};

/// Everything of one process that cannot move; nothing for a zombie.
///
/// `init` is the init of its capsule. What concerns the whole job, and what
/// several of its processes share, is better asked with [`preflight_tree`].
#[must_use]
pub fn preflight_process(process: HostPid, init: HostPid) -> Vec<Obstacle> {
    let survey = Survey::new(init.into());
    let partners = survey.tree.iter().map(|(host, _)| *host);
    let mut subject = survey.subject(process);
    survey.judge(&mut subject);
    sharing::between(&mut subject, partners);
    subject.finish()
}

/// Everything of a tree that cannot move: of each process of the scope, and
/// what belongs to none of them.
#[must_use]
pub fn preflight_tree(scope: impl Into<Scope>) -> Vec<Obstacle> {
    let survey = Survey::new(scope.into());
    let mut obstacles = capsule::obstacles(survey.scope.keeper(), &survey.tree);
    if let (Scope::Below(init), Some(atlas)) = (survey.scope, &survey.atlas) {
        obstacles.extend(namespaces::mounts(init, atlas));
    }
    let mut pairs = sharing::Pairs::default();
    for (host, _) in &survey.tree {
        let mut subject = survey.subject(*host);
        survey.judge(&mut subject);
        pairs.add(&mut subject);
        obstacles.extend(subject.finish());
    }
    obstacles
}

/// What all processes of a tree are compared with.
struct Survey {
    scope: Scope,
    /// Index of the capsule's pid namespace in NSpid.
    level: usize,
    tree: Vec<(HostPid, Pid)>,
    home: Home,
    /// Where names are looked up; `None` when the keeper is gone.
    atlas: Option<Atlas>,
}

impl Survey {
    fn new(scope: Scope) -> Self {
        let tree = process::tree(scope);
        let root = fd::root(scope.keeper()).ok();
        Self {
            scope,
            atlas: root.map(|root| Atlas::near(root, tree.iter().map(|(host, _)| *host))),
            level: process::level(scope.keeper()),
            home: Home::of(scope, &tree),
            tree,
        }
    }

    fn subject(&self, host: HostPid) -> Subject {
        Subject::look(host, self.level)
    }

    /// All but what processes share with each other.
    fn judge(&self, subject: &mut Subject) {
        if subject.is_dead() {
            return;
        }
        tasks::check(subject, &self.home);
        states::check(subject, &self.tree);
        namespaces::check(subject, &self.home);
        namespaces::check_parent(subject, self.scope, &self.tree);
        sharing::within(subject);
        memory::check(subject, self.scope.keeper(), self.atlas.as_ref());
        timers::check(subject);
    }
}
