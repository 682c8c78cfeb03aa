//! The table as text.

use super::comparison::data_set_name;
use super::table::{Row, Table};
use super::wording;

/// The widths of the first columns: the network, and what a line is.
const WIDTHS: (usize, usize) = (34, 11);
/// The width of the others.
const CELL: usize = 20;

/// The table, line by line.
pub(crate) fn lines(table: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    let mut data_set = None;
    for row in &table.rows {
        if data_set != Some(&row.data_set) {
            data_set = Some(&row.data_set);
            lines.push(format!(
                "{}: test accuracy in %, mean ± sample standard deviation over seeds",
                data_set_name(&row.data_set)
            ));
            let headings = row.columns.each_ref().map(|column| column.heading());
            lines.push(line("network (epochs in a budget)", "", headings));
        }
        lines.extend(row_lines(row));
    }
    lines
}

fn row_lines(row: &Row) -> Vec<String> {
    let cells = |cell: &dyn Fn(&super::table::Column) -> Option<String>| {
        let cells = row.columns.each_ref();
        cells.map(|column| cell(column).unwrap_or_else(|| "-".to_owned()))
    };
    let mut lines = vec![line(
        &format!("{} ({})", row.network, row.budget),
        "ours",
        cells(&|column| {
            let accuracy = column.accuracy.as_ref()?;
            Some(format!("{} (n={})", wording::sample(accuracy), accuracy.n))
        }),
    )];
    if row.columns.iter().any(|column| column.less_sgd.is_some()) {
        let less = cells(&|column| column.less_sgd.as_ref().map(wording::less_sgd));
        lines.push(line("", "SWA − SGD", less));
        let verdict = cells(&|column| {
            column
                .less_sgd
                .as_ref()
                .map(|less| wording::verdict(less).to_owned())
        });
        lines.push(line("", "", verdict));
    }
    match &row.unpublished {
        Some(reason) => lines.push(format!("{:1$}paper: {reason}", "", WIDTHS.0 + 1)),
        None => {
            let published = cells(&|column| column.published.as_ref().map(wording::published));
            lines.push(line("", "paper", published));
            let distance = cells(&|column| column.less_published.as_ref().map(wording::distance));
            lines.push(line("", "ours − paper", distance));
        }
    }
    lines
}

fn line(network: &str, what: &str, cells: [String; 4]) -> String {
    let (first, second) = WIDTHS;
    let mut line = format!("{network:first$} {what:second$}");
    for cell in cells {
        line += &format!(" {cell:>CELL$}");
    }
    line.trim_end().to_owned()
}
