//! The table as text.

use super::comparison::data_set_name;
use super::statistics::Sample;
use super::table::{Column, Row, Table};
use super::wording::{difference, spread, verdict};

/// The heading of the first column.
const NETWORK: &str = "network (epochs in a budget)";
/// The width of the second column, which names the kind of each line.
const WHAT: usize = 12;
/// The width of the other columns.
const CELL: usize = 20;

/// The table, line by line.
pub(crate) fn lines(table: &Table<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let networks = table.rows.iter().map(|row| network(row).chars().count());
    let first = networks.max().unwrap_or(0).max(NETWORK.len());
    for rows in table.rows.chunk_by(|a, b| a.data_set == b.data_set) {
        let row = &rows[0];
        lines.push(format!(
            "{}: test accuracy in %, mean ± sample standard deviation over seeds",
            data_set_name(&row.data_set)
        ));
        let heading = |column: &Column| Some(column.heading.to_owned());
        lines.push(line(first, [NETWORK, ""], row, heading));
        lines.extend(rows.iter().flat_map(|row| row_lines(first, row)));
    }
    lines
}

fn row_lines(first: usize, row: &Row<'_>) -> Vec<String> {
    let ours = |column: &Column| {
        let Sample { mean, deviation, n } = column.accuracy?;
        Some(spread(mean, deviation, 2) + &format!(" (n={n})"))
    };
    let mut lines = vec![line(first, [&network(row), "ours"], row, ours)];
    if row.columns.iter().any(|column| column.gain.is_some()) {
        let gain = |column: &Column| {
            let gain = column.gain.as_ref()?.difference;
            Some(difference(gain.points, gain.standard_errors, "s.e."))
        };
        lines.push(line(first, ["", "SWA − SGD"], row, gain));
        lines.push(line(first, ["", ""], row, |column| {
            let gain = column.gain.as_ref()?.difference;
            Some(verdict(gain.points, gain.beyond_noise).to_owned())
        }));
    }
    if let Some(reason) = &row.unpublished {
        lines.push(format!("{:first$} {:WHAT$} none: {reason}", "", "paper"));
    } else {
        lines.push(line(first, ["", "paper"], row, |column| {
            let published = column.published?;
            Some(spread(published.mean, Some(published.deviation), 2))
        }));
        lines.push(line(first, ["", "ours − paper"], row, |column| {
            let less = column.less_published?;
            Some(difference(less.points, less.standard_deviations, "s.d."))
        }));
    }
    lines
}

/// A row's first column.
fn network(row: &Row<'_>) -> String {
    format!("{} ({})", row.network, row.budget)
}

/// A line: its first two columns, the first of a width, and a cell for each column of a row.
fn line(
    first: usize,
    [network, what]: [&str; 2],
    row: &Row<'_>,
    cell: impl Fn(&Column) -> Option<String>,
) -> String {
    let mut line = format!("{network:first$} {what:WHAT$}");
    for column in &row.columns {
        let cell = cell(column);
        line += &format!(" {:>CELL$}", cell.as_deref().unwrap_or("-"));
    }
    line.trim_end().to_owned()
}
