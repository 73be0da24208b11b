//! What the daemon asks of a capsule's init on its ctl socket, and the answers.
//!
//! One request is answered by one reply, in order; a connection that has
//! subscribed gets [`Reply::Event`] in between. Both ends are the same program, though perhaps of
//! two releases: append only.

use libmig::{
    api::{JobId, terminal::Window},
    image::Stdio,
};
use serde::{Deserialize, Serialize};

/// A request; descriptors that come along are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who are you, and how are things? Answered with pidfds: init, main program.
    Info,
    /// Send a signal to the main program, wherever it is.
    Signal(i32),
    /// Send events on this connection from now on.
    Subscribe,
    /// Make an empty process with this pid. Comes with a pidfd of the daemon.
    Zygote { pid: i32 },
    /// The program's end of a standard stream.
    Stdio(Stdio),
    /// A terminal for the job, as it had it; answered with slave and master.
    Console {
        index: u32,
        window: Window,
        termios: Vec<u8>,
    },
    /// A duplicate of the terminal's master.
    ConsoleMaster,
    /// This process is the main program now.
    Main { pid: i32 },
    /// Hold still and say everything that the next init must know. Comes with the
    /// original pipes among descriptors 0, 1, 2 (which, in order) when at home.
    DepartPrepare { originals: [bool; 3] },
    /// The job stays after all.
    DepartAbort,
    /// The job is gone: become its deputy (home) or end once no one is left (elsewhere).
    DepartCommit { epoch: u64 },
    /// Take over what [`Request::DepartPrepare`] said elsewhere; stay still until committed.
    Arrive { blob: Vec<u8> },
    /// The job does not come after all.
    ArriveAbort,
    /// The job lives here now.
    ArriveCommit { epoch: u64 },
    /// Comes with a stream socket to the init at the other end; replaces the last one.
    Carrier,
    /// The exit status is known to the daemon: end when no process is left.
    Collect,
    /// The job has begun outside of any capsule and is about to leave: be its deputy. Comes
    /// with a pidfd of the process in whose place its `mig` will be.
    Adopt(Adopt),
    /// Nobody will come in the place of that process.
    Orphan,
    /// The job comes from a checkpoint: be its deputy until it arrives. Comes with descriptors
    /// 0, 1 and 2 for it, and with a pidfd of its `mig restore` if that is going to connect.
    Stand { has_terminal: bool },
    /// The job is in a file, and its copy here is about to be killed: that is its end.
    Checkpointed,
}

/// What the init of a job is told that has begun outside of any capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// Its standard streams that are pipes towards others.
    pub pipes: [Option<PipeId>; 3],
    /// It has a terminal.
    pub has_terminal: bool,
    /// The signal that has stopped its main program, if it is stopped.
    pub stopped: Option<i32>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done; descriptors come along where the request says so.
    Done,
    /// To [`Request::Info`].
    Info(Info),
    /// To [`Request::Zygote`], with its pidfd: its pid in the capsule.
    Pid(i32),
    /// To [`Request::DepartPrepare`].
    Blob(Vec<u8>),
    /// It cannot be done; nothing has changed.
    Failed(String),
    /// Something has happened.
    Event(Event),
}

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The main program has been stopped by this signal.
    Stopped(i32),
    /// It runs again.
    Continued,
    /// It has ended: wait status word.
    Exited(i32),
    /// The connection to the other init broke: bring a new one.
    CarrierLost,
}

/// The state of a job as its init knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The job.
    pub job: JobId,
    /// Where it is, as seen from here.
    pub place: Place,
    /// Main program's pid in the capsule, if it is here.
    pub main: Option<i32>,
    /// Wait status word, once it has ended.
    pub status: Option<i32>,
    /// The signal that stopped it, if it is stopped.
    pub stopped: Option<i32>,
    /// Whether a move is being prepared: held still.
    pub held: bool,
    /// Whether `mig exec` or `mig attach` is connected.
    pub attached: bool,
    /// Index of the job's terminal, if it has one here.
    pub console: Option<u32>,
    /// Descriptors 0, 1, 2 of `mig exec` that are pipes.
    pub pipes: [Option<PipeId>; 3],
    /// User whose job it is.
    pub owner: u32,
}

/// Which pipe a standard stream is: what fstat(2) says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PipeId {
    /// st_dev.
    pub device: u64,
    /// st_ino.
    pub inode: u64,
}

/// Where a job is, as its init on one node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It was started here and is here.
    Home,
    /// It was started here and is elsewhere: this init is its deputy.
    Away,
    /// It was started elsewhere and is here (or on its way).
    Guest,
}
