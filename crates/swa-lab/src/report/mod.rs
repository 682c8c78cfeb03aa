//! The report of an experiment: a page, pictures and a table, made from its results alone.

mod comparison;
mod convergence;
mod cost;
mod curve;
#[cfg(test)]
mod fixture;
mod missing;
mod page;
mod picture;
mod published;
mod results;
mod statistics;
mod table;
mod text;
mod wording;

use std::collections::HashSet;
use std::path::Path;

use crate::Failure;
use crate::experiment::record::RunRecord;
use crate::output::say;
use crate::run::directory::write_whole;
use comparison::Comparison;
use convergence::Convergence;
use page::{Figure, Page};
use picture::Picture;
use results::Results;
use table::Table;

/// The page.
const PAGE: &str = "report.html";
/// The table for other programs.
const TABLE: &str = "table.json";

/// Writes the report of the experiment in `folder` to it, and prints its table.
///
/// # Errors
///
/// If there are no results, one of them cannot be read, or the report cannot be written.
pub fn write(folder: &Path) -> Result<(), Failure> {
    let results = Results::read(folder)?;
    let comparisons = Comparison::all(&results.finished);
    let table = Table::of(&comparisons);
    let missing = missing::sentences(&results, &table);

    let mut files = Vec::new();
    let mut figures = Vec::new();
    let mut names = HashSet::new();
    for comparison in &comparisons {
        let Some(plot) = Convergence::of(comparison) else {
            figures.push(None);
            continue;
        };
        let picture = Picture::of(&plot)?;
        let name = file_name(comparison.record(), &mut names);
        figures.push(Some(Figure::of(&plot, &picture.svg)));
        files.push((format!("{name}.svg"), picture.svg.into_bytes()));
        files.push((format!("{name}.png"), picture.png));
    }
    let page = Page {
        results: &results,
        table: &table,
        figures: &figures,
        missing: &missing,
    };
    files.push((TABLE.to_owned(), serde_json::to_vec_pretty(&table)?));
    files.push((PAGE.to_owned(), page.html()?.into_bytes()));
    for (name, content) in &files {
        write_whole(&folder.join(name), content)?;
    }

    for line in text::lines(&table) {
        say(line);
    }
    for sentence in &missing {
        say(format!("missing: {sentence}"));
    }
    for (name, epochs) in &results.unfinished {
        say(format!("missing: {name}: {} epochs so far.", epochs.len()));
    }
    say("");
    for (name, _) in &files {
        say(format!("written: {}", folder.join(name).display()));
    }
    Ok(())
}

/// The name of a comparison's picture, without the extension. No other comparison has it.
fn file_name(run: &RunRecord, names: &mut HashSet<String>) -> String {
    // The results may come from anywhere: a name in them must not lead out of the folder.
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let name = format!("convergence-{}-{}", plain(&run.data_set), plain(&run.model));
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut candidates = std::iter::once(name.clone()).chain(numbered);
    let free = candidates.find(|name| names.insert(name.clone()));
    free.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fixture::run_record;

    #[test]
    fn every_picture_has_a_name_of_its_own_in_the_folder() {
        let mut names = HashSet::new();
        let run = run_record("any");
        let name = file_name(&run, &mut names);
        assert_eq!(name, "convergence-cifar10-vgg16-bn");
        assert_eq!(file_name(&run, &mut names), format!("{name}-2"));

        let elsewhere = RunRecord {
            data_set: "../../home".to_owned(),
            ..run
        };
        assert_eq!(
            file_name(&elsewhere, &mut names),
            "convergence-------home-vgg16-bn"
        );
    }
}
