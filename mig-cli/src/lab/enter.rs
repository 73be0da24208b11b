//! `mig lab shell`: a command in a node, as ssh would run it there.
//!
//! ```text
//! mig lab shell (stays outside: terminal, signals, exit status)
//!   └─ entrant: in the node's pid namespace by birth, joins its cgroup and its other namespaces,
//!      becomes the user, execs the command
//! ```

use std::{
    fs::File,
    io::IsTerminal,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CloneFlags, sched_getaffinity, sched_setaffinity, setns},
    sys::{
        signal::SigSet,
        stat::{Mode, fchmod},
    },
    unistd::{Gid, Pid, User, chdir, fchown, initgroups, setgid, setuid},
};

use super::{
    Lab, NodeId, cgroup,
    journal::{Inits, Journal},
    process::ProcessId,
    proxy::{self, Pty},
};

/// The group that may write to terminals, by Debian's numbers; as in `/dev/pts` of the nodes.
const TTY_GROUP: u32 = 5;

/// What of the caller's environment a command in a node sees, as ssh's `SendEnv`. PATH too: the node
/// has the same files.
const INHERITED: [&str; 8] = [
    "PATH",
    "TERM",
    "COLORTERM",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// What to run, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Entry {
    /// The node, for example n1
    pub(crate) node: NodeId,
    /// Run as this user of the node
    #[arg(long, value_name = "NAME", default_value = "root")]
    pub(crate) user: String,
    /// The command; without one, the user's shell
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// Runs the command and returns as it does: its exit code, or 128 + the signal that ended it.
pub(crate) fn run(lab: &Lab, entry: &Entry) -> Result<ExitCode> {
    let (_, init) = node_of(lab, entry.node)?;
    let signals = proxy::block_signals()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab", "--name", &lab.name.to_string(), "internal-enter"]);
    command.args([&entry.node.to_string(), "--user", &entry.user]);
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let pty = terminal.then(|| Pty::open(&node_root(init))).transpose()?;
    if let Some(pty) = &pty {
        pty.attach(&mut command)?;
    }
    command.arg("--").args(&entry.command);
    let namespace = File::open(format!("/proc/{}/ns/pid", init.pid))
        .context("open the node's pid namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWPID).context("enter the node's pid namespace")?;
    let child = command.spawn().context("start the command")?;
    drop(command);
    proxy::accompany(child, &signals, pty)
}

/// The entrant: becomes the command.
pub(crate) fn become_command(lab: &Lab, entry: &Entry) -> Result<ExitCode> {
    let (journal, init) = node_of(lab, entry.node)?;
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    cgroup::join(&journal.node_cgroup(entry.node))?;
    // This process was born into the node's pid namespace: there, the init is 1.
    let cpus = sched_getaffinity(Pid::from_raw(1)).context("read the node's CPUs")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("take the node's CPUs")?;
    enter_namespaces(init)?;
    if chdir(&here).is_err() {
        chdir("/").context("enter the node's root")?;
    }
    rustix::process::setsid().context("start a session")?;
    let user = User::from_name(&entry.user).context("read the node's users")?;
    let user = user.with_context(|| format!("{} has no user {}", entry.node, entry.user))?;
    if std::io::stdin().is_terminal() {
        take_terminal(&user)?;
    }
    become_user(&user)?;
    SigSet::empty()
        .thread_set_mask()
        .context("unblock signals")?;
    let error = command_of(entry, &user).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    eprintln!(
        "mig lab: cannot run {:?} on {}: {error}",
        entry.command, entry.node
    );
    Ok(ExitCode::from(code))
}

fn node_of(lab: &Lab, node: NodeId) -> Result<(Journal, ProcessId)> {
    let journal = Journal::read(lab)?.filter(Journal::is_alive);
    let journal =
        journal.with_context(|| format!("lab {} is not up; remedy: mig lab up 3", lab.name))?;
    if !journal.nodes().any(|known| known == node) {
        bail!(
            "lab {} has no node {node}: it has n1 to n{}",
            lab.name,
            journal.nodes
        );
    }
    let init = Inits::read(lab)?.of(node).filter(|init| init.is_alive());
    Ok((journal, init.with_context(|| format!("{node} is not up"))?))
}

fn node_root(init: ProcessId) -> PathBuf {
    Path::new("/proc").join(init.pid.to_string()).join("root")
}

fn enter_namespaces(init: ProcessId) -> Result<()> {
    // All are opened first: in the node's mount namespace the machine's pids mean nothing.
    let kinds = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let opened = kinds.map(|(kind, flag)| {
        (
            kind,
            flag,
            File::open(format!("/proc/{}/ns/{kind}", init.pid)),
        )
    });
    for (kind, flag, file) in opened {
        let file = file.with_context(|| format!("open the node's {kind} namespace"))?;
        setns(file, flag).with_context(|| format!("enter the node's {kind} namespace"))?;
    }
    Ok(())
}

/// Makes the pty the session's terminal, and the user's own.
fn take_terminal(user: &User) -> Result<()> {
    let stdin = std::io::stdin();
    // A terminal of another session (only stdin is one): it stays that session's.
    if rustix::process::ioctl_tiocsctty(&stdin).is_err() {
        return Ok(());
    }
    fchown(&stdin, Some(user.uid), Some(Gid::from_raw(TTY_GROUP))).context("own the terminal")?;
    fchmod(&stdin, Mode::from_bits_truncate(0o620)).context("own the terminal")
}

fn become_user(user: &User) -> Result<()> {
    let name = std::ffi::CString::new(user.name.as_str()).context("a user name with a NUL")?;
    initgroups(&name, user.gid).context("take the user's groups")?;
    setgid(user.gid).context("take the user's group")?;
    setuid(user.uid).context("become the user")
}

fn command_of(entry: &Entry, user: &User) -> Command {
    let mut command = match entry.command.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        None => {
            let mut shell = Command::new(&user.shell);
            shell.arg0(login_name(&user.shell));
            shell
        }
    };
    command.env_clear();
    command.envs(
        INHERITED
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    command
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name);
    command.env("SHELL", &user.shell);
    command
}

/// By a leading dash a shell knows that it is a login shell.
fn login_name(shell: &Path) -> String {
    format!(
        "-{}",
        shell.file_name().unwrap_or_default().to_string_lossy()
    )
}
