//! What stands in the way of a move and what the destination has to have, asked
//! while the job runs: nothing is frozen and nothing is changed.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use libmig::api::{Failure, Obstacle};
use libmig::image::{NeededAddress, NeededFile};
use libmig::inspect::backlog::Backlogs;
use libmig::inspect::demand::Demand;
use libmig::inspect::own::OwnFiles;
use libmig::inspect::process::Scope;
use libmig::inspect::stdio::CapsuleStdio;
use libmig::inspect::{self, files::FileSource};
use libmig::sys::HostPid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::local::Local;

/// A running job, as far as a move of it is concerned.
#[derive(Debug)]
pub(crate) struct Look {
    /// What stands in the way here.
    pub(crate) obstacles: Vec<Obstacle>,
    /// What a destination has to have.
    pub(crate) files: Vec<NeededFile>,
    /// Network addresses that it has to give.
    pub(crate) addresses: Vec<NeededAddress>,
    /// What it has to have room for.
    pub(crate) demand: Demand,
}

impl Look {
    /// Nothing could be looked at but these.
    pub(crate) fn of_obstacles(obstacles: Vec<Obstacle>) -> Self {
        Self {
            obstacles,
            files: Vec::new(),
            addresses: Vec::new(),
            demand: Demand::default(),
        }
    }
}

/// Looks at a job that has obstacles.
const LOOKS: usize = 4;
/// Between two of them a process that ends, or a pipeline that is being made, is past it.
const REST: Duration = Duration::from_millis(3);

/// The tree. It runs while we look, and we see it neither at once nor twice the same:
/// an obstacle that is not there in every look passes by itself.
pub(super) fn at(local: &mut Local) -> Result<Look, Failure> {
    of(local.scope(), || local.stdio())
}

/// The same for any tree, with its ties to others.
pub(super) fn of(
    scope: Scope,
    mut ties: impl FnMut() -> Result<CapsuleStdio, Failure>,
) -> Result<Look, Failure> {
    let (mut files, mut addresses) = (Vec::new(), Vec::new());
    let look = || {
        let obstacles;
        (obstacles, files, addresses) = instant(scope, &ties()?);
        Ok(obstacles)
    };
    let obstacles = lasting(look)?;
    let demand = Demand::of(scope, inspect::process::size(scope));
    Ok(Look {
        obstacles,
        files,
        addresses,
        demand,
    })
}

/// What several looks at something that runs have in common; marked as passing when that is nothing.
pub(super) fn lasting<E>(
    mut look: impl FnMut() -> Result<Vec<Obstacle>, E>,
) -> Result<Vec<Obstacle>, E> {
    let mut lasting = look()?;
    let mut last = lasting.clone();
    for _ in 1..LOOKS {
        if last.is_empty() {
            return Ok(last);
        }
        std::thread::sleep(REST);
        last = look()?;
        lasting.retain(|obstacle| last.contains(obstacle));
    }
    if lasting.is_empty() {
        lasting = last;
        for obstacle in &mut lasting {
            obstacle.transient = true;
        }
    }
    Ok(lasting)
}

/// Obstacles, files and addresses.
type Found = (Vec<Obstacle>, Vec<NeededFile>, Vec<NeededAddress>);

/// The tree at this instant.
fn instant(scope: Scope, stdio: &CapsuleStdio) -> Found {
    let mut obstacles = inspect::preflight::preflight_tree(scope);
    let open = open(scope);
    let sources = sources(&open);
    obstacles.extend(inspect::files::preflight(&sources, stdio));
    let hosts = open.iter().map(|(host, ..)| *host);
    let own = OwnFiles::of(scope.top(), hosts);
    let files = inspect::manifest::of(&sources, stdio, own);
    (obstacles, files, inspect::addresses::of(&sources))
}

/// Who in a tree takes connections, and who makes them.
pub(super) fn backlogs(scope: Scope) -> Backlogs {
    Backlogs::of(&sources(&open(scope)))
}

/// A process that ends while we look is no obstacle.
fn open(scope: Scope) -> Vec<(HostPid, i32, OwnedFd)> {
    let tree = inspect::process::tree(scope).into_iter();
    tree.filter_map(|(host, pid)| {
        let raw = Pid::from_raw(host.raw())?;
        Some((host, pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
    })
    .collect()
}

fn sources(open: &[(HostPid, i32, OwnedFd)]) -> Vec<FileSource<'_>> {
    open.iter()
        .map(|(host, pid, pidfd)| FileSource {
            pid: *pid,
            host: *host,
            pidfd: pidfd.as_fd(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn obstacle(object: &str) -> Obstacle {
        Obstacle {
            pid: Some(2),
            object: object.into(),
            reason: "a".into(),
            remedy: "none".into(),
            transient: false,
        }
    }

    /// What is reported when these are seen one after the other, and in how many looks.
    fn reported(looks: &[&[&str]]) -> (Vec<(String, bool)>, usize) {
        let mut count = 0;
        let seen = || {
            let now = looks[count.min(looks.len() - 1)];
            count += 1;
            Ok::<_, Infallible>(now.iter().map(|object| obstacle(object)).collect())
        };
        let found = lasting(seen).unwrap();
        let found = found.into_iter().map(|o| (o.object, o.transient)).collect();
        (found, count)
    }

    #[test]
    fn only_what_is_always_there_lasts() {
        assert_eq!(reported(&[&[]]), (vec![], 1));
        assert_eq!(reported(&[&["a"], &[]]), (vec![], 2));
        let socket = vec![("socket".to_owned(), false)];
        assert_eq!(
            reported(&[&["socket", "pipe 1"], &["socket"]]),
            (socket, LOOKS)
        );
        let passing = vec![("d".to_owned(), true)];
        assert_eq!(
            reported(&[&["a"], &["b"], &["c"], &["d"]]),
            (passing, LOOKS)
        );
    }
}
