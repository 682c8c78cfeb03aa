//! The page: one file that loads no others.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::comparison::data_set_name;
use super::convergence::{Convergence, LINES};
use super::results::{FinishedRun, Results};
use super::table::{COLUMNS, Table};
use super::wording::{difference, grouped, plural, signed, spread, verdict};
use crate::Failure;

/// The contents of the page.
pub(crate) struct Page<'a> {
    pub(crate) results: &'a Results,
    pub(crate) table: &'a Table<'a>,
    /// The convergence plots of the rows, if they have epochs to show.
    pub(crate) figures: &'a [Option<Figure>],
    pub(crate) missing: &'a [String],
}

/// A plot on the page.
#[derive(Serialize)]
pub(crate) struct Figure {
    /// The text of the SVG file after `<svg `.
    svg: String,
    has_bands: bool,
    is_cut: bool,
}

impl Figure {
    /// A plot whose picture is `svg`, a whole file.
    pub(crate) fn of(plot: &Convergence, svg: &str) -> Self {
        // A file of SVG must name its namespace. Within HTML, that is not needed.
        let svg = svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
        Self {
            svg: svg.replacen("<svg ", "", 1),
            has_bands: plot.has_bands(),
            is_cut: plot.is_cut(),
        }
    }
}

impl Page<'_> {
    /// The page, as HTML. The same results make the same bytes.
    ///
    /// # Errors
    ///
    /// Those of the template, `page.html`. None are known.
    pub(crate) fn html(&self) -> Result<String, Failure> {
        let Self { results, table, .. } = self;
        let columns = table.rows.iter().flat_map(|row| &row.columns);
        let gains = columns.filter_map(|column| Some(column.gain.as_ref()?.difference));
        let verdicts = gains.map(|gain| verdict(gain.points, gain.beyond_noise));
        let comparisons = table.rows.iter().zip(self.figures).map(|(row, figure)| {
            let run = row.comparison.record();
            context! {
                run => Serde(run),
                row => Serde(row),
                figure => Serde(figure),
                sgd => Serde(run.sgd.by_name()),
                swa_lr => run.swa_lr.map(|lr| lr.to_string()),
                slower => row.cost.slower(),
                larger => row.cost.larger(),
            }
        });
        let runs = results.finished.iter();
        let runs = runs.map(|run| context! { time => time(run), ..Serde(&run.record) });
        let unfinished = results.unfinished.iter();
        let unfinished = unfinished.map(|(name, epochs)| (name, epochs.values().next_back()));
        let tables = table.rows.chunk_by(|a, b| a.data_set == b.data_set);
        let page = context! {
            css => include_str!("page.css"),
            version => env!("CARGO_PKG_VERSION"),
            column_headings => Serde(COLUMNS.map(|(.., heading)| heading)),
            line_names => Serde(LINES.map(|line| line.name)),
            verdicts => verdicts.collect::<Vec<_>>(),
            tables => Serde(tables.collect::<Vec<_>>()),
            comparisons => comparisons.collect::<Vec<_>>(),
            runs => runs.collect::<Vec<_>>(),
            missing => Serde(self.missing),
            unfinished => Serde(unfinished.collect::<Vec<_>>()),
        };
        let template = include_str!("page.html").replace("\\\n", "");
        Ok(environment()?.render_named_str("page.html", &template, page)?)
    }
}

/// The language of the template: HTML in which every value is escaped, and one that is missing is a
/// dash.
fn environment() -> Result<Environment<'static>, Failure> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_formatter(|out, _, value| {
        let text = match value {
            value if value.is_none() => "–".to_owned(),
            value if value.is_safe() => value.to_string(),
            value => escaped(&value.to_string()),
        };
        Ok(std::fmt::Write::write_str(out, &text)?)
    });
    environment.add_filter("data_set_name", |name: &str| data_set_name(name).to_owned());
    environment.add_filter("difference", difference);
    environment.add_filter("grouped", grouped);
    environment.add_filter("plural", plural);
    environment.add_filter("signed", signed);
    environment.add_filter("spread", spread);
    environment.add_filter("verdict", verdict);
    Ok(environment)
}

/// The time that a run trained, in hours and minutes.
fn time(run: &FinishedRun) -> String {
    let minutes = run.own_epochs().map(|epoch| epoch.seconds).sum::<f64>() / 60.0;
    let minutes = minutes.round() as u64;
    format!("{}:{:02}", minutes / 60, minutes % 60)
}

/// Escapes text for HTML, between tags and in attributes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::Comparison;
    use crate::report::fixture::sgd_run;

    #[test]
    fn what_comes_from_the_results_is_text_and_no_markup() {
        let evil = "<script>alert(\"1\") & '2'</script>";
        let mut run = sgd_run(1, &[40.0; 4]);
        for field in [
            &mut run.record.run,
            &mut run.record.data_set,
            &mut run.record.model,
            &mut run.record.command,
            &mut run.record.machine,
            &mut run.record.started,
        ] {
            evil.clone_into(field);
        }
        let results = Results {
            unfinished: vec![(evil.to_owned(), run.epochs.clone())],
            finished: vec![run],
        };
        let comparisons = Comparison::all(&results.finished);
        let plot = Convergence::of(&comparisons[0]);
        let figures = [plot.map(|plot| Figure::of(&plot, "<svg ></svg>"))];
        let page = Page {
            results: &results,
            table: &Table::of(&comparisons),
            figures: &figures,
            missing: &[evil.to_owned()],
        };
        let html = page.html().unwrap();
        assert!(!html.contains("<script"), "{html}");
        let text = "&lt;script&gt;alert(&quot;1&quot;) &amp; &#39;2&#39;&lt;/script&gt;";
        assert!(html.matches(text).count() > 10, "{html}");
    }
}
