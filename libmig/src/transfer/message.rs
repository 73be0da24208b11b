//! Control messages of a move. Append variants, never change one.

use serde::{Deserialize, Serialize};

use crate::{
    api::{CpuLevel, Obstacle},
    image::{BulkTarget, NeededAddress, NeededFile, Pid, Seat},
};

/// A control message of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Source: may this job come?
    Offer(Box<Offer>),
    /// Destination: it may; everything that can be made before the freeze is there.
    Accepted,
    /// Either side, before `Commit`: the move ends, the job stays at the source.
    Refused(Refusal),
    /// Source: measures the link.
    Ping,
    /// Destination: at once.
    Pong,
    /// Source: what the capsule's init must carry on with; the image follows.
    State(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Source: no more bulk.
    End {
        /// Bytes of bulk sent, to notice a loss that TLS could not.
        bulk_bytes: u64,
    },
    /// Destination: the copy is complete, stopped and recorded.
    Built {
        /// Nanoseconds from `End` to here.
        build_ns: u64,
        /// It waits for locks that the source's copy holds, or so it seems.
        waits: bool,
    },
    /// Source: the job is yours, durably.
    Commit {
        /// The epoch that owns the job from now on.
        epoch: u64,
    },
    /// Destination: it runs.
    Released {
        /// Locks that somebody else has had for too long, by name.
        lost_locks: Vec<String>,
    },
    /// Destination, before `Released`, if it waits: the job is mine, durably.
    Owned,
    /// Source: a piece of the list of files that the offer announced.
    Files(Vec<NeededFile>),
    /// Source, after `Owned`: my copy shares its write locks now.
    Lent,
    /// Destination: I share them too; end your copy.
    Taken,
    /// Source: it is gone.
    Gone,
    /// Source, after `Pong`: the job runs on; what it looks like now follows as an image.
    Draft {
        /// The terminal of a session.
        console: Option<Seat>,
    },
    /// Destination: the processes are there to be filled, or they cannot be made yet.
    Drafted {
        /// Whether they are there.
        ready: bool,
    },
    /// Source: what has changed until now is sent; more follows.
    Round,
    /// Destination: it is in place.
    InPlace,
    /// Source, before `State`: the draft is of no use any more. All memory follows again.
    Afresh,
    /// Source, after the image: of what was sent before it, this is nothing any more.
    Absent {
        /// In the capsule.
        pid: Pid,
        /// First address.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// In a file, instead of bulk: its bytes lie in a file that this one builds on.
    Recall {
        /// Where they belong.
        target: BulkTarget,
        /// Where they are.
        place: Place,
        /// How many, at most as in a frame of bulk.
        length: u32,
    },
}

/// Bytes in a file that another one builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file, counted from the oldest.
    pub file: u32,
    /// The first byte, in the stream of that file.
    pub at: u64,
}

/// What the destination must know before it says yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Job ID.
    pub job: String,
    /// The epoch that will own the job after this move.
    pub epoch: u64,
    /// The job's home.
    pub home: String,
    /// The node it comes from.
    pub source: String,
    /// Alias, if any.
    pub name: Option<String>,
    /// The command line, for listings.
    pub command: String,
    /// User that owns the job.
    pub uid: u32,
    /// That user's name at home.
    pub user: String,
    /// Whether the balancer must leave it where it is.
    pub pinned: bool,
    /// Start of the job, seconds since the epoch of CLOCK_REALTIME.
    pub started: u64,
    /// CPU time that it has used so far, in milliseconds: its age for the balancer.
    pub cpu_ms: u64,
    /// The main program's process ID in the capsule.
    pub main: i32,
    /// Index of the job's own terminal, if it has one.
    pub console: Option<u32>,
    /// Processes at the time of the offer.
    pub processes: u32,
    /// Highest thread ID in the capsule.
    pub highest_tid: i32,
    /// Resident bytes at the time of the offer.
    pub memory_bytes: u64,
    /// Soft limits: number, process that has the highest, value.
    pub limits: Vec<(u32, i32, u64)>,
    /// Opaque description of the source's CPU, compared by the destination.
    #[serde(with = "serde_bytes")]
    pub cpu: Vec<u8>,
    /// The level of CPUs that it keeps to, if any.
    pub cpu_level: Option<CpuLevel>,
    /// Network addresses that its sockets have, [`NeededAddress::MOST`] at most.
    pub addresses: Vec<NeededAddress>,
    /// Files that the job uses by name; they follow, in [`Message::Files`].
    pub files: u32,
}

/// Why a move does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was being done, and the chain of causes, outermost first.
    pub causes: Vec<String>,
    /// Every obstacle by name, if that is the reason.
    pub obstacles: Vec<Obstacle>,
}

impl Refusal {
    /// A refusal that carries an error and everything that caused it.
    #[must_use]
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Self {
            causes,
            obstacles: Vec::new(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.causes.join(": "))?;
        if let [first, rest @ ..] = self.obstacles.as_slice() {
            write!(f, " ({first}")?;
            if !rest.is_empty() {
                write!(f, ", and {} more", rest.len())?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}
