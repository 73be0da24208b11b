//! Starts the main program of a job: a child of the init that takes on the
//! caller's identity and execs, looked up as a shell would.

use std::{
    ffi::{CStr, CString},
    io::{self, PipeReader, Write},
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use libmig::{
    api::exec::TerminalRequest,
    sys::clone::{self, CloneOptions, Forked},
};
use nix::{
    errno::Errno,
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, execve},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{console::Console, identity::Identity};

/// Where programs are looked for without PATH, as glibc does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// Runs scripts without a `#!` line, as execvp(3) and shells do.
const SHELL: &CStr = c"/bin/sh";

/// A program and what it inherits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) argv: Vec<ByteBuf>,
    pub(crate) env: Vec<ByteBuf>,
    pub(crate) identity: Identity,
    pub(crate) terminal: Option<TerminalRequest>,
    /// Which of 0, 1 and 2 is the console.
    pub(crate) on_console: [bool; 3],
}

/// A child on its way to its program.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Closed without a byte when the program runs; else code and message.
    pub(crate) failure: PipeReader,
}

/// Why there is no program: a shell's exit code, and a sentence.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: u8,
    message: String,
}

/// Forks into `cgroup` and execs. `stdio` are descriptors 0, 1 and 2 of `mig exec`.
pub(crate) fn start(
    program: &Program,
    stdio: &[OwnedFd; 3],
    console: Option<&Console>,
    cgroup: impl AsFd,
) -> Result<Started> {
    let (failure, mut report) = io::pipe()?;
    let options = CloneOptions {
        cgroup: Some(cgroup.as_fd()),
        ..CloneOptions::default()
    };
    match clone::fork(&options).context("the main program cannot be forked")? {
        Forked::Parent { pid, pidfd } => Ok(Started {
            pid,
            pidfd,
            failure,
        }),
        Forked::Child => {
            let failure = become_program(program, stdio, console);
            let mut bytes = vec![failure.code];
            bytes.extend(failure.message.as_bytes());
            // Nothing more can be told to anyone if this fails.
            drop(report.write_all(&bytes));
            drop(report);
            std::process::exit(failure.code.into())
        }
    }
}

/// Returns only when it fails.
fn become_program(program: &Program, stdio: &[OwnedFd; 3], console: Option<&Console>) -> Failure {
    match prepare(program, stdio, console) {
        Ok(()) => exec(&program.argv, &program.env),
        Err(e) => Failure {
            code: 126,
            message: format!("{}: {e:#}", name_of(&program.argv)),
        },
    }
}

fn prepare(program: &Program, stdio: &[OwnedFd; 3], console: Option<&Console>) -> Result<()> {
    rustix::process::setpgid(None, None)?;
    let slave = console.map(Console::slave).transpose()?;
    if let (Some(console), Some(request)) = (console, &program.terminal)
        && request.foreground
    {
        console.set_foreground(rustix::process::getpid())?;
    }
    let choose = |number: usize| match &slave {
        Some(slave) if program.on_console[number] => slave.as_fd(),
        _ => stdio[number].as_fd(),
    };
    dup2_stdin(choose(0))?;
    dup2_stdout(choose(1))?;
    dup2_stderr(choose(2))?;
    program
        .identity
        .put_on()
        .context("the caller's identity cannot be taken on")
}

/// Tries every folder of PATH; what stays is the failure a shell would report.
fn exec(argv: &[ByteBuf], env: &[ByteBuf]) -> Failure {
    let strings = |list: &[ByteBuf]| -> Vec<CString> {
        let strings = list.iter().map(|s| CString::new(s.to_vec()));
        strings
            .collect::<Result<_, _>>()
            .expect("the request was validated")
    };
    let (args, vars) = (strings(argv), strings(env));
    let name = argv[0].as_slice();
    let mut failure = not_found(argv);
    for path in candidates(name, env) {
        let error = try_exec(&path, &args, &vars);
        match error {
            Errno::ENOENT | Errno::ENOTDIR if name.contains(&b'/') => {
                failure = Failure {
                    code: 127,
                    message: describe(argv, error),
                };
            }
            Errno::ENOENT | Errno::ENOTDIR => (),
            Errno::EACCES => {
                failure = Failure {
                    code: 126,
                    message: describe(argv, error),
                }
            }
            _ => {
                return Failure {
                    code: 126,
                    message: describe(argv, error),
                };
            }
        }
    }
    failure
}

fn try_exec(path: &CStr, args: &[CString], vars: &[CString]) -> Errno {
    let Err(error) = execve(path, args, vars);
    if error != Errno::ENOEXEC {
        return error;
    }
    let mut script = vec![SHELL.to_owned(), path.to_owned()];
    script.extend_from_slice(&args[1..]);
    let Err(error) = execve(SHELL, &script, vars);
    error
}

/// The files that `name` may mean, in order.
fn candidates(name: &[u8], env: &[ByteBuf]) -> Vec<CString> {
    if name.is_empty() {
        return vec![];
    }
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    let path = env.iter().find_map(|var| var.strip_prefix(b"PATH="));
    let folders = path.unwrap_or(DEFAULT_PATH).split(|&b| b == b':');
    let joined = folders.map(|folder| match folder {
        b"" => name.to_vec(),
        _ => [folder, b"/", name].concat(),
    });
    joined.filter_map(|path| CString::new(path).ok()).collect()
}

fn not_found(argv: &[ByteBuf]) -> Failure {
    Failure {
        code: 127,
        message: format!("{}: command not found", name_of(argv)),
    }
}

fn describe(argv: &[ByteBuf], error: Errno) -> String {
    format!("{}: {}", name_of(argv), error.desc())
}

fn name_of(argv: &[ByteBuf]) -> String {
    argv.first().map_or_else(String::new, |name| {
        String::from_utf8_lossy(name).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up(name: &str, env: &[&str]) -> Vec<String> {
        let env: Vec<_> = env.iter().map(|v| ByteBuf::from(v.as_bytes())).collect();
        let paths = candidates(name.as_bytes(), &env);
        paths
            .iter()
            .map(|p| p.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn looks_where_a_shell_looks() {
        assert_eq!(looked_up("x", &["A=b", "PATH=/a:/b/c"]), ["/a/x", "/b/c/x"]);
        assert_eq!(looked_up("x", &["PATH=:/a"]), ["x", "/a/x"]);
        assert_eq!(looked_up("x", &[]), ["/bin/x", "/usr/bin/x"]);
        assert_eq!(looked_up("./x", &["PATH=/a"]), ["./x"]);
        assert!(looked_up("", &["PATH=/a"]).is_empty());
    }

    #[test]
    fn fails_with_the_codes_of_a_shell() {
        let run = |name: &str| {
            exec(
                &[ByteBuf::from(name)],
                &[ByteBuf::from("PATH=/nowhere:/etc")],
            )
        };
        let missing = run("mig-no-such-program");
        assert_eq!(missing.code, 127);
        assert!(missing.message.contains("command not found"));
        assert_eq!(run("/nowhere/x").code, 127);
        assert_eq!(run("passwd").code, 126, "/etc/passwd is no program");
        assert_eq!(run("/etc").code, 126, "a folder is no program");
    }
}
