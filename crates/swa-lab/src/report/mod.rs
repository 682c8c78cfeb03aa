//! The report of an experiment: a page, pictures and a table, made from its results alone.

mod axes;
mod comparison;
mod convergence;
mod cost;
mod curve;
#[cfg(test)]
mod fixture;
mod landscape;
mod legend;
mod line;
mod members;
mod methods;
mod missing;
mod page;
mod picture;
mod post_hoc;
mod predictor;
mod published;
mod reliability;
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
use members::MemberCurves;
use page::{Figure, Figures, Page, Part, Section};
use picture::{Drawing, Picture};
use reliability::Reliability;
use results::Results;
use table::Table;

pub use landscape::{Kind, contour_levels};

/// Files to be written: their names and contents.
type Files = Vec<(String, Vec<u8>)>;

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

    let mut files = Files::new();
    let mut figures = Vec::new();
    let mut names = HashSet::new();
    for row in &table.rows {
        let name = file_name(row.comparison.record(), &mut names);
        let mut found = Figures::default();
        if let Some(plot) = Convergence::of(row.comparison) {
            let name = format!("convergence-{name}");
            found.convergence = Some(draw(&plot, name, &mut files)?);
        }
        if let Some(methods) = &row.methods {
            if let Some(diagram) = Reliability::of(methods) {
                let name = format!("reliability-{name}");
                found.reliability = Some(draw(&diagram, name, &mut files)?);
            }
            if let Some(curves) = MemberCurves::of(methods) {
                let name = format!("members-{name}");
                found.members = Some(draw(&curves, name, &mut files)?);
            }
        }
        figures.push(found);
    }
    let mut landscape = Vec::new();
    for kind in Kind::ALL {
        landscape.extend(kind.section(folder, &mut files)?);
    }
    let post_hoc = post_hoc::section(folder, &mut files)?;
    let mut parts = vec![
        Part {
            title: "Geometry",
            sections: landscape,
        },
        Part {
            title: "Averages chosen after the training",
            sections: post_hoc.into_iter().collect(),
        },
    ];
    parts.retain(|part| !part.sections.is_empty());
    let page = Page {
        results: &results,
        table: &table,
        figures: &figures,
        parts: &parts,
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
    say_sections(parts.iter().flat_map(|part| &part.sections));
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

/// Draws the picture of the points in `folder` into it, and prints what it shows.
///
/// # Errors
///
/// If the file of points cannot be read, or the picture not be written.
pub fn write_landscape(folder: &Path, kind: Kind) -> Result<(), Failure> {
    write_section(folder, |files| kind.section(folder, files))
}

/// Draws the picture of the averages in `folder` that were chosen after a training, and prints what it shows.
///
/// # Errors
///
/// If their file cannot be read, or the picture not be written.
pub fn write_post_hoc(folder: &Path) -> Result<(), Failure> {
    write_section(folder, |files| post_hoc::section(folder, files))
}

fn write_section(
    folder: &Path,
    section: impl FnOnce(&mut Files) -> Result<Option<Section>, Failure>,
) -> Result<(), Failure> {
    let mut files = Files::new();
    say_sections(section(&mut files)?.iter());
    say("");
    for (name, content) in &files {
        let file = folder.join(name);
        write_whole(&file, content)?;
        say(format!("written: {}", file.display()));
    }
    Ok(())
}

fn say_sections<'a>(sections: impl Iterator<Item = &'a Section>) {
    for section in sections {
        say("");
        say(section.title);
        for sentence in &section.sentences {
            say(format!("  {sentence}"));
        }
    }
}

/// Adds a picture to the files, in both formats, and returns it as the page shows it.
fn draw(drawing: &impl Drawing, name: String, files: &mut Files) -> Result<Figure, Failure> {
    let Picture { svg, png } = Picture::of(drawing)?;
    let figure = Figure::of(&svg, drawing.has_bands(), drawing.is_cut());
    files.push((format!("{name}.svg"), svg.into_bytes()));
    files.push((format!("{name}.png"), png));
    Ok(figure)
}

/// The end of the names of a comparison's pictures, without the extension. No other comparison has it.
fn file_name(run: &RunRecord, names: &mut HashSet<String>) -> String {
    // The results may come from anywhere: a name in them must not lead out of the folder.
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let name = format!("{}-{}", plain(&run.data_set), plain(&run.model));
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut candidates = std::iter::once(name.clone()).chain(numbered);
    let free = candidates.find(|name| names.insert(name.clone()));
    free.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::{Method, PredictingModels, Record};
    use fixture::{line, method_run, run_record};

    #[test]
    fn every_picture_has_a_name_of_its_own_in_the_folder() {
        let mut names = HashSet::new();
        let run = run_record("any");
        let name = file_name(&run, &mut names);
        assert_eq!(name, "cifar10-vgg16-bn");
        assert_eq!(file_name(&run, &mut names), format!("{name}-2"));

        let elsewhere = RunRecord {
            data_set: "../../home".to_owned(),
            ..run
        };
        let name = file_name(&elsewhere, &mut names);
        assert_eq!(name, "------home-vgg16-bn");
    }

    #[test]
    fn a_report_of_methods_has_their_table_and_pictures() {
        let members = [[55.0, 1.5, 0.6, 0.2], [61.5, 1.0, 0.5, 0.05]];
        let sgd = method_run(
            Method::Sgd,
            1,
            PredictingModels::Live,
            &[[60.0, 1.25, 0.6, 0.1]],
        );
        let runs = [
            sgd,
            method_run(Method::Fge, 1, PredictingModels::Members, &members),
        ];
        let folder = tempfile::tempdir().unwrap();
        let lines = runs.into_iter().flat_map(|run| {
            let epochs = run.epochs.into_values().map(|mut epoch| {
                epoch.run.clone_from(&run.record.run);
                Record::Evaluation(epoch)
            });
            let predictions = run.predictions.into_iter().map(Record::Predictions);
            let records = epochs.chain(predictions);
            let records = records.chain([Record::Run(run.record.clone())]);
            records.map(|record| line(&record)).collect::<Vec<_>>()
        });
        let lines: String = lines.collect();
        std::fs::write(folder.path().join("results.jsonl"), lines).unwrap();
        write(folder.path()).unwrap();

        for kind in ["convergence", "reliability", "members"] {
            for extension in ["svg", "png"] {
                let name = format!("{kind}-cifar10-vgg16-bn.{extension}");
                assert!(folder.path().join(&name).is_file(), "{name}");
            }
        }
        let table = std::fs::read(folder.path().join(TABLE)).unwrap();
        let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
        let row = &table["rows"][0];
        assert_eq!(row["columns"][1]["method"], "fge");
        assert_eq!(row["columns"][1]["accuracy"]["mean"], 61.5);
        let fge = &row["methods"][1];
        assert_eq!(
            (&fge["name"], &fge["nll"]["best"]),
            (&"FGE".into(), &true.into())
        );
        assert_eq!(fge["networks"]["most"], 2.0);

        let page = std::fs::read_to_string(folder.path().join(PAGE)).unwrap();
        assert_eq!(page.matches("<svg ").count(), 3);
        for text in [
            "<strong>★ 61.50</strong>",
            "<td class=\"number\">60.00</td>",
            "<strong>★ 0.050</strong>",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }
}
