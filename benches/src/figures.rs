//! Medians with what lies around them, and how they are printed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::machine::Machine;

/// Several measurements of one thing, in microseconds (or bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are those of statistics")]
pub struct Spread {
    pub median: u64,
    pub min: u64,
    pub max: u64,
    pub count: usize,
}

impl Spread {
    /// Of numbers; nothing of none.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<u64> = numbers.into_iter().collect();
        sorted.sort_unstable();
        Some(Self {
            median: *sorted.get(sorted.len() / 2)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            count: sorted.len(),
        })
    }

    /// Of times, in microseconds.
    #[must_use]
    pub fn of_times(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        Self::of(times.into_iter().map(micros))
    }
}

/// Whole microseconds.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// As milliseconds, for times.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median, min, max, ..
        } = *self;
        let text = format!("{} ({} - {})", millis(median), millis(min), millis(max));
        f.pad(&text)
    }
}

fn millis(micros: u64) -> String {
    let tenths = (micros + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// What was measured of one way to move one shape.
#[derive(Debug, Clone, Serialize)]
pub struct Moves {
    /// The largest gap that the program saw, for each move.
    pub program_pause_us: Spread,
    /// What the mover says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_pause_us: Option<Spread>,
    /// From the request to its end.
    pub total_us: Spread,
    /// That were sent, or written to images.
    pub bytes: Spread,
    /// Medians of the phases, as `mig move --json` has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub phases_us: BTreeMap<String, u64>,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The shape's name.
    pub shape: &'static str,
    /// For people.
    #[serde(skip)]
    pub title: &'static str,
    /// `mig move`.
    pub mig: Moves,
    /// CRIU, where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criu: Option<Moves>,
}

/// What it takes to start a program.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// fork, exec, exit and wait of /bin/true.
    pub direct_us: Spread,
    /// The same under `mig exec`.
    pub mig_exec_us: Spread,
}

/// Everything that was measured in one run.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Where.
    pub machine: Machine,
    /// Which CRIU, or why none.
    pub criu: String,
    /// One for each shape.
    pub shapes: Vec<Row>,
    /// `mig exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine: {}", self.machine)?;
        writeln!(f, "peer:    {}", self.criu)?;
        writeln!(f, "\nmilliseconds: median (least - most)\n")?;
        let head = |f: &mut fmt::Formatter<'_>, columns: [&str; 5]| {
            let [shape, who, pause, reported, total] = columns;
            write!(f, "{shape:16} {who:5} {pause:24} {reported:24} {total:24}")
        };
        head(
            f,
            [
                "shape",
                "",
                "pause of the program",
                "pause reported",
                "total",
            ],
        )?;
        writeln!(f, " MiB  moves")?;
        for row in &self.shapes {
            for (who, moves) in [("mig", Some(&row.mig)), ("criu", row.criu.as_ref())] {
                let Some(moves) = moves else { continue };
                let reported = moves.reported_pause_us.map(|it| it.to_string());
                let title = if who == "mig" { row.title } else { "" };
                head(
                    f,
                    [
                        title,
                        who,
                        &moves.program_pause_us.to_string(),
                        &reported.unwrap_or_default(),
                        &moves.total_us.to_string(),
                    ],
                )?;
                let mib = moves.bytes.median >> 20;
                writeln!(f, " {mib:4} {:5}", moves.program_pause_us.count)?;
            }
        }
        match &self.start {
            None => Ok(()),
            Some(start) => writeln!(
                f,
                "\n/bin/true: {} ms\nmig exec -- /bin/true: {} ms",
                start.direct_us, start.mig_exec_us
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_numbers() {
        assert_eq!(Spread::of([]), None);
        let spread = Spread::of([50, 1, 9_949]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (50, 1, 9_949));
        assert_eq!(spread.to_string(), "0.1 (0.0 - 9.9)");
    }
}
