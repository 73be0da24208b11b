//! A capsule in small: a pid, mount and cgroup home for a restored tree, and an
//! init that keeps a zygote. The init and the zygote are this test program
//! itself, told by the environment which part to play. The oracle of the test
//! crate uses this file too.

use std::{
    env, fs,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use libmig::{
    restore::{CapsuleRef, RestoreHost, husk},
    sys::HostPid,
};

const ROLE: &str = "MIG_TEST_ROLE";
/// What the init runs instead of a zygote: a source.
const SCRIPT: &str = "MIG_TEST_SCRIPT";
/// Pid of the zygote in the capsule.
const ZYGOTE: i32 = 4_000_000;

/// Plays the part that the environment asks for. The test named `role` of every
/// test program that uses a [`Capsule`] calls this.
pub(crate) fn play_role() {
    match env::var(ROLE).as_deref() {
        Ok("init") => init(),
        Ok("zygote") => panic!("no husk: {}", husk::exec(io::stdin().as_fd())),
        _ => {}
    }
}

/// Pid 1 of the capsule: starts the zygote and reaps. Its standard input is a
/// pidfd of the test.
fn init() {
    nix::unistd::setsid().unwrap();
    own_terminals();
    own_shared_memory();
    if let Ok(script) = env::var(SCRIPT) {
        let mut program = Command::new("/bin/sh");
        program
            .args(["-c", &format!("exec {script}")])
            .env_clear()
            .stdin(io::stdin().as_fd().try_clone_to_owned().unwrap())
            .stdout(io::stdout().as_fd().try_clone_to_owned().unwrap())
            .stderr(Stdio::null());
        // What the test was started with is no business of the program.
        libmig::sys::close_range::mark_all_close_on_exec().unwrap();
        drop(program.process_group(0).spawn().unwrap());
        reap();
    }
    fs::write("/proc/sys/kernel/ns_last_pid", (ZYGOTE - 1).to_string()).unwrap();
    let mut zygote = Command::new("/proc/self/exe");
    drop(
        zygote
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, "zygote")
            .spawn()
            .unwrap(),
    );
    reap();
}

/// Terminals of two capsules have the same numbers.
fn own_terminals() {
    let options = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    let mount = ["-t", "devpts", "-o", options, "devpts", "/dev/pts"];
    let status = Command::new("mount").args(mount).status().unwrap();
    assert!(status.success(), "mounting devpts: {status}");
}

/// As in a capsule: two of them may have files of one name.
fn own_shared_memory() {
    let mount = ["-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm"];
    let status = Command::new("mount").args(mount).status().unwrap();
    assert!(status.success(), "mounting /dev/shm: {status}");
}

fn reap() -> ! {
    loop {
        if nix::sys::wait::wait().is_err() {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A capsule with a zygote.
pub(crate) struct Capsule {
    outer: Child,
    init: HostPid,
    zygote: HostPid,
    cgroup: PathBuf,
}

impl Capsule {
    pub(crate) fn new() -> Self {
        // A job that moves on leaves one capsule for another.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mig-test-{}-{number}", std::process::id());
        let cgroup = cgroup_root().join(name);
        fs::create_dir_all(cgroup.join("job")).unwrap();
        let own = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        let mut command = unshare();
        let outer = command.stdin(Stdio::from(own)).stdout(Stdio::null());
        let outer = outer.spawn().unwrap();
        let init = init_of(&outer);
        let zygote = until("the zygote", || {
            children(init.raw()).into_iter().find(|pid| sleeps(*pid))
        });
        Self {
            outer,
            init,
            zygote: HostPid::new(zygote),
            cgroup,
        }
    }

    pub(crate) fn reference(&self) -> CapsuleRef {
        CapsuleRef {
            init: self.init,
            zygote: self.zygote,
            cgroup_job: self.cgroup.join("job"),
        }
    }

    /// Processes in the job's cgroup, as the test sees them.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.cgroup.join("job/cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

/// A capsule in which a program runs.
pub(crate) struct Source {
    outer: Child,
    pub(crate) init: HostPid,
}

impl Source {
    /// Starts the command of a shell line.
    pub(crate) fn new(script: &str) -> Self {
        let mut command = source(script);
        let outer = command.stdin(Stdio::null()).stdout(Stdio::null());
        let outer = outer.spawn().unwrap();
        let init = init_of(&outer);
        Self { outer, init }
    }
}

/// The command that is a [`Source`]; the program has its standard input and output.
pub(crate) fn source(script: &str) -> Command {
    let mut command = unshare();
    command.env(SCRIPT, script);
    command
}

/// The init of a capsule that [`source`] started.
pub(crate) fn init_of(outer: &Child) -> HostPid {
    init_below(outer.id())
}

/// The same, by the process ID of what was started.
pub(crate) fn init_below(outer: u32) -> HostPid {
    let init = until("the capsule's init", || {
        children(outer.cast_signed()).first().copied()
    });
    HostPid::new(init)
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.init.into(), nix::sys::signal::Signal::SIGKILL);
        let _ = self.outer.wait();
    }
}

/// This test program as pid 1 of new namespaces.
fn unshare() -> Command {
    let mut outer = Command::new("unshare");
    outer
        .args(["--pid", "--ipc", "--fork", "--mount-proc", "--kill-child"])
        .arg(env::current_exe().unwrap());
    outer
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, "init");
    outer
}

impl Drop for Capsule {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("job/cgroup.kill"), "1");
        let _ = nix::sys::signal::kill(self.init.into(), nix::sys::signal::Signal::SIGKILL);
        let _ = self.outer.wait();
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(self.cgroup.join("job")).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        if let Err(error) = fs::remove_dir(&self.cgroup) {
            let _ = writeln!(io::stderr(), "{}: {error}", self.cgroup.display());
        }
    }
}

fn cgroup_root() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.is_dir() {
        unified
    } else {
        PathBuf::from("/sys/fs/cgroup")
    }
}

/// Polls until there is a value.
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the init has reaped everybody but those in `keep`.
pub(crate) fn wait_reaped(init: HostPid, keep: &[HostPid]) {
    until("the init to reap", || {
        let others = children(init.raw());
        let kept = |pid: &i32| keep.iter().any(|kept| kept.raw() == *pid);
        others.iter().all(kept).then_some(())
    });
}

/// Children of all threads of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// In pause(2), as a husk is.
fn sleeps(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| text.starts_with("34 "))
}

/// A host for jobs without terminal and pipes of `mig exec`.
pub(crate) struct NoHost;

impl RestoreHost for NoHost {
    fn stdio(&mut self, _: libmig::image::Stdio) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn console(&mut self, _: &libmig::image::Tty) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn console_master(&mut self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn names(&mut self, _: &[libmig::restore::StagedName]) -> io::Result<()> {
        Ok(())
    }
}
