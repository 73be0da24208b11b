//! How the demo looks: headings, check marks, one line that is written over. Without a terminal the
//! same words, without colours, and a line for each step instead.

use std::io::{IsTerminal, Write, stdout};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";
/// Back to the line's begin, and nothing on it.
const OVER: &str = "\r\x1b[K";

/// Where the demo is shown.
#[derive(Debug)]
pub(crate) struct Stage {
    terminal: bool,
}

impl Stage {
    /// Standard output.
    pub(crate) fn new() -> Self {
        Self {
            terminal: stdout().is_terminal(),
        }
    }

    /// The name of the play.
    pub(crate) fn title(&self, name: &str, what: &str) {
        self.print(&format!("\n{BOLD}{name}{PLAIN}  {what}\n"));
    }

    /// A new act.
    pub(crate) fn act(&self, what: &str) {
        self.print(&format!("\n{BOLD}{CYAN}{what}{PLAIN}\n"));
    }

    /// Something that turned out to be so, and a number about it.
    pub(crate) fn check(&self, what: &str, detail: &str) {
        let over = if self.terminal { OVER } else { "" };
        self.print(&format!(
            "{over}  {GREEN}✓{PLAIN} {what:<50} {DIM}{detail}{PLAIN}\n"
        ));
    }

    /// Something worth knowing.
    pub(crate) fn note(&self, what: &str) {
        self.print(&format!("    {DIM}{what}{PLAIN}\n"));
    }

    /// What is going on right now; gives way to whatever comes next. `notable` says that it is to be
    /// seen without a terminal too.
    pub(crate) fn now(&self, what: &str, notable: bool) {
        if self.terminal {
            self.print(&format!("{OVER}    {what}"));
        } else if notable {
            self.print(&format!("    {what}\n"));
        }
    }

    /// Takes away what is going on.
    pub(crate) fn clear(&self) {
        if self.terminal {
            self.print(OVER);
        }
    }

    /// A bar that is filled to `share` of one.
    pub(crate) fn bar(share: f64) -> String {
        const WIDTH: usize = 24;
        let steps = (0..WIDTH).filter(|&step| (step as f64 + 0.5) / (WIDTH as f64) < share);
        let full = steps.count();
        format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full))
    }

    fn print(&self, text: &str) {
        let mut out = anstream::stdout().lock();
        // Whoever closed stdout does not want to see the rest; the exit code still tells.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_one_width() {
        for (share, full) in [(0.0, 0), (0.5, 12), (1.0, 24), (7.0, 24), (f64::NAN, 0)] {
            let bar = Stage::bar(share);
            assert_eq!(bar.chars().count(), 24);
            assert_eq!(bar.chars().filter(|&c| c == '█').count(), full, "{share}");
        }
    }
}
