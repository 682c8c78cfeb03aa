//! Averages that were chosen after the training: their error over width, and over the window's start.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use super::axes::{Axis, BELOW, draw_axes, on_canvas, panel, range, short, whole};
use super::legend::{MARK, draw_legend};
use super::line::{BLUE, GREEN, Line, Mark, ORANGE, PURPLE, Shape, VERMILION};
use super::page::Section;
use super::picture::{Canvas, Drawing, Drawn, SIZE, px};
use super::wording::{grouped, signed};
use super::{Files, draw};
use crate::Failure;
use crate::post_hoc::{Candidate, PostHocFile, PostHocRun, Window};

/// The section of the file in `folder`, if there is one, with its picture in `files`.
///
/// # Errors
///
/// If the file cannot be read, or the picture not be drawn.
pub(super) fn section(folder: &Path, files: &mut Files) -> Result<Option<Section>, Failure> {
    let Some(file) = PostHocFile::read(folder)? else {
        return Ok(None);
    };
    let names = names(&file.runs);
    let picture = PostHocPicture {
        file: &file,
        names: &names,
    };
    let runs = file.runs.iter().zip(&names);
    Ok(Some(Section {
        title: "Error over width and window",
        figure: draw(&picture, "post-hoc".to_owned(), files)?,
        caption: caption(&file),
        sentences: runs.flat_map(|(run, name)| sentences(run, name)).collect(),
        command: file.origin.command.clone(),
        version: file.origin.version.clone(),
    }))
}

fn caption(file: &PostHocFile) -> String {
    // What differs between runs, in their order.
    let each = |value: fn(&PostHocRun) -> String| {
        let mut values: Vec<String> = Vec::new();
        for value in file.runs.iter().map(value) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values.join(", or ")
    };
    let left = match file.left() {
        0 => String::new(),
        left => format!(
            " {left} of {} averages are not scored yet.",
            left + file.scored()
        ),
    };
    format!(
        "Averages put together after the training, by their error on {} training images that were held out, BatchNorm re-estimated for \
         each from {}. Above: power-function averages over all steps, by their relative width. Below: means over the last epochs, by the \
         first of them. Dashed: the run's own average ({}).{left}",
        each(|run| grouped(run.validation_images)),
        each(|run| match run.batch_norm_batches {
            None => format!("{} training images", grouped(run.train_images)),
            Some(batches) => format!("{batches} batches"),
        }),
        each(|run| run.method.clone()),
    )
}

/// The best of a run, and what it is on test images.
fn sentences(run: &PostHocRun, name: &str) -> Vec<String> {
    let left = run.candidates.iter().filter(|it| it.validation.is_none());
    let left = left.count();
    if left > 0 {
        let all = run.candidates.len();
        return vec![format!(
            "{name}: {left} of {all} averages are not scored yet."
        )];
    }
    let best_of = |is_kind: fn(&Candidate) -> bool| {
        let scored = run.candidates.iter().filter(|it| is_kind(&it.candidate));
        let scored = scored.filter_map(|it| Some((it.candidate, it.validation?.error)));
        let best = scored.min_by(|(_, one), (_, other)| one.total_cmp(other));
        best.map(|(candidate, error)| format!("{candidate} {error:.2} %"))
    };
    let width = best_of(|it| matches!(it, Candidate::Width(_)));
    let window = best_of(|it| matches!(it, Candidate::Window(_)));
    let own = run
        .own
        .map(|own| format!("its own average {:.2} %", own.error));
    let least: Vec<String> = [width, window, own].into_iter().flatten().collect();
    let mut sentences = vec![format!(
        "{name}: the least errors on images that were held out are {}.",
        least.join(", ")
    )];
    if let Some(chosen) = &run.chosen {
        let (test, own) = (chosen.test.error, chosen.own_test.error);
        sentences.push(format!(
            "{name}: {}, chosen by them, has {test:.2} % on {} test images, and its own average {own:.2} % ({} points).",
            chosen.candidate,
            grouped(run.test_images),
            signed(test - own, 2),
        ));
    }
    sentences
}

/// A name for each run: its folder, and of the folders around it as many as tell it from the others.
fn names(runs: &[PostHocRun]) -> Vec<String> {
    let end = |run: &PostHocRun, parts: usize| -> PathBuf {
        let all = run.folder.components();
        let before = all.clone().count().saturating_sub(parts);
        all.skip(before).collect()
    };
    let names = runs.iter().map(|run| {
        if run.folder.file_name().is_none() {
            return "the run".to_owned();
        }
        let is_own = |parts: &usize| {
            let own = end(run, *parts);
            runs.iter()
                .filter(|other| end(other, *parts) == own)
                .count()
                == 1
        };
        let all = run.folder.components().count();
        let parts = (1..all).find(is_own).unwrap_or(all);
        end(run, parts).display().to_string()
    });
    names.collect()
}

/// The look of a run's lines. Those of fifty runs differ from each other.
fn line(index: usize) -> Line {
    let colors = [BLUE, VERMILION, GREEN, PURPLE, ORANGE];
    let mark = Mark {
        shape: Shape::ALL[(index + index / 10) % Shape::ALL.len()],
        open: index / 5 % 2 == 1,
    };
    Line {
        name: "run",
        color: colors[index % colors.len()],
        width: 2.0,
        dashes: None,
        mark: Some(mark),
    }
}

struct PostHocPicture<'a> {
    file: &'a PostHocFile,
    /// The names of the runs.
    names: &'a [String],
}

/// A panel.
struct Panel {
    x: Axis,
    /// The coordinate of a candidate, if it is there.
    coordinate: fn(&PostHocRun, &Candidate) -> Option<f64>,
}

/// The panels, from the top.
const PANELS: [Panel; 2] = [
    Panel {
        x: Axis {
            title: "relative width of the average",
            labels: 10,
            label: short,
        },
        coordinate: |_, candidate| match candidate {
            Candidate::Width(width) => Some(*width),
            Candidate::Window(_) => None,
        },
    },
    Panel {
        x: Axis {
            title: "first epoch of the average",
            labels: 10,
            label: whole,
        },
        coordinate: |run, candidate| match candidate {
            Candidate::Window(Window { after, upto }) if *upto == run.epochs => {
                Some((after + 1) as f64)
            }
            _ => None,
        },
    },
];

impl Drawing for PostHocPicture<'_> {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let names = self.names.iter().enumerate();
        let lines = names.map(|(index, name)| (name.clone(), line(index)));
        let legend = draw_legend(canvas, lines, None)?;
        let (_, panels) = canvas.split_vertically(px(legend));
        let height = (f64::from(SIZE.1) - legend) / 2.0;
        let (above, below) = panels.split_vertically(px(height));
        self.draw_panel(&above, &PANELS[0])?;
        self.draw_panel(&below, &PANELS[1])
    }
}

impl PostHocPicture<'_> {
    /// The points of a run in a panel, from left to right.
    fn points(run: &PostHocRun, panel: &Panel) -> Vec<(f64, f64)> {
        let points = run.candidates.iter().filter_map(|it| {
            let error = it.validation?.error;
            Some(((panel.coordinate)(run, &it.candidate)?, error))
        });
        let mut points: Vec<(f64, f64)> = points.filter(|(_, error)| error.is_finite()).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    }

    fn draw_panel<B: DrawingBackend>(&self, canvas: &Canvas<B>, shown: &Panel) -> Drawn<B> {
        let runs = self.file.runs.iter();
        let traces: Vec<_> = runs.map(|run| (run, Self::points(run, shown))).collect();
        let points = traces.iter().flat_map(|(_, points)| points);
        let own = traces.iter().filter_map(|(run, _)| Some(run.own?.error));
        let mut chart = panel(canvas, 8.0, BELOW).build_cartesian_2d(
            range(points.clone().map(|(x, _)| *x), 0.03),
            range(points.map(|(_, error)| *error).chain(own), 0.08),
        )?;
        let y = Axis {
            title: "error (%)",
            labels: 5,
            label: short,
        };
        draw_axes(&mut chart, &shown.x, &y)?;
        let ends = chart.x_range();
        for (index, (run, points)) in traces.iter().enumerate() {
            let line = line(index);
            if let Some(own) = run.own.filter(|own| own.error.is_finite()) {
                let dashed = Line {
                    width: 1.2,
                    dashes: Some((7.0, 5.0)),
                    mark: None,
                    ..line
                };
                let level = [ends.start, ends.end].map(|x| (x, own.error));
                chart.draw_series([dashed.path(level.to_vec())])?;
            }
            chart.draw_series([line.path(points.clone())])?;
            for point in points {
                if let Some(mark) = line.mark {
                    let at = on_canvas(canvas, &chart, *point);
                    mark.draw(canvas, at, MARK, line.color)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn post_hoc_json(second: &str) -> String {
        format!(
            r#"{{"origin":{{"command":"cifar average seed1","version":"1","burn_version":"2","device":"flex","machine":"m","started":"s"}},
            "runs":[{{"folder":"runs/seed1","checksum":7,"model":"preresnet-8","seed":1,"epochs":4,"method":"SGD, averaged from epoch 3 on",
            "train_images":4000,"validation_images":1000,"test_images":10000,"batch_norm_batches":null,"own":{{"loss":1.0,"error":40.0}},
            "candidates":[
              {{"width":0.1,"deviation":0.0,"validation":{{"loss":1.0,"error":41.25}}}},
              {{"window":{{"after":1,"upto":4}},"deviation":null,"validation":{second}}},
              {{"width":0.2,"deviation":0.1,"validation":{{"loss":null,"error":90.0}}}}],
            "chosen":{{"window":{{"after":1,"upto":4}},"file":"best-seed1.safetensors","test":{{"loss":1.0,"error":39.5}},
              "own_test":{{"loss":1.0,"error":40.0}}}}}}]}}"#
        )
    }

    #[test]
    fn the_section_says_the_best_on_held_out_images_and_its_test() {
        let folder = tempfile::tempdir().unwrap();
        let text = post_hoc_json(r#"{"loss":1.0,"error":39.75}"#);
        fs::write(folder.path().join("post_hoc.json"), text).unwrap();
        let mut files = Vec::new();
        let section = section(folder.path(), &mut files).unwrap().unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["post-hoc.svg", "post-hoc.png"]);
        assert_eq!(
            section.sentences,
            [
                "seed1: the least errors on images that were held out are width 0.1 41.25 %, epochs 2 to 4 39.75 %, its own average 40.00 %.",
                "seed1: epochs 2 to 4, chosen by them, has 39.50 % on 10000 test images, and its own average 40.00 % (−0.50 points).",
            ]
            .map(|sentence| sentence.replace("10000", "10\u{a0}000"))
        );
        let said = "error on 1000 training images that were held out";
        assert!(section.caption.contains(said), "{}", section.caption);
    }

    #[test]
    fn a_file_that_is_not_whole_is_drawn_as_far_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("post_hoc.json"), post_hoc_json("null")).unwrap();
        let section = section(folder.path(), &mut Files::new()).unwrap().unwrap();
        let said = "1 of 3 averages are not scored yet.";
        assert!(section.caption.ends_with(said), "{}", section.caption);
        assert_eq!(section.sentences, [format!("seed1: {said}")]);
    }

    #[test]
    fn runs_in_folders_of_one_name_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let text = post_hoc_json(r#"{"loss":1.0,"error":39.75}"#);
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut other = json["runs"][0].clone();
        other["folder"] = "more/seed1".into();
        other["validation_images"] = 500.into();
        other["method"] = "EMA".into();
        json["runs"].as_array_mut().unwrap().push(other);
        fs::write(folder.path().join("post_hoc.json"), json.to_string()).unwrap();
        let section = section(folder.path(), &mut Files::new()).unwrap().unwrap();
        let names = section
            .sentences
            .iter()
            .map(|it| it.split_once(':').unwrap().0);
        let names: Vec<&str> = names.collect();
        assert_eq!(
            names,
            ["runs/seed1", "runs/seed1", "more/seed1", "more/seed1"]
        );
        for said in [
            "on 1000, or 500 training images that were held out",
            "from 4000 training images. Above",
            "(SGD, averaged from epoch 3 on, or EMA)",
        ] {
            assert!(section.caption.contains(said), "{}", section.caption);
        }
    }

    #[test]
    fn fifty_runs_have_marks_that_differ() {
        let looks: Vec<_> = (0..50).map(line).collect();
        for (index, one) in looks.iter().enumerate() {
            for other in &looks[index + 1..] {
                assert!((one.color, one.mark) != (other.color, other.mark));
            }
        }
    }

    #[test]
    fn a_folder_without_the_file_has_no_section() {
        let folder = tempfile::tempdir().unwrap();
        assert!(section(folder.path(), &mut Vec::new()).unwrap().is_none());
        fs::write(folder.path().join("post_hoc.json"), "{}").unwrap();
        let error = section(folder.path(), &mut Vec::new()).err().unwrap();
        assert!(
            error.to_string().contains("does not hold averages"),
            "{error}"
        );
    }
}
