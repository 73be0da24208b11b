//! The daemon's side of a capsule: make it, find it again, ask it.
//!
//! All calls block, for moments only: the init answers at once or is dead. Meant for a
//! migration's own thread and for `spawn_blocking`. A handle may be dropped at any
//! time, the capsule lives on; [`Handle::connect`] finds it again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use libmig::{
    api::{JobId, terminal::Window},
    sys::close_range::mark_close_on_exec_from,
};

use super::{
    birth::{Born, Order},
    cgroup,
    ctl::{Event, Info, Reply, Request},
    fdstream::FdStream,
    program::Program,
};

/// An init that does not answer in that time is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where capsules are made.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The `migd` program. `/proc/self/exe` means the running one, whatever has been
    /// installed since.
    pub program: PathBuf,
    /// Holds one folder per job: `<run>/jobs`.
    pub jobs: PathBuf,
}

/// A connection to the init of a capsule.
#[derive(Debug)]
pub struct Handle {
    job: JobId,
    folder: PathBuf,
    stream: FdStream,
}

/// What the init of a capsule says of itself.
#[derive(Debug)]
pub struct Report {
    /// State of the job.
    pub info: Info,
    /// The init.
    pub init: OwnedFd,
    /// The main program, if it lives here.
    pub main: Option<OwnedFd>,
}

/// Events of one job, until the init ends.
#[derive(Debug)]
pub struct Subscription {
    stream: FdStream,
}

/// The program part of a new capsule: what [`super::exec()`] has gathered.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) program: Program,
    pub(crate) detached: bool,
    /// cwd, 0, 1, 2, pidfd of the caller.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Launcher {
    /// Folder of a job.
    #[must_use]
    pub fn folder(&self, job: &JobId) -> PathBuf {
        self.jobs.join(job.to_string())
    }

    /// Makes an empty capsule for a job that arrives from another node.
    ///
    /// # Errors
    /// When the kernel refuses one of its parts, by name.
    pub fn spawn_guest(&self, job: &JobId, owner: u32) -> Result<Handle> {
        self.spawn(job, owner, None)
    }

    pub(crate) fn spawn(&self, job: &JobId, owner: u32, start: Option<Start>) -> Result<Handle> {
        let folder = self.folder(job);
        let (ctl, attach) = make_folder(&folder, owner)?;
        let leaves = cgroup::make(job)?;
        let mut fds: Vec<OwnedFd> = vec![
            ctl.into(),
            attach.into(),
            leaves.init.into(),
            leaves.job.into(),
        ];
        let detached = start.as_ref().is_none_or(|start| start.detached);
        let program = start.map(|start| {
            fds.extend(start.fds);
            start.program
        });
        let order = Order {
            job: job.clone(),
            folder: folder.clone(),
            owner,
            program,
            detached,
        };
        if let Err(e) = self.give_birth(&order, fds, &folder) {
            // The processes, if any, have ended; what is left of them are folders.
            drop(cgroup::remove(job));
            drop(fs::remove_dir_all(&folder));
            return Err(e);
        }
        Handle::connect(&folder)
    }

    fn give_birth(&self, order: &Order, fds: Vec<OwnedFd>, folder: &Path) -> Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        // What the daemon was itself started with is not for a job to keep open.
        mark_close_on_exec_from(3)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))?;
        let mut child = Command::new(&self.program)
            .args(["capsule", "--fd", "0"])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .current_dir("/")
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        let mut stream = FdStream::new(ours);
        let born = stream
            .send(order, fds)
            .and_then(|()| stream.receive::<Born>());
        // It ends as soon as it has cloned the init, or failed to.
        child.wait()?;
        match born {
            Ok((Born::Ready, _)) => Ok(()),
            Ok((Born::Failed(why), _)) => bail!(why),
            Err(e) => Err(e).context("the capsule's init ended before it was ready"),
        }
    }
}

impl Handle {
    /// Finds the capsule whose folder this is.
    ///
    /// # Errors
    /// When its init has ended; `status` in the folder may say how the job did.
    pub fn connect(folder: &Path) -> Result<Handle> {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("no job folder")?;
        Ok(Handle {
            job: name.parse()?,
            folder: folder.to_owned(),
            stream: dial(folder)?,
        })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// Path of the socket for `mig exec` and `mig attach`.
    #[must_use]
    pub fn attach_path(&self) -> PathBuf {
        self.folder.join("attach")
    }

    /// The cgroup to freeze, thaw and kill.
    ///
    /// # Errors
    /// When no cgroup v2 file system is mounted any more.
    pub fn job_cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup::folder(&self.job)?.join("job"))
    }

    /// State of the job, and pidfds of init and main program.
    ///
    /// # Errors
    /// When the init is gone; so for all calls below.
    pub fn info(&mut self) -> Result<Report> {
        match self.ask(&Request::Info, vec![])? {
            (Reply::Info(info), mut fds) if !fds.is_empty() => Ok(Report {
                info,
                init: fds.remove(0),
                main: fds.pop(),
            }),
            (reply, _) => unexpected(&reply),
        }
    }

    /// Signals the main program, wherever the job is. 1 to 31.
    ///
    /// # Errors
    /// When it is no such signal.
    pub fn signal(&mut self, number: i32) -> Result<()> {
        self.order(&Request::Signal(number), vec![])
    }

    /// Opens a second connection that gets the job's events, beginning with the stop or end it is in.
    ///
    /// # Errors
    /// When the init is gone.
    pub fn subscribe(&self) -> Result<Subscription> {
        let mut stream = dial(&self.folder)?;
        stream.send(&Request::Subscribe, vec![])?;
        match stream.receive()? {
            (Reply::Done, _) => (),
            (reply, _) => return unexpected(&reply),
        }
        stream.socket().set_read_timeout(None)?;
        Ok(Subscription { stream })
    }

    /// Makes an empty process that a restore fills, with this pid in the capsule, and
    /// lends it a pidfd of `daemon`. Its pid in the capsule and its pidfd.
    ///
    /// # Errors
    /// When the pid is taken.
    pub fn zygote(&mut self, pid: i32, daemon: BorrowedFd<'_>) -> Result<OwnedFd> {
        let daemon = daemon.try_clone_to_owned()?;
        match self.ask(&Request::Zygote { pid }, vec![daemon])? {
            (Reply::Pid(_), mut fds) => fds.pop().context("the zygote's pidfd is missing"),
            (reply, _) => unexpected(&reply),
        }
    }

    /// Makes the terminal of a job that is to arrive, before its zygote is made: the
    /// job's processes get their controlling terminal by descent. Its modes come later.
    ///
    /// # Errors
    /// When the index is taken.
    pub fn terminal(&mut self, index: u32) -> Result<()> {
        let request = Request::Console {
            index,
            window: Window::default(),
            termios: Vec::new(),
        };
        self.ask(&request, vec![]).map(drop)
    }

    /// Appoints the main program of an arrived job.
    ///
    /// # Errors
    /// When there is no such process, and was none.
    pub fn main(&mut self, pid: i32) -> Result<()> {
        self.order(&Request::Main { pid }, vec![])
    }

    /// Makes the init hold still and tells what the next init must know. `originals` are
    /// duplicates of the pipes of [`Info::pipes`], as the frozen program holds them: none for a
    /// stream on which it has nothing open.
    ///
    /// # Errors
    /// When the job has ended or is being moved; nothing has changed then.
    pub fn depart_prepare(&mut self, originals: [Option<OwnedFd>; 3]) -> Result<Vec<u8>> {
        let there = [0, 1, 2].map(|i: usize| originals[i].is_some());
        let fds = originals.into_iter().flatten().collect();
        match self.ask(&Request::DepartPrepare { originals: there }, fds)? {
            (Reply::Blob(blob), _) => Ok(blob),
            (reply, _) => unexpected(&reply),
        }
    }

    /// The job stays after all.
    ///
    /// # Errors
    /// When no departure was prepared.
    pub fn depart_abort(&mut self) -> Result<()> {
        self.order(&Request::DepartAbort, vec![])
    }

    /// The job is gone, with move number `epoch`. To be said before the frozen copy is killed.
    ///
    /// # Errors
    /// When no departure was prepared.
    pub fn depart_commit(&mut self, epoch: u64) -> Result<()> {
        self.order(&Request::DepartCommit { epoch }, vec![])
    }

    /// The job is in a file. To be said before the frozen copy is killed. Repeatable.
    ///
    /// # Errors
    /// When the init is gone.
    pub fn checkpointed(&mut self) -> Result<()> {
        self.order(&Request::Checkpointed, vec![])
    }

    /// Takes over what [`Handle::depart_prepare`] told elsewhere. To be said before stdio and console are asked for.
    ///
    /// # Errors
    /// When the job is here, has ended, or the blob is malformed.
    pub fn arrive(&mut self, blob: Vec<u8>) -> Result<()> {
        self.order(&Request::Arrive { blob }, vec![])
    }

    /// The job does not come after all.
    ///
    /// # Errors
    /// When no arrival was prepared.
    pub fn arrive_abort(&mut self) -> Result<()> {
        self.order(&Request::ArriveAbort, vec![])
    }

    /// The job lives here now, after move number `epoch`.
    ///
    /// # Errors
    /// When no arrival was prepared.
    pub fn arrive_commit(&mut self, epoch: u64) -> Result<()> {
        self.order(&Request::ArriveCommit { epoch }, vec![])
    }

    /// Gives the init a connection to the init at the other end; what had been on its way
    /// on the last one is said again.
    ///
    /// # Errors
    /// When the init is gone.
    pub fn carrier(&mut self, socket: UnixStream) -> Result<()> {
        self.order(&Request::Carrier, vec![socket.into()])
    }

    /// The daemon knows how the job ended: the init may end, once `mig exec` has been told and no
    /// process is left.
    ///
    /// # Errors
    /// When the job has not ended.
    pub fn collect(&mut self) -> Result<()> {
        self.order(&Request::Collect, vec![])
    }

    /// Removes folder and cgroup of a capsule whose init has ended.
    ///
    /// # Errors
    /// EBUSY when it has not.
    pub fn remove(self) -> Result<()> {
        Handle::remove_folder(&self.folder)
    }

    /// Like [`Handle::remove`], for a capsule that was found with its init gone.
    ///
    /// # Errors
    /// EBUSY when it is not.
    pub fn remove_folder(folder: &Path) -> Result<()> {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("no job folder")?;
        cgroup::remove(&name.parse()?)?;
        Ok(fs::remove_dir_all(folder)?)
    }

    /// A file in the job's folder.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Writes a file in the job's folder: all of it or nothing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_down(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path(&format!("{file}.new"));
        fs::write(&fresh, bytes)?;
        fs::rename(fresh, self.path(file))
    }

    pub(super) fn order(&mut self, request: &Request, fds: Vec<OwnedFd>) -> Result<()> {
        match self.ask(request, fds)? {
            (Reply::Done, _) => Ok(()),
            (reply, _) => unexpected(&reply),
        }
    }

    pub(super) fn ask(
        &mut self,
        request: &Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        self.stream
            .send(request, fds)
            .context("the capsule's init is gone")?;
        match self
            .stream
            .receive()
            .context("the capsule's init is gone")?
        {
            (Reply::Failed(why), _) => bail!(why),
            answer => Ok(answer),
        }
    }
}

impl Subscription {
    /// Waits for the next event; `None` when the init has ended.
    ///
    /// # Errors
    /// When it speaks nonsense.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        match self.stream.receive() {
            Ok((Reply::Event(event), _)) => Ok(Some(event)),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_gone(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

fn unexpected<T>(reply: &Reply) -> Result<T> {
    bail!("the capsule's init answered {reply:?}")
}

/// Connects to a ctl socket. A path in /proc/self/fd keeps long folders within the 108 bytes of an address.
fn dial(folder: &Path) -> Result<FdStream> {
    let at = File::open(folder).with_context(|| format!("{} is gone", folder.display()))?;
    let socket = UnixStream::connect(format!("/proc/self/fd/{}/ctl", at.as_raw_fd()))
        .with_context(|| format!("the init of {} has ended", folder.display()))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(FdStream::new(socket))
}

/// The job's folder with both sockets: everyone may pass, root alone may ask `ctl`, the owner
/// alone `attach`.
fn make_folder(folder: &Path, owner: u32) -> Result<(UnixListener, UnixListener)> {
    let parent = folder.parent().context("no job folder")?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(parent)?;
    fs::DirBuilder::new()
        .mode(0o711)
        .create(folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    let at = File::open(folder)?;
    let bind = |name: &str, owner: u32| -> Result<UnixListener> {
        let path = format!("/proc/self/fd/{}/{name}", at.as_raw_fd());
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        chown(&path, Some(owner), None)?;
        Ok(listener)
    };
    let (ctl, attach) = (bind("ctl", 0)?, bind("attach", owner)?);
    ensure!(
        folder.join("ctl").exists(),
        "{} is not where it seems",
        folder.display()
    );
    Ok((ctl, attach))
}
