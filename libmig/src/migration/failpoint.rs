//! Places where the tests make a move fail. Nothing of it is compiled into a
//! build without the feature `failpoints`.
//!
//! The file named by `MIG_FAILPOINTS` holds lines `POINT ACTION [ARG]`, read at
//! every hit, so that a test can arm them while the daemon runs. A point fires
//! once: its line is the first match, and a file `POINT.hit` beside it says that
//! it was reached. Actions: `error`, `kill` (SIGKILL of this daemon), `panic`, `stall MS`.

use super::JobError;

/// Passes the failpoint `name`.
///
/// # Errors
/// When the tests armed it with `error`.
#[cfg(not(feature = "failpoints"))]
pub fn hit(_name: &'static str) -> Result<(), JobError> {
    Ok(())
}

/// Passes the failpoint `name`.
///
/// # Errors
/// When the tests armed it with `error`.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) -> Result<(), JobError> {
    let Some(path) = std::env::var_os("MIG_FAILPOINTS") else {
        return Ok(());
    };
    let Ok(armed) = std::fs::read_to_string(&path) else {
        return Ok(());
    };
    let Some(line) = armed
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name))
    else {
        return Ok(());
    };
    let rest: Vec<&str> = armed.lines().filter(|other| *other != line).collect();
    std::fs::write(&path, rest.join("\n"))?;
    let mut mark = path;
    mark.push(format!(".{name}.hit"));
    std::fs::write(mark, line)?;
    act(name, &line.split_whitespace().skip(1).collect::<Vec<_>>())
}

#[cfg(feature = "failpoints")]
fn act(name: &'static str, action: &[&str]) -> Result<(), JobError> {
    match action {
        ["kill"] => {
            let daemon = crate::sys::survivor::principal();
            nix::sys::signal::kill(daemon.into(), nix::sys::signal::Signal::SIGKILL)?;
            // Not a step further.
            nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        }
        ["panic"] => panic!("failpoint {name}"),
        ["stall", milliseconds] => {
            std::thread::sleep(std::time::Duration::from_millis(milliseconds.parse()?));
            Ok(())
        }
        _ => Err(format!("failpoint {name}").into()),
    }
}
