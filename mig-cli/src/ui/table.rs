//! Listings: columns of equal width, and a last column that is cut where the
//! terminal ends. Into a pipe everything goes whole.

use std::io;

use rustix::termios::tcgetwinsize;

use super::printable;

/// Lines of cells below a header.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table without lines.
    pub(crate) fn new(header: [&str; N]) -> Table<N> {
        Table {
            rows: vec![header.map(str::to_owned)],
        }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    /// For stdout as it is.
    pub(crate) fn render(&self) -> String {
        let columns = tcgetwinsize(io::stdout())
            .ok()
            .map(|size| usize::from(size.ws_col));
        self.fit(columns.filter(|columns| *columns > 0))
    }

    fn fit(&self, columns: Option<usize>) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let lines = self.rows.iter().map(|row| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            let line = line.trim_end();
            match columns {
                Some(columns) => line.chars().take(columns).collect(),
                None => line.to_owned(),
            }
        });
        lines.collect::<Vec<String>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_end_where_the_terminal_does() {
        let mut table = Table::new(["JOB", "COMMAND"]);
        table.row(["n1-7".into(), "a\x1b[31m long command".into()]);
        assert_eq!(
            table.fit(None),
            "JOB   COMMAND\nn1-7  a\u{fffd}[31m long command"
        );
        assert_eq!(table.fit(Some(10)), "JOB   COMM\nn1-7  a\u{fffd}[3");
    }
}
