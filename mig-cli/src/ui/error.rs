//! Errors as people read them: Error, Caused by, Hint, on stderr.

use std::io::Write;

use libmig::api::{ClientError, Failure, Obstacle};

use super::printable;

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const GREEN: &str = "\x1b[1;32m";
const PLAIN: &str = "\x1b[0m";

/// Prints `error`. A stderr that is closed changes nothing.
pub(crate) fn print(error: &anyhow::Error) {
    drop(anstream::stderr().write_all(render(error).as_bytes()));
}

/// The lines that [`print()`] prints.
pub(crate) fn render(error: &anyhow::Error) -> String {
    let client = error.downcast_ref::<ClientError>();
    if let Some(ClientError::Failed(failure)) = client {
        return render_failure(failure);
    }
    let mut text = format!("{RED}Error:{PLAIN} {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&caused_by(&cause.to_string()));
    }
    match client {
        Some(ClientError::Connect { .. }) => text.push_str(&hint(
            "is migd running? another socket can be named with --socket or MIG_SOCKET",
        )),
        Some(ClientError::Version { .. }) => {
            text.push_str(&hint("use the mig and the migd of one release"));
        }
        _ => {}
    }
    text
}

/// One obstacle and its remedy.
pub(crate) fn obstacle(obstacle: &Obstacle) -> String {
    let passes = if obstacle.transient {
        " (passes by itself)"
    } else {
        ""
    };
    let mut text = format!(
        "  {YELLOW}-{PLAIN} {}{passes}\n",
        printable(&obstacle.to_string())
    );
    if !obstacle.remedy.is_empty() {
        text.push_str(&format!("    remedy: {}\n", printable(&obstacle.remedy)));
    }
    text
}

fn render_failure(failure: &Failure) -> String {
    let mut text = format!("{RED}Error:{PLAIN} {}\n", printable(&failure.to_string()));
    for cause in &failure.causes {
        text.push_str(&caused_by(cause));
    }
    for one in &failure.obstacles {
        text.push_str(&obstacle(one));
    }
    if let Some(said) = &failure.hint {
        text.push_str(&hint(said));
    }
    text
}

fn caused_by(cause: &str) -> String {
    format!("{YELLOW}Caused by:{PLAIN} {}\n", printable(cause))
}

fn hint(text: &str) -> String {
    format!("{GREEN}Hint:{PLAIN} {}\n", printable(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmig::api::{Code, Phase};

    #[test]
    fn a_failure_is_printed_whole_and_cannot_command_the_terminal() {
        let mut failure = Failure::new(Code::Refused, "job n1-7 cannot move\x1b[2J")
            .in_phase(Phase::Prepare)
            .caused_by("first")
            .caused_by("second")
            .hint("do this");
        failure.obstacles.push(Obstacle {
            pid: Some(3),
            object: "fd 7".into(),
            reason: "is odd".into(),
            remedy: "close it".into(),
            transient: true,
        });
        let text =
            anstream::adapter::strip_str(&render(&ClientError::from(failure).into())).to_string();
        assert_eq!(
            text,
            "Error: job n1-7 cannot move\u{fffd}[2J (in phase prepare)\n\
             Caused by: first\nCaused by: second\n  - pid 3: fd 7: is odd (passes by itself)\n    \
             remedy: close it\nHint: do this\n"
        );
    }
}
