//! The table as text.

use super::comparison::data_set_name;
use super::table::{Column, Row, Table};
use super::wording;

/// The heading of the first column.
const NETWORK: &str = "network (epochs in a budget)";
/// The width of the second column, which names the kind of each line.
const WHAT: usize = 12;
/// The width of the other columns.
const CELL: usize = 20;

/// The table, line by line.
pub(crate) fn lines(table: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    let networks = table.rows.iter().map(|row| network(row).chars().count());
    let first = networks.max().unwrap_or(0).max(NETWORK.len());
    let mut data_set = None;
    for row in &table.rows {
        if data_set != Some(&row.data_set) {
            data_set = Some(&row.data_set);
            lines.push(format!(
                "{}: test accuracy in %, mean ± sample standard deviation over seeds",
                data_set_name(&row.data_set)
            ));
            let headings = row.columns.each_ref().map(|column| column.heading());
            lines.push(line(first, NETWORK, "", headings));
        }
        lines.extend(row_lines(first, row));
    }
    lines
}

fn row_lines(first: usize, row: &Row) -> Vec<String> {
    let cells = |cell: &dyn Fn(&Column) -> Option<String>| {
        let cells = row.columns.each_ref();
        cells.map(|column| cell(column).unwrap_or_else(|| "-".to_owned()))
    };
    let mut lines = vec![line(
        first,
        &network(row),
        "ours",
        cells(&|column| {
            let accuracy = column.accuracy.as_ref()?;
            Some(format!("{} (n={})", wording::sample(accuracy), accuracy.n))
        }),
    )];
    if row.columns.iter().any(|column| column.gain.is_some()) {
        let gains = cells(&|column| column.gain.as_ref().map(wording::gain));
        lines.push(line(first, "", "SWA − SGD", gains));
        let verdict = cells(&|column| {
            column
                .gain
                .as_ref()
                .map(|gain| wording::verdict(gain).to_owned())
        });
        lines.push(line(first, "", "", verdict));
    }
    match &row.unpublished {
        Some(reason) => lines.push(format!("{:first$} {:WHAT$} none: {reason}", "", "paper")),
        None => {
            let published = cells(&|column| column.published.as_ref().map(wording::published));
            lines.push(line(first, "", "paper", published));
            let distance = cells(&|column| column.less_published.as_ref().map(wording::distance));
            lines.push(line(first, "", "ours − paper", distance));
        }
    }
    lines
}

/// A row's first column.
fn network(row: &Row) -> String {
    format!("{} ({})", row.network, row.budget)
}

fn line(first: usize, network: &str, what: &str, cells: [String; 4]) -> String {
    let mut line = format!("{network:first$} {what:WHAT$}");
    for cell in cells {
        line += &format!(" {cell:>CELL$}");
    }
    line.trim_end().to_owned()
}
