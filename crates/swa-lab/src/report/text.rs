//! The tables as text.

use super::comparison::data_set_name;
use super::methods::{Methods, SCORES, Score};
use super::published::NLL_EPOCHS;
use super::statistics::Sample;
use super::table::{Column, Gain, Row, Table};
use super::wording::{difference, listed, span, spread, verdict};

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
    for row in &table.rows {
        if let Some(methods) = &row.methods {
            lines.push(String::new());
            lines.extend(methods_lines(row, methods));
        }
    }
    lines
}

/// The table of methods of a network, line by line.
fn methods_lines(row: &Row<'_>, methods: &Methods<'_>) -> Vec<String> {
    let mut headings = vec!["method".to_owned()];
    headings.extend(SCORES.map(|column| column.heading.to_owned() + "  "));
    if methods.has_published() {
        headings.push(format!("NLL in SWAG's paper, {NLL_EPOCHS} epochs"));
    }
    headings.extend(["networks", "budgets", "seeds"].map(str::to_owned));
    let rows = methods.rows.iter().map(|method| {
        let mut cells = vec![method.name.to_owned()];
        let scores = method.scores.all().into_iter().zip(&SCORES);
        cells.extend(scores.map(|(score, column)| match score {
            None => "-  ".to_owned(),
            Some(Score { sample, best }) => {
                let star = if *best { '*' } else { ' ' };
                spread(sample.mean, sample.deviation, column.decimals) + &format!(" {star}")
            }
        }));
        let none = || "-".to_owned();
        if methods.has_published() {
            let published = method.published_nll;
            cells.push(published.map_or_else(none, |nll| format!("{nll:.2}")));
        }
        for of in [method.networks, method.budgets] {
            cells.push(of.map_or_else(none, |of| span(of.least, of.most)));
        }
        cells.push(if method.seeds.is_empty() {
            none()
        } else {
            listed(&method.seeds)
        });
        cells
    });
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|cells| cells[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let lines = rows.iter().map(|cells| {
        let mut line = format!("{:1$}", cells[0], widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        line.trim_end().to_owned()
    });
    let title = format!(
        "{}, {}: methods, mean ± sample standard deviation over seeds; * is the best mean",
        data_set_name(&row.data_set),
        network(row),
    );
    std::iter::once(title).chain(lines).collect()
}

fn row_lines(first: usize, row: &Row<'_>) -> Vec<String> {
    let ours = |column: &Column| {
        let Sample { mean, deviation, n } = column.accuracy?;
        Some(spread(mean, deviation, 2) + &format!(" (n={n})"))
    };
    let mut lines = vec![line(first, [&network(row), "ours"], row, ours)];
    lines.extend(gain_lines(first, "SWA − SGD", row, |column| &column.gain));
    lines.extend(gain_lines(first, "equal cost", row, |column| {
        &column.gain_at_equal_cost
    }));
    if let Some(reason) = &row.unpublished {
        lines.push(format!("{:first$} {:WHAT$} none: {reason}", "", "paper"));
    } else {
        lines.push(line(first, ["", "paper"], row, |column| {
            let published = column.published?;
            Some(spread(published.mean, published.deviation, 2))
        }));
        lines.push(line(first, ["", "ours − paper"], row, |column| {
            let less = column.less_published?;
            Some(difference(less.points, less.standard_deviations, "s.d."))
        }));
    }
    lines
}

/// The lines of gains over SGD, if there are any: how large they are, and whether they are beyond the noise.
fn gain_lines(
    first: usize,
    what: &str,
    row: &Row<'_>,
    gain: impl Fn(&Column) -> &Option<Gain>,
) -> Vec<String> {
    if row.columns.iter().all(|column| gain(column).is_none()) {
        return Vec::new();
    }
    let difference = |column: &Column| {
        let gain = gain(column).as_ref()?.difference;
        Some(difference(gain.points, gain.standard_errors, "s.e."))
    };
    let verdict = |column: &Column| {
        let gain = gain(column).as_ref()?.difference;
        Some(verdict(gain.points, gain.beyond_noise).to_owned())
    };
    vec![
        line(first, ["", what], row, difference),
        line(first, ["", ""], row, verdict),
    ]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::{Method, PredictingModels};
    use crate::report::comparison::Comparison;
    use crate::report::fixture::method_run;

    #[test]
    fn the_table_of_methods_marks_the_best_and_says_the_seeds() {
        let sgd = |seed, accuracy, nll| {
            let scores = [accuracy, nll, 0.5, 0.1];
            method_run(Method::Sgd, seed, PredictingModels::Live, &[scores])
        };
        let members = [[60.0, 1.5, 0.6, 0.2], [61.5, 1.0, 0.5, 0.05]];
        let runs = [
            sgd(1, 58.0, 1.25),
            sgd(2, 60.0, 1.25),
            method_run(Method::Fge, 1, PredictingModels::Members, &members),
            method_run(Method::Ema, 1, PredictingModels::Averaged, &[]),
        ];
        let comparisons = Comparison::all(&runs);
        let lines = lines(&Table::of(&comparisons));
        let title = lines.iter().position(|line| line.contains("methods"));
        let found = &lines[title.unwrap()..];
        // 58 and 60: sqrt(2) around 59.
        let expected = [
            "CIFAR-10, vgg16-bn, widths divided by 8 (4): methods, mean ± sample standard deviation over \
             seeds; * is the best mean",
            "method  accuracy (%)       NLL (nats)            Brier              ECE    networks  budgets  \
             seeds",
            "SGD     59.00 ± 1.41    1.250 ± 0.000    0.500 ± 0.000 *  0.100 ± 0.000           1        1   \
             1, 2",
            "EMA                -                -                -                -           -        -      \
             -",
            "FGE            61.50 *          1.000 *          0.500 *          0.050 *         2        1      \
             1",
        ];
        assert_eq!(found, expected);
    }
}
