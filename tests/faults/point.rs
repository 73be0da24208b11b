//! The failpoints of a move, in its order, and who owns the job after a fault there.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mig_tests::lab::Lab;

use super::Fault;

/// Where the job must be afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Source,
    Destination,
}

/// A failpoint.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) name: &'static str,
    /// The node whose daemon passes it, in a move from n1 to n2.
    pub(crate) node: &'static str,
    pub(crate) owner: Owner,
}

const fn source(name: &'static str, owner: Owner) -> Point {
    Point {
        name,
        node: "n1",
        owner,
    }
}

const fn destination(name: &'static str, owner: Owner) -> Point {
    Point {
        name,
        node: "n2",
        owner,
    }
}

/// All of them.
pub(crate) const POINTS: &[Point] = &[
    source("source.offer", Owner::Source),
    destination("destination.offer", Owner::Source),
    destination("destination.reserved", Owner::Source),
    source("source.draft", Owner::Source),
    destination("destination.drafted", Owner::Source),
    source("source.round", Owner::Source),
    source("source.prepared", Owner::Source),
    source("source.frozen", Owner::Source),
    source("source.image", Owner::Source),
    destination("destination.image", Owner::Source),
    source("source.bulk", Owner::Source),
    destination("destination.bulk", Owner::Source),
    destination("destination.built", Owner::Source),
    source("source.built", Owner::Source),
    source("source.held", Owner::Source),
    source("source.committed", Owner::Destination),
    source("source.told", Owner::Destination),
    destination("destination.committed", Owner::Destination),
    destination("destination.released", Owner::Destination),
    source("source.released", Owner::Destination),
];

/// Those of the hand-over, for a job whose locks only the end of its copy at the source sets free.
pub(crate) const WITH_LOCKS: &[Point] = &[
    destination("destination.built", Owner::Source),
    source("source.held", Owner::Source),
    source("source.committed", Owner::Destination),
    source("source.told", Owner::Destination),
    destination("destination.committed", Owner::Destination),
    destination("destination.owned", Owner::Destination),
    source("source.owned", Owner::Destination),
    source("source.lent", Owner::Destination),
    destination("destination.released", Owner::Destination),
    source("source.released", Owner::Destination),
];

/// Those at which threads under seccomp filters are traced, or in the freezer.
pub(crate) const WITH_FILTERS: &[Point] = &[
    source("source.frozen", Owner::Source),
    source("source.image", Owner::Source),
    source("source.held", Owner::Source),
    source("source.told", Owner::Destination),
];

/// Those before and after which queues of sockets are looked at, filled and left behind.
pub(crate) const WITH_SOCKETS: &[Point] = &[
    source("source.image", Owner::Source),
    destination("destination.built", Owner::Source),
    source("source.held", Owner::Source),
    destination("destination.committed", Owner::Destination),
];

/// Those at which the queues of a connection have been looked at by force, and been filled.
pub(crate) const WITH_QUEUES: &[Point] = &[
    source("source.peeked", Owner::Source),
    source("source.image", Owner::Source),
    destination("destination.built", Owner::Source),
    destination("destination.committed", Owner::Destination),
];

/// The file that the daemons of a lab read their failpoints from.
const FILE: &str = "/run/mig/failpoints";

impl Point {
    /// A link is cut while the point stalls, longer than the daemons wait for each other.
    pub(crate) fn arm(&self, lab: &Lab, fault: Fault) -> Result<()> {
        let action = match fault {
            Fault::Error => "error",
            Fault::Kill => "kill",
            Fault::Cut => "stall 1500",
            Fault::Panic => "panic",
        };
        drop(lab.node(self.node).sh(&self.armed(action)));
        Ok(())
    }

    /// The script that arms it.
    pub(crate) fn armed(&self, action: &str) -> String {
        format!("rm -f {FILE}.*.hit; echo '{} {action}' > {FILE}", self.name)
    }

    /// The point of this name.
    pub(crate) fn named(name: &str) -> &'static Point {
        let found = POINTS.iter().find(|point| point.name == name);
        found.expect("a point of the table")
    }

    /// Waits until the move has come to the point.
    pub(crate) fn wait_hit(&self, lab: &Lab) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let test = format!("{FILE}.{}.hit", self.name);
        while !lab
            .node(self.node)
            .run(&["test", "-e", &test])
            .status
            .success()
        {
            ensure!(
                Instant::now() < deadline,
                "the move never came to {}",
                self.name
            );
        }
        Ok(())
    }
}
