//! What people read: results on stdout, all else on stderr; colours only on a
//! terminal.

pub(crate) mod error;
pub(crate) mod human;
pub(crate) mod table;

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// Prints one line of result.
///
/// # Errors
/// When stdout fails; `main` takes a closed pipe for success.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(anstream::stdout(), "{text}")?;
    Ok(())
}

/// Prints a result as JSON.
///
/// # Errors
/// As [`line()`].
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Text that somebody else chose, without what could command the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
