//! The page: one file that loads no others.

use super::comparison::{Comparison, data_set_name};
use super::convergence::{Convergence, NAMES};
use super::published::{CODE, PAPER};
use super::results::{FinishedRun, Results};
use super::statistics::Sample;
use super::table::{Column, Row, Table};
use super::wording::{self, grouped, signed};
use crate::experiment::record::{Method, RunRecord};
use crate::run::config::EvaluateOn;

/// The contents of the page.
pub(crate) struct Page<'a> {
    pub(crate) results: &'a Results,
    pub(crate) comparisons: &'a [Comparison<'a>],
    pub(crate) table: &'a Table,
    /// The convergence plots of the comparisons that have epochs to show.
    pub(crate) figures: &'a [Option<Figure>],
    pub(crate) missing: &'a [String],
}

/// A plot on the page.
pub(crate) struct Figure {
    pub(crate) svg: String,
    pub(crate) plot: Convergence,
}

/// A function that looks up a fact in the record of a run.
type Fact = fn(&RunRecord) -> &str;

impl Page<'_> {
    /// The page, as HTML. The same results make the same bytes.
    pub(crate) fn html(&self) -> String {
        let sections = [
            ("Test accuracy", self.accuracies()),
            ("Convergence", self.convergence()),
            ("What SWA cost", self.costs()),
            ("How the numbers were made", self.making()),
            ("What is missing or under way", self.missing_or_under_way()),
        ];
        let sections = sections
            .map(|(title, content)| format!("<section>\n<h2>{title}</h2>\n{content}</section>\n"));
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>SWA against SGD: report of an experiment</title>\n\
             <style>\n{}</style>\n</head>\n<body>\n<main>\n\
             <h1>Stochastic Weight Averaging against SGD</h1>\n{}{}\
             <footer class=\"note\"><p>Izmailov, Podoprikhin, Garipov, Vetrov, Wilson: \
             <a href=\"{PAPER}\">Averaging Weights Leads to Wider Optima and Better Generalization</a>, \
             UAI 2018. Published numbers: the results in the README of the \
             <a href=\"{CODE}\">authors’ code</a>. Report by cifar {}.</p></footer>\n</main>\n</body>\n</html>\n",
            include_str!("page.css"),
            self.summary(),
            sections.concat(),
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// The summary of the report, in a sentence.
    fn summary(&self) -> String {
        let runs = plural(self.results.finished.len(), "finished run");
        let columns = self.table.rows.iter().flat_map(|row| &row.columns);
        let gains: Vec<_> = columns.filter_map(|column| column.gain.as_ref()).collect();
        if gains.is_empty() {
            return format!("<p>{runs}. There is no SWA beside SGD to compare yet.</p>\n");
        }
        let count = |verdict| {
            let said = gains.iter().map(|gain| wording::verdict(gain));
            said.filter(|said| *said == verdict).count()
        };
        let unknown = match count("spread not known") {
            0 => String::new(),
            count => format!(", and of {count} the spread is not known"),
        };
        format!(
            "<p>{runs}. Of {}, SWA is better than SGD beyond the noise in <strong>{}</strong>, worse \
             in <strong>{}</strong>, and within the noise in <strong>{}</strong>{unknown}.</p>\n",
            plural(gains.len(), "comparison"),
            count("better"),
            count("worse"),
            count("within the noise"),
        )
    }

    fn accuracies(&self) -> String {
        let mut html = String::new();
        let rows = &self.table.rows;
        for rows in rows.chunk_by(|a, b| a.data_set == b.data_set) {
            html += &accuracy_table(rows);
        }
        html + "<p class=\"note\">Mean ± sample standard deviation over seeds, of which there are n. \
            SGD is its last model, SWA its average, with BatchNorm re-estimated, after so many budgets, to \
            the nearest epoch, of one run. <b>SWA − SGD</b> is in percentage points, and in standard errors \
            (s.e.): (m₁ − m₂) / √(s₁²/n₁ + s₂²/n₂), Welch’s t, because the question is whether the means \
            differ. <b>Better</b> or <b>worse</b> is what chance alone would bring about less than once in \
            twenty times (Student’s t, two-sided, at Welch’s degrees of freedom); all else is within the \
            noise. <b>Ours − paper</b> is in standard deviations (s.d.): (m₁ − m₂) / √(s₁² + s₂²), because \
            the number of runs behind a published deviation is not given with it. \
            Published numbers stand only beside the paper’s own experiment: its network at full width, its \
            images, its budget. The same numbers, unrounded, are in <code>table.json</code>.</p>\n"
    }

    fn convergence(&self) -> String {
        let mut html = String::new();
        for (comparison, figure) in self.comparisons.iter().zip(self.figures) {
            let title = format!(
                "{} on {}",
                comparison.network(),
                data_set_name(&comparison.record().data_set)
            );
            html += &format!("<h3>{}</h3>\n", escaped(&title));
            html += &match figure {
                Some(figure) => figure.html(&title, comparison),
                None => "<p>There is no record of an epoch.</p>\n".to_owned(),
            };
        }
        if html.is_empty() {
            html += "<p>There is no finished run yet.</p>\n";
        }
        html
    }

    fn costs(&self) -> String {
        let number = |sample: Option<Sample>, decimals: usize| match sample {
            None => "–".to_owned(),
            Some(Sample {
                mean, deviation, ..
            }) => match deviation {
                None => format!("{mean:.decimals$}"),
                Some(deviation) => format!("{mean:.decimals$} ± {deviation:.decimals$}"),
            },
        };
        let percent = |value: Option<f64>| match value {
            None => "–".to_owned(),
            Some(value) => format!("{} %", signed(value, 1)),
        };
        let mut rows = String::new();
        for row in &self.table.rows {
            let cost = &row.cost;
            let short = cost.sgd_seconds.is_some_and(|seconds| seconds.mean < 10.0);
            let decimals = if short { 2 } else { 1 };
            let cells = [
                number(cost.sgd_seconds, decimals),
                number(cost.swa_seconds, decimals),
                percent(cost.slower()),
                number(cost.reestimation_share, 1),
                number(cost.sgd_memory_mib, 0),
                number(cost.swa_memory_mib, 0),
                percent(cost.larger()),
            ];
            rows += &format!(
                "<tr><th scope=\"rowgroup\">{}<br><small>{}</small></th>{}</tr>\n",
                escaped(&row.network),
                escaped(data_set_name(&row.data_set)),
                cells
                    .map(|cell| format!("<td class=\"number\">{cell}</td>"))
                    .concat(),
            );
        }
        format!(
            "<div class=\"scroll\"><table>\n<thead><tr><th rowspan=\"2\">network</th>\
             <th colspan=\"4\">seconds of an epoch</th><th colspan=\"3\">peak memory (MiB)</th></tr>\n\
             <tr><th class=\"number\">SGD</th><th class=\"number\">SWA</th>\
             <th class=\"number\">more</th><th class=\"number\">of it BatchNorm<br>re-estimation (%)</th>\
             <th class=\"number\">SGD</th><th class=\"number\">SWA</th><th class=\"number\">more</th>\
             </tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n\
             <p class=\"note\">An epoch is training and testing together. Of SWA, those epochs count in \
             which weights were averaged and both the average and the live model were tested. Of each run \
             the median over the epochs that it did not share with another; mean ± sample standard \
             deviation over runs. Peak memory is that of the process, as the system tells it.</p>\n"
        )
    }

    fn making(&self) -> String {
        let Some(first) = self.results.finished.first() else {
            return "<p>There is no finished run yet.</p>\n".to_owned();
        };
        let heading = |(name, _)| format!("<th class=\"number\">{name}</th>");
        let sgd = first.record.sgd.by_name().map(heading).concat();
        let mut settings = String::new();
        for comparison in self.comparisons {
            settings += &settings_row(comparison);
        }
        let runs: String = self.results.finished.iter().map(run_row).collect();
        let facts: [(&str, Fact); 5] = [
            ("Command", |run| &run.command),
            ("Version of cifar", |run| &run.version),
            ("Version of Burn", |run| &run.burn_version),
            ("Device", |run| &run.device),
            ("Machine", |run| &run.machine),
        ];
        let facts = facts.map(|(name, value)| self.fact(name, value)).concat();
        format!(
            "<dl>\n{facts}</dl>\n\
             <div class=\"scroll\"><table class=\"runs\">\n<caption>Settings</caption>\n<thead><tr>\
             <th>network</th><th>data</th><th class=\"number\">images to train on</th>\
             <th class=\"number\">to test on</th><th class=\"number\">epochs in a budget</th>\
             {sgd}<th class=\"number\">averaged from epoch</th><th class=\"number\">SWA learning rate</th>\
             </tr></thead>\n<tbody>\n{settings}</tbody>\n</table></div>\n\
             <div class=\"scroll\"><table class=\"runs\">\n<caption>Runs</caption>\n<thead><tr>\
             <th>run</th><th>method</th><th class=\"number\">seed</th><th class=\"number\">epochs</th>\
             <th class=\"number\">of them shared</th><th class=\"number\">time</th><th>began</th>\
             <th>ended</th></tr></thead>\n<tbody>\n{runs}</tbody>\n</table></div>\n\
             <p class=\"note\">Shared epochs were trained by another run, which begins alike. The time is \
             that of the other epochs, in hours and minutes.</p>\n"
        )
    }

    /// A fact about the runs, written once if it is the same for all.
    fn fact(&self, name: &str, value: Fact) -> String {
        let records = || self.results.finished.iter().map(|run| &run.record);
        let mut values: Vec<&str> = records().map(value).collect();
        values.sort_unstable();
        values.dedup();
        let mut html = format!("<dt>{name}</dt>\n");
        for one in &values {
            html += &format!("<dd><code>{}</code>", escaped(one));
            if values.len() > 1 {
                let runs = records().filter(|run| value(run) == *one);
                let runs: Vec<&str> = runs.map(|run| run.run.as_str()).collect();
                html += &format!(" <small>{}</small>", escaped(&runs.join(", ")));
            }
            html += "</dd>\n";
        }
        html
    }

    fn missing_or_under_way(&self) -> String {
        let unfinished = &self.results.unfinished;
        if self.missing.is_empty() && unfinished.is_empty() {
            return "<p>Nothing: every run is finished, and every epoch has its record.</p>\n"
                .to_owned();
        }
        let mut html = String::new();
        if !self.missing.is_empty() {
            let items = self.missing.iter();
            let items: String = items
                .map(|sentence| format!("<li>{}</li>\n", escaped(sentence)))
                .collect();
            html += &format!("<ul>\n{items}</ul>\n");
        }
        if !unfinished.is_empty() {
            let mut rows = String::new();
            for (name, epochs) in unfinished {
                let last = epochs.values().next_back();
                let error = |error: Option<f64>| {
                    error.map_or_else(|| "–".to_owned(), |error| format!("{error:.2}"))
                };
                rows += &format!(
                    "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
                     <td class=\"number\">{}</td></tr>\n",
                    escaped(name),
                    last.map_or(0, |epoch| epoch.epoch),
                    error(last.map(|epoch| epoch.live_test_error)),
                    error(last.and_then(|epoch| epoch.swa_test_error)),
                );
            }
            html += &format!(
                "<div class=\"scroll\"><table class=\"runs\">\n<caption>Unfinished runs</caption>\n<thead>\
                 <tr><th>run</th><th class=\"number\">last epoch</th>\
                 <th class=\"number\">test error (%), live</th>\
                 <th class=\"number\">test error (%), SWA average</th></tr></thead>\n\
                 <tbody>\n{rows}</tbody>\n</table></div>\n\
                 <p class=\"note\">Unfinished runs are in none of the tables and pictures above.</p>\n"
            );
        }
        html
    }
}

impl Figure {
    fn html(&self, title: &str, comparison: &Comparison<'_>) -> String {
        let [sgd, swa, live] = NAMES;
        let mut caption = format!("Test error of {sgd}, of the {swa} and of the {live}");
        if let Some(averaging) = comparison.averaging() {
            caption += &format!(" ({averaging})");
        }
        caption += ", and the learning rate of SGD and of the live models.";
        if self.plot.has_bands() {
            caption += " Lines are means over seeds, bands reach from the least to the most.";
        }
        caption += " Points are the numbers of the table.";
        if self.plot.is_cut() {
            caption += " The first epochs lie above the picture.";
        }
        let label = format!(
            "<svg role=\"img\" aria-label=\"Convergence plot of {}\" ",
            escaped(title)
        );
        // A file of SVG must name its namespace. Within HTML, that is not needed.
        let svg = self
            .svg
            .replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
        let svg = svg.replacen("<svg ", &label, 1);
        format!(
            "<figure>\n{svg}\n<figcaption>{}</figcaption>\n</figure>\n",
            escaped(&caption)
        )
    }
}

fn accuracy_table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let headings = first.columns.each_ref().map(|column| {
        let heading = column.heading();
        format!("<th scope=\"col\">{}</th>", heading.replace(", ", "<br>"))
    });
    let bodies: String = rows.iter().map(accuracy_rows).collect();
    format!(
        "<div class=\"scroll\"><table>\n<caption>{}: test accuracy (%)</caption>\n<thead><tr>\
         <th scope=\"col\">network</th><td></td>{}</tr></thead>\n{bodies}</table></div>\n",
        escaped(data_set_name(&first.data_set)),
        headings.concat(),
    )
}

fn accuracy_rows(row: &Row) -> String {
    let cells = |cell: &dyn Fn(&Column) -> Option<String>| {
        let cells = row.columns.each_ref().map(|column| {
            let empty = || "–".to_owned();
            format!("<td>{}</td>", cell(column).unwrap_or_else(empty))
        });
        cells.concat()
    };
    let ours = cells(&|column| {
        let accuracy = column.accuracy.as_ref()?;
        Some(format!(
            "{} <small>n&nbsp;=&nbsp;{}</small>",
            wording::sample(accuracy),
            accuracy.n
        ))
    });
    let mut lines = vec![("ours", ours)];
    if row.columns.iter().any(|column| column.gain.is_some()) {
        let gains = cells(&|column| match (&column.gain, column.method) {
            (_, Method::Sgd) => Some(String::new()),
            (None, _) => None,
            (Some(gain), _) => {
                let verdict = wording::verdict(gain);
                let verdict = match gain.difference.beyond_noise {
                    Some(true) => format!("<strong>{verdict}</strong>"),
                    _ => verdict.to_owned(),
                };
                let seeds = match gain.common_seeds {
                    0 => String::new(),
                    common => format!(
                        "<br><small>higher in {} of {}</small>",
                        gain.better_seeds,
                        plural(common, "seed")
                    ),
                };
                Some(format!("{}<br>{verdict}{seeds}", wording::gain(gain)))
            }
        });
        lines.push(("SWA − SGD", gains));
    }
    match &row.unpublished {
        Some(reason) => lines.push((
            "paper",
            format!(
                "<td colspan=\"4\" class=\"reason\"><small>none: {}</small></td>",
                escaped(reason)
            ),
        )),
        None => {
            let published = |column: &Column| column.published.as_ref().map(wording::published);
            lines.push(("paper", cells(&published)));
            let distance = |column: &Column| column.less_published.as_ref().map(wording::distance);
            lines.push(("ours − paper", cells(&distance)));
        }
    }
    let network = format!(
        "<th scope=\"rowgroup\" rowspan=\"{}\">{}<br><small>{}</small></th>",
        lines.len(),
        escaped(&row.network),
        [
            Some(format!("budget: {} epochs", row.budget)),
            Some(format!("{} training images", grouped(row.train_images))),
            (row.evaluate_on == EvaluateOn::Validation).then(|| {
                let images = grouped(row.test_images);
                format!("scores are on {images} held-out training images, not on the test images")
            }),
            row.averaging.clone(),
        ]
        .into_iter()
        .flatten()
        .map(|line| escaped(&line))
        .collect::<Vec<_>>()
        .join("<br>"),
    );
    let mut html = String::from("<tbody>\n");
    for (index, (name, cells)) in lines.iter().enumerate() {
        let (class, network) = match index {
            0 => (" class=\"main\"", network.as_str()),
            _ => ("", ""),
        };
        html += &format!("<tr{class}>{network}<th scope=\"row\">{name}</th>{cells}</tr>\n");
    }
    html + "</tbody>\n"
}

fn settings_row(comparison: &Comparison<'_>) -> String {
    let run = comparison.record();
    let text = |text: &str| format!("<td>{}</td>", escaped(text));
    let number = |number: String| format!("<td class=\"number\">{number}</td>");
    let none = || "–".to_owned();
    format!(
        "<tr>{}{}{}{}{}{}{}{}</tr>\n",
        text(&comparison.network()),
        text(data_set_name(&run.data_set)),
        number(grouped(run.train_images)),
        number(grouped(run.test_images)),
        number(run.budget.to_string()),
        run.sgd.by_name().map(|(_, value)| number(value)).concat(),
        number(run.swa_start.map_or_else(none, |start| start.to_string())),
        number(run.swa_lr.map_or_else(none, |lr| lr.to_string())),
    )
}

fn run_row(run: &FinishedRun) -> String {
    let record = &run.record;
    let method = match record.method {
        Method::Sgd => "SGD",
        Method::Swa => "SWA",
    };
    let own = run.epochs.range(record.shared_epochs + 1..);
    let minutes = own.map(|(_, epoch)| epoch.seconds).sum::<f64>() / 60.0;
    let minutes = minutes.round() as u64;
    format!(
        "<tr><td>{}</td><td>{method}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
         <td class=\"number\">{}</td><td class=\"number\">{}:{:02}</td><td>{}</td><td>{}</td></tr>\n",
        escaped(&record.run),
        record.seed,
        record.epochs,
        record.shared_epochs,
        minutes / 60,
        minutes % 60,
        escaped(&record.started),
        escaped(&record.finished),
    )
}

/// Such as `1 run`, `2 runs`.
fn plural(count: usize, name: &str) -> String {
    match count {
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    }
}

/// Escapes text for HTML, between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let figures = [Convergence::of(&comparisons[0]).map(|plot| Figure {
            svg: "<svg ></svg>".to_owned(),
            plot,
        })];
        let page = Page {
            results: &results,
            comparisons: &comparisons,
            table: &Table::of(&comparisons),
            figures: &figures,
            missing: &[evil.to_owned()],
        };
        let html = page.html();
        assert!(!html.contains("<script"), "{html}");
        let text = "&lt;script&gt;alert(&quot;1&quot;) &amp; &#39;2&#39;&lt;/script&gt;";
        assert!(html.matches(text).count() > 10, "{html}");
    }
}
