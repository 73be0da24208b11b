//! What a `mig` has to do first that has taken the place of another program.

use std::io;

use crate::sys::signal::{discard_pending, stop_itimers};

/// Forgets the interval timers of that program, which execve(2) keeps, and those of its
/// pending signals that the job has taken along: bit n - 1 for signal n. All signals are
/// blocked.
///
/// # Errors
/// None that is known.
pub fn forget_the_past(taken: u64) -> io::Result<()> {
    stop_itimers()?;
    discard_pending(taken);
    Ok(())
}
