//! Averages that were chosen after the training: their error over width, and over the window's start.

use std::path::Path;

use plotters::prelude::*;

use super::axes::{Axis, LEFT, MARGIN, RIGHT, draw_axes, on_canvas, range, short, whole};
use super::draw;
use super::legend::{LEGEND_HEIGHT, MARK, draw_legend};
use super::line::{BLUE, GREEN, Line, Mark, ORANGE, PURPLE, Shape, VERMILION};
use super::page::Figure;
use super::picture::{Canvas, Drawing, Drawn, SIZE, px};
use super::section::Section;
use super::wording::{grouped, signed};
use crate::Failure;
use crate::post_hoc::{Candidate, PostHocFile, PostHocRun, Window};

/// The section of the file in `folder`, if there is one, with its picture in `files`.
///
/// # Errors
///
/// If the file cannot be read, or the picture not be drawn.
pub(super) fn section(
    folder: &Path,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<Section>, Failure> {
    let Some(file) = PostHocFile::read(folder)? else {
        return Ok(None);
    };
    let svg = draw(&PostHocPicture { file: &file }, "post-hoc", files)?;
    Ok(Some(Section {
        title: "Error over width and window",
        figure: Figure::of(&svg, false, false),
        caption: caption(&file),
        sentences: file.runs.iter().flat_map(sentences).collect(),
        command: file.origin.command.clone(),
        version: file.origin.version.clone(),
    }))
}

fn caption(file: &PostHocFile) -> String {
    let run = &file.runs[0];
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
        grouped(run.validation_images),
        match run.batch_norm_batches {
            None => format!("{} training images", grouped(run.train_images)),
            Some(batches) => format!("{batches} batches"),
        },
        run.method,
    )
}

/// The best of a run, and what it is on test images.
fn sentences(run: &PostHocRun) -> Vec<String> {
    let name = run_name(run);
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

fn run_name(run: &PostHocRun) -> String {
    let folder = run.folder.file_name();
    folder.map_or_else(
        || "the run".to_owned(),
        |it| it.to_string_lossy().into_owned(),
    )
}

/// The look of a run's lines.
fn line(index: usize) -> Line {
    let looks = [
        (BLUE, Shape::Circle),
        (VERMILION, Shape::Square),
        (GREEN, Shape::Triangle),
        (PURPLE, Shape::Diamond),
        (ORANGE, Shape::Tip),
    ];
    let (color, shape) = looks[index % looks.len()];
    let open = index >= looks.len();
    Line {
        name: "run",
        color,
        width: 2.0,
        dashes: None,
        mark: Some(Mark { shape, open }),
    }
}

struct PostHocPicture<'a> {
    file: &'a PostHocFile,
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
        let (legend, panels) = canvas.split_vertically(px(LEGEND_HEIGHT));
        let runs = self.file.runs.iter().enumerate();
        draw_legend(
            &legend,
            runs.map(|(index, run)| (run_name(run), line(index))),
            None,
        )?;
        let height = (f64::from(SIZE.1) - LEGEND_HEIGHT) / 2.0;
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

    fn draw_panel<B: DrawingBackend>(&self, canvas: &Canvas<B>, panel: &Panel) -> Drawn<B> {
        let runs = self.file.runs.iter();
        let traces: Vec<_> = runs.map(|run| (run, Self::points(run, panel))).collect();
        let points = traces.iter().flat_map(|(_, points)| points);
        let own = traces.iter().filter_map(|(run, _)| Some(run.own?.error));
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(px(8.0))
            .margin_left(px(MARGIN))
            .margin_right(px(RIGHT))
            .margin_bottom(px(MARGIN))
            .x_label_area_size(px(46.0))
            .y_label_area_size(px(LEFT - MARGIN))
            .build_cartesian_2d(
                range(points.clone().map(|(x, _)| *x), 0.03),
                range(points.map(|(_, error)| *error).chain(own), 0.08),
            )?;
        let y = Axis {
            title: "error (%)",
            labels: 5,
            label: short,
        };
        draw_axes(&mut chart, &panel.x, &y)?;
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
        let section = section(folder.path(), &mut Vec::new()).unwrap().unwrap();
        assert!(
            section
                .caption
                .contains("1 of 3 averages are not scored yet"),
            "{}",
            section.caption
        );
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
