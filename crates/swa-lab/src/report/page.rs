//! The page: one file that loads no others.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::comparison::data_set_name;
use super::convergence::LINES;
use super::methods::{Methods, SCORES};
use super::published::NLL_EPOCHS;
use super::results::{FinishedRun, Results};
use super::table::{Column, Gain, Table};
use super::wording::{difference, grouped, listed, signed, span, spread, verdict};
use crate::Failure;
use crate::experiment::record::Method;
use crate::output::plural;

/// The contents of the page.
pub(crate) struct Page<'a> {
    pub(crate) results: &'a Results,
    pub(crate) table: &'a Table<'a>,
    /// The pictures of the rows.
    pub(crate) figures: &'a [Figures],
    /// The parts about further pictures.
    pub(crate) parts: &'a [Part],
    pub(crate) missing: &'a [String],
}

/// The pictures of a row, those that there is something to show in.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) convergence: Option<Figure>,
    pub(crate) reliability: Option<Figure>,
    pub(crate) members: Option<Figure>,
}

/// A picture on the page.
#[derive(Serialize)]
pub(crate) struct Figure {
    /// The text of the SVG file after `<svg `.
    svg: String,
    has_bands: bool,
    is_cut: bool,
}

/// A part of a report, which has a section for each picture.
#[derive(Serialize)]
pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) sections: Vec<Section>,
}

/// A picture with what it shows.
#[derive(Serialize)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) figure: Figure,
    /// The content of the picture, and the images it is of.
    pub(crate) caption: String,
    /// The numbers that it is about, each in a sentence.
    pub(crate) sentences: Vec<String>,
    /// The command that scored the first of its points.
    pub(crate) command: String,
    /// The version of the program that did.
    pub(crate) version: String,
}

impl Figure {
    /// A picture of a whole SVG file.
    pub(crate) fn of(svg: &str, has_bands: bool, is_cut: bool) -> Self {
        // A file of SVG must name its namespace. Within HTML, that is not needed.
        let svg = svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
        Self {
            svg: svg.replacen("<svg ", "", 1),
            has_bands,
            is_cut,
        }
    }
}

impl Page<'_> {
    /// The page, as HTML. The same results make the same bytes.
    pub(crate) fn html(&self) -> Result<String, Failure> {
        let Self { results, table, .. } = self;
        let columns = || table.rows.iter().flat_map(|row| &row.columns);
        let verdict_on =
            |gain: &Gain| verdict(gain.difference.points, gain.difference.beyond_noise);
        let gains = columns().filter_map(|column| column.gain.as_ref());
        let controlled = columns().filter_map(|column| column.gain_at_equal_cost.as_ref());
        let comparisons = table.rows.iter().zip(self.figures).map(|(row, figures)| {
            let run = row.comparison.record();
            let mut controls = row.columns.iter().filter(|column| column.is_control());
            let control = controls.rfind(|column| column.accuracy.is_some());
            context! {
                control => control.map(|column| column.heading),
                run => Serde(run),
                row => Serde(row),
                figure => Serde(&figures.convergence),
                reliability => Serde(&figures.reliability),
                members => Serde(&figures.members),
                methods => Serde(&row.methods),
                has_published => row.methods.as_ref().is_some_and(Methods::has_published),
                swa_from_swag => row.comparison.takes_swa_from_swag(),
                sgd => Serde(run.sgd.by_name()),
                swa_lr => run.swa_lr.map(|lr| lr.to_string()),
                slower => row.cost.slower(),
                larger => row.cost.larger(),
            }
        });
        let runs = results.finished.iter();
        let runs = runs.map(|run| {
            let method_name = run.record.method.name();
            context! { time => time(run), method_name, ..Serde(&run.record) }
        });
        let unfinished = results.unfinished.iter();
        let unfinished = unfinished.map(|(name, epochs)| (name, epochs.values().next_back()));
        let tables = table.rows.chunk_by(|a, b| a.data_set == b.data_set);
        let tables = tables.map(|rows| {
            let headings = rows[0].columns.iter().map(|column| column.heading);
            context! { rows => Serde(rows), headings => headings.collect::<Vec<_>>() }
        });
        let methods = || table.rows.iter().filter_map(|row| row.methods.as_ref());
        let fge = || columns().filter(|column| column.method == Method::Fge);
        let page = context! {
            has_methods => methods().next().is_some(),
            has_control => columns().any(Column::is_control),
            has_fge => fge().next().is_some(),
            has_published_fge => fge().any(|column| column.published.is_some()),
            has_nll => methods().any(Methods::has_published),
            css => include_str!("page.css"),
            version => env!("CARGO_PKG_VERSION"),
            scores => Serde(SCORES.map(|column| (column.heading, column.decimals))),
            nll_epochs => NLL_EPOCHS,
            line_names => Serde(LINES.map(|line| line.name)),
            verdicts => gains.map(verdict_on).collect::<Vec<_>>(),
            controlled => controlled.map(verdict_on).collect::<Vec<_>>(),
            tables => tables.collect::<Vec<_>>(),
            comparisons => comparisons.collect::<Vec<_>>(),
            parts => Serde(self.parts),
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
    environment.add_filter("listed", |numbers: Vec<u64>| listed(&numbers));
    environment.add_filter("plural", plural);
    environment.add_filter("signed", signed);
    environment.add_filter("span", span);
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
        let figure = || Some(Figure::of("<svg ></svg>", false, false));
        let figures = [Figures {
            convergence: figure(),
            reliability: figure(),
            members: figure(),
        }];
        let page = Page {
            results: &results,
            table: &Table::of(&comparisons),
            figures: &figures,
            parts: &[Part {
                title: "Geometry",
                sections: vec![Section {
                    title: "a plane",
                    figure: Figure::of("<svg ></svg>", false, false),
                    caption: evil.to_owned(),
                    sentences: vec![evil.to_owned()],
                    command: evil.to_owned(),
                    version: evil.to_owned(),
                }],
            }],
            missing: &[evil.to_owned()],
        };
        let html = page.html().unwrap();
        assert!(!html.contains("<script"), "{html}");
        let text = "&lt;script&gt;alert(&quot;1&quot;) &amp; &#39;2&#39;&lt;/script&gt;";
        assert!(html.matches(text).count() > 10, "{html}");
    }
}
