//! A daemon in a few lines: starts jobs and gives what a test needs to talk with them.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use libmig::api::{
    JobId,
    exec::{ExecRequest, StdioKind, TerminalRequest},
    terminal::{self, Decoder, FromJob, Role, ToJob, VERSION, Window},
};
use migd::capsule::{Event, Handle, Launcher, Peer, Subscription, exec};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde_bytes::ByteBuf;
use tempfile::TempDir;

/// What a test waits for at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node: a folder of jobs.
pub(crate) struct Node {
    pub(crate) launcher: Launcher,
    _folder: TempDir,
}

/// A job that was started, with the test as its `mig exec`.
pub(crate) struct Job {
    pub(crate) handle: Handle,
    pub(crate) events: Subscription,
    pub(crate) face: Option<Face>,
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) id: JobId,
}

/// The test's end of an attach connection.
pub(crate) struct Face {
    pub(crate) socket: UnixStream,
    decoder: Decoder,
    /// All terminal output so far.
    pub(crate) output: Vec<u8>,
}

impl Node {
    pub(crate) fn new() -> Node {
        let folder = tempfile::tempdir().unwrap();
        Node {
            launcher: Launcher {
                program: env!("CARGO_BIN_EXE_migd").into(),
                jobs: folder.path().join("jobs"),
            },
            _folder: folder,
        }
    }

    /// Starts `argv` with pipes for 0 and 1, or all on a terminal.
    pub(crate) fn exec(&self, argv: &[&str], on_terminal: bool) -> Job {
        self.start(request(argv, on_terminal))
    }

    /// Starts `argv` on a terminal that is not its own yet.
    pub(crate) fn exec_in_background(&self, argv: &[&str]) -> Job {
        let mut parts = request(argv, true);
        parts.0.terminal.as_mut().unwrap().foreground = false;
        self.start(parts)
    }

    /// The job inherits this process's signal mask, read from its first thread; and that
    /// one may still be in pthread_create, which blocks all signals.
    fn wait_for_plain_mask() {
        let deadline = Instant::now() + PATIENCE;
        let plain = |status: String| status.contains("SigBlk:\t0000000000000000");
        while !plain(std::fs::read_to_string("/proc/self/status").unwrap()) {
            assert!(Instant::now() < deadline, "signals are blocked");
            std::thread::yield_now();
        }
    }

    fn start(&self, (request, fds, stdin, stdout): Parts) -> Job {
        Node::wait_for_plain_mask();
        let id = fresh_id();
        let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let peer = Peer {
            pid: getpid().as_raw_nonzero().get(),
            uid: 0,
            gid: 0,
            pidfd: me.as_fd(),
        };
        let started = exec(&self.launcher, &id, &request, fds, &peer).unwrap();
        let events = started.handle.subscribe().unwrap();
        let face = Face::connect(started.attach, Role::Exec);
        Job {
            handle: started.handle,
            events,
            face: Some(face),
            stdin: Some(stdin),
            stdout: Some(stdout),
            id,
        }
    }
}

/// An ID that no other test process uses: cgroups are shared by all.
pub(crate) fn fresh_id() -> JobId {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{number}", std::process::id()).parse().unwrap()
}

/// A request, its descriptors, and the test's ends of 0 and 1.
type Parts = (ExecRequest, Vec<OwnedFd>, PipeWriter, PipeReader);

fn request(argv: &[&str], on_terminal: bool) -> Parts {
    let (stdin, to_stdin) = io::pipe().unwrap();
    let (from_stdout, stdout) = io::pipe().unwrap();
    let kind = if on_terminal {
        StdioKind::Terminal
    } else {
        StdioKind::Descriptor
    };
    let request = ExecRequest {
        argv: argv.iter().map(|s| ByteBuf::from(s.as_bytes())).collect(),
        env: vec![
            ByteBuf::from("PATH=/usr/bin:/bin"),
            ByteBuf::from("TERM=xterm"),
        ],
        stdio: [kind; 3],
        terminal: on_terminal.then(|| TerminalRequest {
            window: Window {
                rows: 30,
                columns: 100,
                x_pixels: 0,
                y_pixels: 0,
            },
            termios: vec![],
            foreground: true,
        }),
        detach: false,
        name: None,
        node: None,
        pin: false,
        cpu: None,
    };
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let cwd = File::open("/tmp").unwrap();
    (
        request,
        vec![cwd.into(), stdin.into(), stdout.into(), null.into()],
        to_stdin,
        from_stdout,
    )
}

impl Face {
    pub(crate) fn connect(path: PathBuf, role: Role) -> Face {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut face = Face {
            socket,
            decoder: Decoder::default(),
            output: vec![],
        };
        face.say(&ToJob::Hello {
            version: VERSION,
            role,
            window: None,
        });
        face
    }

    pub(crate) fn say(&mut self, message: &ToJob) {
        let mut bytes = Vec::new();
        terminal::encode(message, &mut bytes);
        self.socket.write_all(&bytes).unwrap();
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.say(&ToJob::Input(text.into()));
    }

    /// The next message that is not output or credit.
    pub(crate) fn next(&mut self) -> FromJob {
        loop {
            match self.any() {
                FromJob::Output(bytes) => self.output.extend(bytes),
                FromJob::Credit(_) => (),
                other => return other,
            }
        }
    }

    /// Reads until the output contains `text`.
    pub(crate) fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown().contains(text) {
            assert!(
                Instant::now() < deadline,
                "no {text:?} in {:?}",
                self.shown()
            );
            match self.any() {
                FromJob::Output(bytes) => self.output.extend(bytes),
                FromJob::Credit(_) => (),
                other => panic!("{other:?} instead of {text:?}; so far {:?}", self.shown()),
            }
        }
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn any(&mut self) -> FromJob {
        loop {
            if let Some(message) = self.decoder.take().unwrap() {
                return message;
            }
            let mut buffer = [0; 4096];
            let length = self.socket.read(&mut buffer).unwrap();
            assert!(length > 0, "the job hung up; so far {:?}", self.shown());
            self.decoder.push(&buffer[..length]);
        }
    }
}

impl Job {
    pub(crate) fn face(&mut self) -> &mut Face {
        self.face.as_mut().unwrap()
    }

    /// Reads standard output to its end.
    pub(crate) fn read_out(&mut self) -> String {
        let mut text = String::new();
        self.stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    /// The wait status word, as `mig exec` is told it; then the daemon collects it
    /// and everything must vanish.
    pub(crate) fn end(mut self) -> i32 {
        let status = match self.face().next() {
            FromJob::Exited(status) => status,
            other => panic!("{other:?} instead of the end"),
        };
        self.collect(status);
        status
    }

    pub(crate) fn collect(mut self, status: i32) {
        while let Some(event) = self.events.next_event().unwrap() {
            if let Event::Exited(seen) = event {
                assert_eq!(seen, status);
                break;
            }
        }
        self.finish();
    }

    /// Collects, waits for the init's end, removes what is left.
    pub(crate) fn finish(mut self) {
        self.handle.collect().unwrap();
        self.face = None;
        while self.events.next_event().unwrap().is_some() {}
        remove(self.handle);
    }
}

/// The init has closed its sockets; its cgroup is empty a moment later.
pub(crate) fn remove(handle: Handle) {
    let cgroup = handle.job_cgroup().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let events = cgroup.parent().unwrap().join("init/cgroup.events");
    while !std::fs::read_to_string(&events)
        .unwrap()
        .contains("populated 0")
    {
        assert!(Instant::now() < deadline, "the init does not end");
        std::thread::yield_now();
    }
    handle.remove().unwrap();
}
