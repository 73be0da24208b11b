//! `mig exec`: run a program that can live anywhere.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use anyhow::{Context, Result};
use clap::Args;
use libmig::api::{
    CpuChoice, ExecReply, NodeName, Reply, Request,
    exec::{ExecRequest, StdioKind},
    terminal::Role,
};
use nix::unistd::{dup2_stdin, dup2_stdout};
use rustix::fs::{Mode, OFlags};
use serde_bytes::ByteBuf;

use super::{Daemon, unexpected};
use crate::{
    exit,
    terminal::{
        self, DetachKeys, Session, end,
        sockets::{self, Copy, Sockets},
        tty::{Tty, standard_streams},
    },
    ui,
};

/// Run a program that can move to other machines while it runs
///
/// It has the same terminal, pipes and files, the same user, environment and
/// limits, and the same exit code as without mig exec. Exits with 125 when
/// mig itself fails, 126 or 127 when the program cannot be run.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Start it on this node instead of here
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Print the job's ID and leave; mig attach shows its terminal
    #[arg(long, short)]
    detach: bool,
    /// A name for the job besides its ID
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Let the balancer leave the job where it is
    #[arg(long)]
    pin: bool,
    /// Keep to what CPUs of this level have: x86-64-v2, x86-64-v3, x86-64-v4, or pool for the
    /// highest that all nodes have now. It can then move between different CPUs
    #[arg(long, value_name = "LEVEL")]
    cpu: Option<CpuChoice>,
    /// Keys that leave the job running: ctrl-X or single characters, by commas; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-],d")]
    detach_keys: DetachKeys,
    #[command(flatten)]
    daemon: Daemon,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

/// Runs it, and exits as it does. All failures of our own are one code.
pub(crate) fn run(args: &ExecArgs) -> Result<u8> {
    Ok(match start_and_follow(args) {
        Ok(code) => code,
        Err(error) => {
            ui::error::print(&error);
            exit::EXEC_FAILED
        }
    })
}

fn start_and_follow(args: &ExecArgs) -> Result<u8> {
    let tty = Tty::find();
    let foreground = takes_keyboard(tty.as_ref());
    let (fds, copies) = descriptors()?;
    let request = request(args, tty.as_ref(), foreground);
    let reply = ask(args, request, &fds)?;
    drop(fds);
    if args.detach {
        println!("{}", reply.job);
        return Ok(exit::OK);
    }
    let signals = terminal::block_signals()?;
    let session = Session::connect(
        Path::new(&reply.attach),
        Role::Exec,
        signals,
        tty,
        foreground,
        args.detach_keys.clone(),
    )?;
    let sockets = Sockets::start(copies)?;
    let_go_of_pipes()?;
    let ending = session.run()?;
    sockets.finish();
    Ok(end::report(&ending, &reply.job))
}

/// Whether the keyboard is the program's from the start: not in the background, and
/// not in a pipeline, whose other programs may read it. There the program
/// gets it when it first asks.
pub(super) fn takes_keyboard(tty: Option<&Tty>) -> bool {
    let [stdin, stdout, _] = standard_streams();
    let alone = stdin == StdioKind::Terminal && stdout == StdioKind::Terminal;
    alone && tty.is_some_and(Tty::in_foreground)
}

/// cwd, 0, 1 and 2 for the program, and what is to be copied for it.
fn descriptors() -> Result<([OwnedFd; 4], Vec<Copy>)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cwd = rustix::fs::open(".", flags, Mode::empty())
        .context("the current directory cannot be opened")?;
    let (stdin, copy_in) = sockets::for_program(0, io::stdin().as_fd())?;
    let (stdout, copy_out) = sockets::for_program(1, io::stdout().as_fd())?;
    let (stderr, copy_err) = sockets::for_program(2, io::stderr().as_fd())?;
    let copies = [copy_in, copy_out, copy_err]
        .into_iter()
        .flatten()
        .collect();
    Ok(([cwd, stdin, stdout, stderr], copies))
}

fn request(args: &ExecArgs, tty: Option<&Tty>, foreground: bool) -> ExecRequest {
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        ByteBuf::from(name.into_vec())
    });
    ExecRequest {
        argv: args
            .command
            .iter()
            .map(|arg| ByteBuf::from(arg.as_bytes()))
            .collect(),
        env: environment.collect(),
        stdio: standard_streams(),
        terminal: tty.map(|tty| tty.request(foreground)),
        detach: args.detach,
        name: args.name.clone(),
        node: args.node.clone(),
        pin: args.pin,
        cpu: args.cpu,
    }
}

fn ask(args: &ExecArgs, request: ExecRequest, fds: &[OwnedFd; 4]) -> Result<ExecReply> {
    let fds = fds.each_ref().map(AsFd::as_fd);
    let mut daemon = args.daemon.connect()?;
    match daemon.ask_with_fds(&Request::Exec(request), &fds, |_| {})? {
        Reply::Exec(reply) => Ok(reply),
        other => unexpected(&other),
    }
}

/// The program alone holds its pipes from here on: who reads what it writes sees the
/// end when it closes them, and not when we do. Standard error stays, for our own words.
pub(super) fn let_go_of_pipes() -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let [stdin, stdout, _] = standard_streams();
    if stdin == StdioKind::Descriptor {
        dup2_stdin(&null)?;
    }
    if stdout == StdioKind::Descriptor {
        dup2_stdout(&null)?;
    }
    Ok(())
}
